"""The resident bootloader on emulated boards: built, flashed over a line, verified; what it refuses."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import device_fixture
from bootloader_board import BootloaderBoard, SmallFirmware, small_firmware
from command_line import Workshop, open_workshop, picoformer, refuses, succeeds
from picoformer.bootloader import behind_bootloader, build_bootloader
from picoformer.build_folder import read_target
from picoformer.emulator.session import open_device
from picoformer.errors import ConfigError, DeviceError, FitError, ModelError
from picoformer.firmware import build_firmware, load_build
from picoformer.flash.interface import Image, Job
from picoformer.flash.resident import Resident, refuse_unfit, transfer
from picoformer.flashing import Request, open_output
from picoformer.link.boot import Bootloader, BootMessage, SlotState
from picoformer.link.device import Device
from picoformer.link.exchange import FaultError, NoAnswerError, RefusedError
from picoformer.link.frames import encode_frame
from picoformer.link.transport import DescriptorTransport
from picoformer.slot_image import IMAGE, lay_out, make_image, split_image
from picoformer.targets import Target, list_targets, load_target

EMULATED = ["microbit", "mps2-an385", "mps2-an505"]
WITH_BOOTLOADER = [name for name in list_targets() if load_target(name).bootloader is not None]
NOTE_BYTES, STACK_BYTES = 16, 2048  # firmware/bootloader/link.ld.in
Made = Callable[[str, int], SmallFirmware]


@pytest.fixture(scope="module")
def made(arm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Target and number → small firmware with fault tests, built once."""

    @cache
    def make(name: str, number: int) -> SmallFirmware:
        return small_firmware(name, tmp_path_factory.mktemp("made") / "it", number, fault_tests=True)

    return make


