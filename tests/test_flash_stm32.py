"""STM32 boards by their ROM: our client against a simulated one, its flash compared byte for byte, faults reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import graphs
from command_line import picoformer, refuses, succeeds
from picoformer.backends.onnx.export import export_onnx
from picoformer.errors import DeviceError, PicoformerError
from picoformer.flash.interface import Image, Job, Phase, Segment
from picoformer.flash.serial_line import SerialLine
from picoformer.flash.stm32 import Stm32Rom, padded
from picoformer.flash.stm32_chips import CHIPS
from picoformer.flash.stm32_rom import Waits
from picoformer.targets import Target, list_targets, load_target
from simulated_stm32 import F405, F446, FLASH, Faults, SimulatedStm32, simulated_stm32

SHORT = Waits(sync=0.1, answer=0.3, byte=0.02, write=1.0, erase=1.0)


def board(product: int = 0x421) -> Target:
    """The Nucleo, with another chip's id where one is asked for."""
    target = load_target("stm32f446-nucleo")
    assert target.flasher is not None
    return target.model_copy(update={"flasher": target.flasher.model_copy(update={"chip_ids": [product]})})


def firmware(size: int = 20000, start: int = FLASH) -> Image:
    """Random bytes behind vectors that the Nucleo could start."""
    data = struct.pack("<II", 0x20020000, 0x08000101) + os.urandom(size - 8)
    return Image(Path("some.bin"), (Segment(start, data),))


def flashed(chip: SimulatedStm32, image: Image, product: int = 0x421) -> None:
    Stm32Rom(SHORT).flash(Job(image, board(product), chip.port))


def assert_holds(chip: SimulatedStm32, image: Image) -> None:
    """The image, and in every other sector what was there before."""
    wanted = bytearray(chip.before)
    for number, size in enumerate(chip.sectors):
        start = sum(chip.sectors[:number])
        if any(s.address < FLASH + start + size and FLASH + start < s.end for s in image.segments):
            wanted[start : start + size] = b"\xff" * size
    for segment in image.segments:
        wanted[segment.address - FLASH : segment.end - FLASH] = segment.data
    assert chip.flash == wanted


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> Path:
    """The folder of a build for the Nucleo."""
    folder, case = tmp_path_factory.mktemp("model"), graphs.prenorm_encoder()
    export_onnx(case.graph, folder / "model.onnx")
    np.savez(folder / "samples.npz", **case.samples)
    words = ["build", folder / "model.onnx", "--calibration", folder / "samples.npz", "--target", "stm32f446-nucleo"]
    succeeds(*words, "-o", folder / "out")
    return folder / "out"