@pytest.fixture(scope="module")
def shop(arm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def board(made: Made) -> Iterator[tuple[BootloaderBoard, DescriptorTransport]]:
    """A micro:bit with a bootloader and an empty slot, and its line."""
    with empty(made("microbit", 0)) as found:
        line = found.open()
        found.go()
        yield found, line


def empty(firmware: SmallFirmware, slot: bytes = b"", *, pty: bool = False) -> BootloaderBoard:
    return BootloaderBoard(firmware.target, firmware.elf.with_name("bootloader.elf"), slot, pty=pty)


def job_of(folder: Path, port: str) -> Job:
    """As the command `flash` has it of a build folder."""
    image, target, _ = open_output(Request(folder))
    return Job(image, target, port, folder=folder)


def flash(folder: Path, port: str, *more: str) -> str:
    """Flash a build folder by command; how many pages were sent."""
    record = succeeds("flash", folder, "--port", port, "--json", *more).record
    assert record["method"] == "resident" and record["started"] and record["verified"]
    return str(record["notes"][0])


def other_weights(shop: Workshop, folder: Path) -> Workshop:
    """The same model trained on a little: no number is what it was."""
    folder.mkdir()
    model = onnx.load(shop.model)
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            moved = values * rng.uniform(0.998, 1.002, values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, folder / "model.onnx")
    for path in (shop.calibration, shop.inputs):
        (folder / path.name).write_bytes(path.read_bytes())
    return Workshop(folder)


# The whole way.


@pytest.mark.parametrize("name", EMULATED)
def test_built_flashed_and_verified(shop: Workshop, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    record = succeeds(
        *shop.build_words(out, name, "--scheme", "int8x16", "--bootloader", "--image-version", "7", "--json")
    ).record
    target = read_target(out)
    data = (out / name / IMAGE).read_bytes()
    header, content = split_image(data, "it")
    assert (header.target, header.version) == (name, 7)
    assert record["image"] == {
        "file": str(out / name / IMAGE), "bytes": len(data), "version": 7,
        "slot_bytes": load_target(name).region("code").length - 8192,
    }  # fmt: skip
    with BootloaderBoard(target, out / name / "bootloader.elf", pty=True) as board:
        board.go()
        said = flash(out, board.port)
        pages = -(-len(content) // (target.bootloader.page_bytes if target.bootloader else 0))
        assert said.startswith(f"pages sent {pages} of {pages}")
        assert board.slot()[: len(content)] == lay_out(data, load_target(name).bootloader.page_bytes)[: len(content)]  # type: ignore[union-attr]
        verified = succeeds("verify", out, "--inputs", shop.inputs, "--port", board.port, "--json").record
        assert verified["passed"] and verified["links"][-1]["to"] == board.port
        assert flash(out, board.port).startswith(f"pages sent 0 of {pages}")  # from firmware that runs
        if name != "microbit":
            return
        # The numbers alone, in a scheme that chooses no types by them: code stays, and its pages are not sent.
        again = tmp_path / "again"
        succeeds(
            *other_weights(shop, tmp_path / "other").build_words(again, name, "--scheme", "int8x16", "--bootloader")
        )
        code = [read_code(folder / name / "firmware.elf") for folder in (out, again)]
        assert code[0] == code[1]
        sent = int(flash(again, board.port).split()[2])
        assert 0 < sent <= pages - len(code[0]) // target.bootloader.page_bytes  # type: ignore[union-attr]
        assert succeeds("verify", again, "--inputs", shop.inputs, "--port", board.port, "--json").record["passed"]
        line = refuses(["verify", out, "--inputs", shop.inputs, "--port", board.port], "runs another model")
        assert "flash this build first" in line
        assert flash(again, board.port, "--all").startswith(f"pages sent {pages} of {pages}")


def read_code(elf: Path) -> bytes:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        return bytes(ELFFile(stream).get_section_by_name(".text").data())


@pytest.mark.parametrize("emulator", ["qemu", "unicorn"])
def test_an_emulator_runs_it_behind_its_bootloader(shop: Workshop, emulator: str) -> None:
    """The same instructions as without one."""
    plain, placed = shop.build("microbit"), shop.build("microbit", "--bootloader")
    figures = [
        succeeds("emulate", folder, "--inputs", shop.inputs, "--emulator", emulator, "--json").record
        for folder in (plain, placed)
    ]
    assert figures[0]["instructions_per_inference"] == figures[1]["instructions_per_inference"] > 0
    if emulator == "qemu":
        (placed / "microbit" / "bootloader.elf").rename(placed / "microbit" / "away")
        try:
            refuses(["emulate", placed, "--inputs", shop.inputs], "bootloader.elf", "build with --bootloader again")
        finally:
            (placed / "microbit" / "away").rename(placed / "microbit" / "bootloader.elf")


BAD_WRITE, OVERFLOW, HANG, UNDEFINED = 1, 3, 4, 5
FAULTS = {
    BAD_WRITE: "bad memory access in pf_test_bad_write",
    OVERFLOW: "stack overflow in pf_test_stack_overflow",
    HANG: r"hang \(watchdog\) in pf_test_hang",
    UNDEFINED: "undefined instruction in pf_test_undefined",
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("microbit", kind) for kind in (OVERFLOW, HANG, UNDEFINED)),  # nothing forbids a write to address 0 there
     *(("mps2-an385", kind) for kind in FAULTS), *(("mps2-an505", kind) for kind in FAULTS)],
)  # fmt: skip
def test_faults_behind_a_bootloader_are_the_firmwares(made: Made, name: str, kind: int) -> None:
    """On the micro:bit, whose core has one vector table, they come by the bootloader's."""
    firmware = made(name, 0)
    build = load_build(firmware.elf.parent, firmware.target)
    with pytest.raises(FaultError, match=FAULTS[kind]), open_device(build, firmware.target) as session:
        session.device.fault_test(kind)


# What the bootloader is, and what it takes.


@pytest.mark.parametrize("name", WITH_BOOTLOADER)
def test_a_bootloader_fits_what_is_reserved_for_it(arm_tools: None, tmp_path: Path, name: str) -> None:
    record = succeeds("bootloader", "--target", name, "-o", tmp_path, "--json").record
    target = load_target(name)
    assert target.bootloader is not None
    assert 0 < record["flash_bytes"] <= record["reserved_bytes"] == target.bootloader.bytes <= 8192
    assert record["ram_bytes"] <= 8192
    binary = (tmp_path / "bootloader.bin").read_bytes()
    assert len(binary) == record["flash_bytes"]
    stack, reset = struct.unpack_from("<II", binary)
    assert target.region("data").origin < stack <= target.region("data").end
    assert target.region("code").origin <= reset < target.region("code").origin + len(binary)
    assert hex_bytes(tmp_path / "bootloader.hex") == {target.region("code").origin + i: b for i, b in enumerate(binary)}
    assert "of 8,192 reserved" in succeeds("bootloader", "--target", name, "-o", tmp_path).out


def hex_bytes(path: Path) -> dict[int, int]:
    """Intel HEX, read again from its own document: address → byte."""
    found, base, lines = {}, 0, path.read_text().splitlines()
    assert lines[-1] == ":00000001FF"
    for line in lines[:-1]:
        record = bytes.fromhex(line[1:])
        assert sum(record) & 0xFF == 0
        count, at, kind, data = record[0], int.from_bytes(record[1:3], "big"), record[3], record[4:-1]
        assert count == len(data)
        if kind == 4:
            base = int.from_bytes(data, "big") << 16
        else:
            assert kind == 0
            found.update({base + at + i: byte for i, byte in enumerate(data)})
    return found


def test_a_bootloader_that_is_too_large_is_refused(arm_tools: None, tmp_path: Path) -> None:
    target = load_target("microbit")
    assert target.bootloader is not None
    small = target.model_copy(update={"bootloader": target.bootloader.model_copy(update={"bytes": 2048})})
    with pytest.raises(
        FitError, match=r"the bootloader of microbit needs [\d,]+ bytes and \[bootloader\] reserves 2,048"
    ):
        build_bootloader(small, tmp_path)
    assert not list(tmp_path.iterdir())


def test_firmware_that_does_not_fit_is_told_of_the_slot(arm_tools: None, tmp_path: Path) -> None:
    plain = load_target("microbit")
    memory = [plain.memory[0].model_copy(update={"length": 0x2C00}), plain.memory[1]]
    target = behind_bootloader(plain.model_copy(update={"memory": memory}))
    model = device_fixture.write_model(tmp_path / "model")
    with pytest.raises(FitError, match=r"flash \(slot\) needs [\d,]+ bytes and has 2,048"):
        build_firmware(model, target, tmp_path / "out")


def test_what_a_person_gets_wrong(shop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    known = "microbit, mps2-an385, mps2-an505"
    refuses(shop.build_words(out, "mps2-an386", "--bootloader"), "mps2-an386 has no [bootloader]", known)
    refuses(shop.build_words(out, "host", "--bootloader"), "host has no [bootloader]")
    refuses(shop.build_words(out, "microbit", "--image-version", "3"), "--image-version", "--bootloader too")
    refuses(["bootloader", "--target", "host", "-o", out], "host has no [bootloader]")
    assert picoformer("bootloader", "--target", "microbit").code == 2
    assert not out.exists()
    plain = shop.build("microbit")
    with pytest.raises(ModelError, match=r"firmware.img is missing: .* build with --bootloader"):
        Resident().plan(job_of(plain, "x"))
    placed = shop.build("microbit", "--bootloader")
    with pytest.raises(ConfigError, match="say --port"):
        Resident().flash(job_of(placed, ""))
    with pytest.raises(DeviceError, match="cannot be opened"):
        Resident().flash(job_of(placed, str(tmp_path / "no-port")))
    with pytest.raises(ModelError, match=r"is for microbit, not for mps2-an385"):
        Resident().plan(replace(job_of(placed, "x"), target=load_target("mps2-an385")))


def test_an_image_that_is_none(shop: Workshop, tmp_path: Path) -> None:
    data = (shop.build("microbit", "--bootloader") / "microbit" / IMAGE).read_bytes()
    path = tmp_path / IMAGE

    def plan() -> None:
        Resident().plan(Job(Image(path, ()), load_target("microbit"), "x"))

    for content, said in (
        (b"", "is no image for a bootloader"),
        (data[:90], "is no image for a bootloader"),
        (b"ELF!" + data[4:], "is no image for a bootloader"),
        (data[:-4], "its header says"),
        (data + bytes(4), "its header says"),
        (data[:500] + bytes([data[500] ^ 1]) + data[501:], "is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=said):
            plan()
    path.write_bytes(data)
    plan()
    elf = job_of(shop.build("microbit", "--bootloader"), "x")
    with pytest.raises(ModelError, match=r"is not the image of firmware.elf beside it"):
        Resident().plan(replace(elf, image=replace(elf.image, segments=elf.image.segments[:-1])))


# What a board refuses, and that it is none the worse for it.


def test_a_transfer_leaves_room_on_the_bootloaders_stack(
    made: Made, board: tuple[BootloaderBoard, DescriptorTransport]
) -> None:
    """An eighth of it at least is what it was when the emulator began, zeros."""
    qemu, line = board
    loader = Bootloader(line)
    transfer(loader, loader.connect(10), *made("microbit", 0).parts)
    assert loader.identify().state == SlotState.VALID
    stack = qemu.memory(qemu.target.region("data").origin + NOTE_BYTES, STACK_BYTES)
    assert stack.lstrip(b"\0") and len(stack) - len(stack.lstrip(b"\0")) > STACK_BYTES // 8


def still_fine(board: BootloaderBoard, line: DescriptorTransport, firmware: SmallFirmware) -> None:
    loader = Bootloader(line)
    info = loader.connect(10)
    transfer(loader, info, *firmware.parts, start=True)
    assert Device(line).hello().identity == firmware.identity


def test_a_foreign_image_never_starts(
    made: Made, board: tuple[BootloaderBoard, DescriptorTransport], tmp_path: Path
) -> None:
    qemu, line = board
    other, own = made("mps2-an385", 0), made("microbit", 0)
    loader = Bootloader(line)
    info = loader.connect(10)
    with pytest.raises(DeviceError, match=r"bootloader is that of microbit, the image is for mps2-an385; nothing was"):
        refuse_unfit(info, other.parts[0])
    with pytest.raises(RefusedError, match="refused 'begin': it is an image for another target"):
        loader.begin(other.parts[0].pack())
    with pytest.raises(FitError, match=r"the image has 300,000 bytes, the slot takes 252,928"):
        refuse_unfit(info, replace(own.parts[0], length=300_000))
    with pytest.raises(DeviceError, match="its bootloader is another one"):
        refuse_unfit(info, replace(own.parts[0], load=0x4400))
    still_fine(qemu, line, own)
    for firmware, state in (
        (other, "an image for another target"),
        (made("microbit", 1), "is not what its header says"),
    ):
        slot = bytearray(firmware.laid_out)
        slot[-1] ^= firmware is not other
        with empty(own, bytes(slot)) as harmed:
            line = harmed.open()
            harmed.go()
            time.sleep(0.5)
            with pytest.raises(DeviceError, match=f"is in its bootloader, which has .*{state}"):
                Device(line).hello()
            still_fine(harmed, line, own)


def test_damaged_frames_and_nonsense(made: Made, board: tuple[BootloaderBoard, DescriptorTransport]) -> None:
    qemu, line = board
    before = qemu.slot()
    header, content = made("microbit", 0).parts
    loader = Bootloader(line)
    loader.connect(10)
    loader.begin(header.pack())
    good = encode_frame(bytes([9, BootMessage.WRITE]) + struct.pack("<I", 1024) + content[:256])
    for frame in (good[:40] + bytes([good[40] ^ 1]) + good[41:], good[:100] + b"\0", b"\1\1\0", b"\xff" * 2000 + b"\0"):
        line.write(b"\0" + frame, 5)
    assert loader.identify().is_receiving
    assert qemu.slot()[1024:2048] == before[1024:2048], "nothing of a damaged frame was written"
    still_fine(qemu, line, made("microbit", 0))


def hanging(target: Target) -> bytes:
    """An image that is whole, and does nothing but hang: its reset handler jumps to itself."""
    code = target.region("code").origin
    return make_image(
        struct.pack("<II", target.region("data").end, code + 256 + 1).ljust(256, b"\xff") + b"\xfe\xe7" * 8,
        target.name, code, bytes(16),
    )  # fmt: skip


@pytest.mark.parametrize("name", EMULATED)
def test_firmware_that_hangs_is_replaced_after_a_reset(made: Made, tmp_path: Path, name: str) -> None:
    firmware = made(name, 0)
    assert firmware.target.bootloader is not None
    patient = firmware.target.bootloader.model_copy(update={"window_ms": 5000})
    built = build_bootloader(firmware.target.model_copy(update={"bootloader": patient}), tmp_path)
    header, content = split_image(hanging(firmware.target), "it")
    with BootloaderBoard(firmware.target, built.elf) as board:
        line = board.open()
        board.go()
        loader = Bootloader(line)
        transfer(loader, loader.connect(10), header, content, start=True)
        with pytest.raises(NoAnswerError, match="did not answer"):
            Bootloader(line).connect(0.5)
        board.stop()
        board.reset()
        board.go()
        time.sleep(0.5)  # well into its window
        still_fine(board, line, firmware)


def test_a_bootloader_that_was_asked_for_stays_for_longer(made: Made) -> None:
    """The note in RAM: firmware that is asked for its bootloader does not come back within the usual time."""
    firmware = made("microbit", 0)
    with empty(firmware, firmware.laid_out) as board:
        line = board.open()
        board.go()
        assert Device(line).hello().identity == firmware.identity
        loader = Bootloader(line)
        with pytest.raises(RefusedError):
            loader.identify()
        loader.enter()
        time.sleep(1.0)
        assert Bootloader(line).identify().state == SlotState.VALID
        board.reset()  # the note was taken: after the next reset the firmware runs
        time.sleep(0.6)
        with pytest.raises(RefusedError, match="does not know this message"):
            Bootloader(line).identify()


def test_firmware_without_a_bootloader_says_so(shop: Workshop) -> None:
    folder = shop.build("microbit")
    target = read_target(folder)
    from picoformer.emulator.session import emulator_for

    running = emulator_for(target, count=False).start(folder / "microbit" / "firmware.elf", target)
    try:
        with pytest.raises(DeviceError, match="is not behind a bootloader; put one on the board once"):
            Bootloader(running.transport).connect(10)
    finally:
        running.close()