def test_a_build_is_on_the_board_byte_for_byte_and_started_at_its_vector(out: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.bin"
    elf = out / "stm32f446-nucleo" / "firmware.elf"
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", "--gap-fill", "0xff", elf, plain], check=True)
    wanted = plain.read_bytes()
    with simulated_stm32() as chip:
        answer = picoformer("flash", out, "--port", chip.port, "--json")
    assert answer.code == 0, answer.err
    record = answer.record
    assert chip.flash[: len(wanted)] == wanted
    assert chip.started == struct.unpack_from("<II", wanted)
    touched = next(n for n in range(1, 9) if sum(F446[:n]) >= len(wanted))
    assert chip.erased == list(range(touched)) and record["erased_bytes"] == sum(F446[:touched])
    assert chip.flash[sum(F446[:touched]) :] == chip.before[sum(F446[:touched]) :]
    assert record["started"] is True and record["verified"] and record["written_bytes"] == record["bytes"]
    assert record["next"].startswith(f"picoformer verify {out} --inputs ")
    with simulated_stm32() as chip:
        printed = picoformer("flash", elf, "--port", chip.port).out  # the ELF of a build is that build
        assert chip.flash[: len(wanted)] == wanted
    assert "STM32F446 (id 0x421)" in printed and f"next       picoformer verify {out} --inputs" in printed


def test_a_build_that_is_no_firmware_says_what_to_do(out: Path, tmp_path: Path) -> None:
    refuses(["flash", out, "--address", "0"], "a build says itself where it lies")
    refuses(
        ["flash", out, "--target", "stm32f411-nucleo"], "was built for stm32f446-nucleo; build it for stm32f411-nucleo"
    )
    old = tmp_path / "old"
    shutil.copytree(out, old)
    record = json.loads((old / "target.json").read_text())
    del record["flasher"]  # as a build had it before targets said how they are flashed
    (old / "target.json").write_text(json.dumps(record))
    assert succeeds("flash", old, "--dry-run", "--json").record["method"] == "stm32"
    for name, said in (
        ("esp32-c3", "is a library for a project of ESP-IDF, no firmware; put "),
        ("host", "was built for this machine; build it with --target and a board"),
        ("microbit", "has no microbit/firmware.elf"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "target.json").write_text(load_target(name).model_dump_json())
        (folder / "build.json").write_text((out / "build.json").read_text())
        refuses(["flash", folder], said)


def test_only_sectors_that_are_needed_are_erased_and_gaps_stay_erased() -> None:
    pieces = (Segment(FLASH, firmware(100).segments[0].data), Segment(FLASH + 0xC123, os.urandom(0x8001)))
    image = Image(Path("some.elf"), pieces)
    with simulated_stm32(0x413, F405) as chip:
        flashed(chip, image, 0x413)
    assert chip.erased == [0, 3, 4] and chip.started == (0x20020000, 0x08000101)
    assert_holds(chip, image)


def test_progress_is_told_from_the_connection_to_the_start() -> None:
    told: list[tuple[Phase, int, int]] = []
    with simulated_stm32() as chip:
        job = Job(firmware(5000), board(), chip.port, progress=lambda *state: told.append(state))
        Stm32Rom(SHORT).flash(job)
    assert list(dict.fromkeys(phase for phase, _, _ in told)) == list(Phase)
    for phase in Phase:
        states = [(done, total) for told_of, done, total in told if told_of is phase]
        assert states[0][0] == 0 and states[-1][0] == states[-1][1] > 0 and states == sorted(states)
    assert len([phase for phase, _, _ in told if phase is Phase.WRITE]) > 10


def test_what_is_erased_already_is_not_sent() -> None:
    image = Image(Path("x"), (Segment(FLASH, firmware(256).segments[0].data + b"\xff" * 4096 + b"end!"),))
    with simulated_stm32() as chip:
        flashed(chip, image)
    assert chip.commands.count(0x31) == 2
    assert_holds(chip, image)


def test_a_part_without_vectors_is_written_and_not_started() -> None:
    image = firmware(1000, FLASH + 0x20000)
    with simulated_stm32() as chip:
        outcome = Stm32Rom(SHORT).flash(Job(image, board(), chip.port))
    assert (chip.erased, chip.started, outcome.started) == ([5], None, False)
    assert_holds(chip, image)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(nacks={0x31: 2, 0x11: 1, 0x44: 1, 0x02: 1, 0x00: 1}),
        Faults(lost_in={40}),
        Faults(lost_in={200}),
        Faults(lost_in={3, 4, 700, 5000, 5001, 5002}),
        Faults(lost_out={25}),
        Faults(lost_out={18, 19, 30, 31, 32, 60}),
        Faults(lost_out={200, 400}),
        Faults(lost_out={33}, is_strict=True),
    ],
    ids=str,
)
def test_what_the_line_loses_is_sent_again(faults: Faults) -> None:
    image = firmware(6000)
    with simulated_stm32(faults=faults) as chip:
        flashed(chip, image)
    assert_holds(chip, image)
    assert chip.started is not None


def test_a_bootloader_in_the_middle_of_a_write_is_brought_back() -> None:
    image = firmware(1000)
    with simulated_stm32() as chip:
        descriptor = os.open(chip.port, os.O_RDWR | os.O_NOCTTY)
        os.write(descriptor, bytes([0x7F, 0x31, 0xCE, 0x08, 0, 0, 0, 0x08, 0xFF, 1, 2, 3]))  # as somebody left it
        os.close(descriptor)
        flashed(chip, image)
    assert_holds(chip, image)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 10, 40])
def test_a_bootloader_that_goes_silent_is_reported(after: int) -> None:
    with simulated_stm32(faults=Faults(silent_after=after)) as chip, pytest.raises(DeviceError, match="silent"):
        flashed(chip, firmware(6000))
    assert chip.started is None


def test_without_a_bootloader_the_board_says_what_to_press() -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(DeviceError) as caught:
            Stm32Rom(SHORT).flash(Job(firmware(), board(), os.ttyname(slave)))
    finally:
        os.close(master)
        os.close(slave)
    assert "no STM32 bootloader answers on /dev/pts/" in str(caught.value) and "connect BOOT0 to VDD" in str(
        caught.value
    )
    assert "refuses even parity" in str(caught.value)


def test_another_chip_and_a_protected_one_are_refused_before_anything_is_erased() -> None:
    with simulated_stm32(product=0x413, sectors=F405) as chip:
        with pytest.raises(
            DeviceError, match=r"is STM32F405.* \(id 0x413\) and stm32f446-nucleo has STM32F446.*nothing was"
        ):
            flashed(chip, firmware())
        assert chip.flash == chip.before
    with simulated_stm32(is_protected=True) as chip:
        with pytest.raises(DeviceError, match=r"read-protected.*nothing was erased"):
            flashed(chip, firmware())
        assert chip.flash == chip.before and 0x44 not in chip.commands


def test_a_byte_that_does_not_hold_is_named() -> None:
    with simulated_stm32(faults=Faults(weak=FLASH + 0x345)) as chip:
        with pytest.raises(DeviceError, match=r"at 0x08000345 where 0x.. was written"):
            flashed(chip, firmware())
        assert chip.started is None


def test_a_write_that_is_refused_for_good_says_what_the_board_holds(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(firmware(3000).segments[0].data)
    with simulated_stm32(faults=Faults(nacks={0x31: 99})) as chip:
        refuses(
            ["flash", path, "--address", "0x08000000", "--target", "stm32f446-nucleo", "--port", chip.port],
            "refused to write at the command: the chip is protected",
            "the board holds part of an image",
            "run the same command again",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "address", "said"),
    [
        (struct.pack("<II", 0x20020000, 0x08000101), "0x08080000", "outside the flash of stm32f446-nucleo"),
        (struct.pack("<II", 0x20020000, 0x08000101) * 0x20000, "0x08000000", "outside the flash of stm32f446-nucleo"),
        (struct.pack("<II", 0x20020004, 0x08000101), "0x08000000", "begins with stack pointer 0x20020004"),
        (struct.pack("<II", 0x20020000, 0x10000101), "0x08000000", "reset handler 0x10000101"),
        (struct.pack("<II", 0x20020000, 0x08000100), "0x08000000", "reset handler 0x08000100"),
    ],
)
def test_an_image_for_elsewhere_never_reaches_the_board(data: bytes, address: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    with simulated_stm32() as chip:
        refuses(["flash", path, "--address", address, "--target", "stm32f446-nucleo", "--port", chip.port], said)
        assert chip.commands == []


def test_sectors_that_are_refused_are_explained() -> None:
    with (
        simulated_stm32(sectors=F446[:2]) as chip,
        pytest.raises(DeviceError, match="refused to erase at the sectors: one is"),
    ):
        flashed(chip, firmware(40000))


def test_a_dry_run_touches_nothing_and_tells_it_all(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(firmware(40000).segments[0].data)
    with simulated_stm32() as chip:
        words = [
            "flash",
            path,
            "--address",
            "0x8000000",
            "--target",
            "stm32f446-nucleo",
            "--port",
            chip.port,
            "--dry-run",
        ]
        printed, record = picoformer(*words).out, picoformer(*words, "--json").record
        assert chip.commands == []
    assert "erase 3 sectors (49,152 bytes): 0 to 2" in printed
    assert "start at 0x08000101, by the vectors at 0x08000000" in printed and "--method pyocd" in printed
    assert record["dry_run"] is True and record["verified"] is None and len(record["steps"]) == 5


def test_a_flasher_that_is_stopped_says_what_the_board_holds(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(firmware(6000).segments[0].data)
    with simulated_stm32(faults=Faults(pause=0.3)) as chip:
        is_writing = threading.Event()
        chip.at_write = is_writing.set
        words = ["flash", path, "--address", "0x08000000", "--target", "stm32f446-nucleo", "--port", chip.port]
        process = subprocess.Popen(
            [sys.executable, "-m", "picoformer", *map(str, words)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert is_writing.wait(60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and out == ""
    assert err.splitlines() == [
        "picoformer: stopped while writing: the board holds part of an image and will not start it; run the same "
        "command again, nothing is lost"
    ]


def test_modem_lines_that_are_missing_are_no_trap() -> None:
    with simulated_stm32() as chip, pytest.raises(DeviceError, match="has no RTS and DTR; leave --wiring away"):
        Stm32Rom(SHORT).flash(Job(firmware(), board(), chip.port, wiring="boot0=!rts,reset=dtr"))


def test_a_wired_board_is_reset_with_boot0_high_and_again_with_it_low(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, bool]] = []
    monkeypatch.setattr(SerialLine, "set_modem_lines", lambda line, levels: bool(said.append(dict(levels))) or True)
    with simulated_stm32() as chip:
        image = firmware(1000, FLASH + 0x20000)  # nothing that GO could start
        outcome = Stm32Rom(SHORT).flash(Job(image, board(), chip.port, wiring="boot0=!rts,reset=dtr"))
    assert said == [{"rts": False, "dtr": True}, {"dtr": False}, {"rts": True, "dtr": True}, {"dtr": False}]
    assert outcome.started


@pytest.mark.parametrize("text", ["boot0", "boot0=cts", "boot0=rts,reset=rts", "boot0=rts,boot0=dtr", "x=rts"])
def test_a_wiring_that_makes_no_sense_is_refused(text: str) -> None:
    with simulated_stm32() as chip, pytest.raises(PicoformerError, match="--wiring"):
        Stm32Rom(SHORT).flash(Job(firmware(), board(), chip.port, wiring=text))


def test_units_of_flash_are_filled_up() -> None:
    image = Image(Path("x"), (Segment(0x08000003, b"abc"), Segment(0x08000007, b"d"), Segment(0x08000041, b"e")))
    found = padded(image, 32).segments
    assert found == (
        Segment(0x08000000, b"\xff\xff\xffabc\xffd" + b"\xff" * 24),
        Segment(0x08000040, b"\xffe" + b"\xff" * 30),
    )


def test_the_chips_of_our_boards_are_those_of_their_manuals() -> None:
    assert [size for _, size in CHIPS[0x413].sectors()] == F405 and [size for _, size in CHIPS[0x421].sectors()] == F446
    for name in list_targets():
        target = load_target(name)
        if target.flasher is not None and target.flasher.kind == "stm32":
            chip = CHIPS[target.flasher.chip_ids[0]]
            flash = target.region("code")
            assert chip.name.split(",")[0].split("x")[0][:8] in target.description
            assert flash.origin == FLASH and sum(size for _, size in chip.sectors()) == flash.length
