"""Boards that show a drive: UF2 and DAPLink, with folders for drives, a pseudo-terminal for the touch."""

from __future__ import annotations

import os
import struct
import subprocess
import termios
import threading
import time
import tty
from pathlib import Path

import pytest

from command_line import picoformer, succeeds
from picoformer.errors import DeviceError, ModelError
from picoformer.flash.boot2 import crc32
from picoformer.flash.daplink import Daplink, JlinkDrive
from picoformer.flash.devices import Port
from picoformer.flash.drives import find_drives, identify
from picoformer.flash.image import read_image
from picoformer.flash.intel_hex import read_hex
from picoformer.flash.interface import Image, Job, Segment
from picoformer.flash.uf2 import BLOCK, read_uf2, write_uf2
from picoformer.flash.uf2_drive import Uf2Drive
from picoformer.targets import load_target
from simulated_drive import DAPLINK_TEXT, UF2_TEXT, SimulatedDrive

RP2040, RP2350 = 0xE48BFF56, 0xE48BFF59
CODE = bytes(range(1, 253))
PROGRAM = CODE + struct.pack("<I", crc32(CODE)) + os.urandom(3000)
WAIT = 0.5


def pico_image(data: bytes = PROGRAM) -> Image:
    return Image(Path("program.elf"), (Segment(0x10000000, data),))


def has_all_blocks(data: bytes) -> bool:
    return len(data) >= BLOCK and len(data) == BLOCK * struct.unpack_from("<I", data, 24)[0]


@pytest.fixture
def drive(tmp_path: Path) -> SimulatedDrive:
    return SimulatedDrive(tmp_path, "RPI RP2")


def test_a_drive_takes_every_block_and_goes_away(drive: SimulatedDrive) -> None:
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    way = Uf2Drive(WAIT, 10, drive.mounts)
    with drive.takes("FIRMWARE.UF2", has_all_blocks, drive.vanish):
        outcome = way.flash(Job(pico_image(), load_target("rp2040-pico")))
    assert drive.took is not None
    found = read_uf2(drive.took, Path("taken"))
    assert found.family == RP2040 and b"".join(s.data for s in found.segments)[: len(PROGRAM)] == PROGRAM
    assert outcome.started and outcome.verified == "" and "cannot be read back" in outcome.notes[-1]


def test_a_linked_program_reaches_the_drive_with_the_crc_that_it_lacked(
    drive: SimulatedDrive, tmp_path: Path, arm_tools: None
) -> None:
    """As objcopy has it, but for the four bytes of the CRC, and zeros where no section lies."""
    codes = ", ".join(map(str, CODE))
    (tmp_path / "a.s").write_text(
        f".byte {codes}\n.word 0\n.global _start\n_start: .fill 1000, 1, 0xA5\n.data\n.word 7\n"
    )
    words = ["-nostdlib", "-mcpu=cortex-m0plus", "-Wl,-n,-Ttext=0x10000000,-Tdata=0x10001000,--build-id=none"]
    subprocess.run(["arm-none-eabi-gcc", *words, "a.s", "-o", "a.elf"], check=True, cwd=tmp_path)
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", "a.elf", "a.bin"], check=True, cwd=tmp_path)
    wanted = bytearray((tmp_path / "a.bin").read_bytes())
    wanted[252:256] = struct.pack("<I", crc32(CODE))
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    with drive.takes("FIRMWARE.UF2", has_all_blocks, drive.vanish):
        words = ["flash", str(tmp_path / "a.elf"), "--target", "rp2040-pico", "--port", str(drive.folder)]
        said = succeeds(*words).out
    assert drive.took is not None and "was given 0x" in said and "verified   no" in said
    got = bytearray(len(wanted) + 256)
    for segment in read_uf2(drive.took, tmp_path).segments:
        got[segment.address - 0x10000000 : segment.end - 0x10000000] = segment.data
    assert got[: len(wanted)] == wanted


def test_a_drive_that_stays_did_not_take_it(drive: SimulatedDrive) -> None:
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    with pytest.raises(DeviceError, match=r"still there after 0.3 s"):
        Uf2Drive(WAIT, 0.3, drive.mounts).flash(Job(pico_image(), load_target("rp2040-pico")))


@pytest.mark.parametrize("port", ["", "folder"])
def test_the_drive_of_another_board_is_left_alone(drive: SimulatedDrive, port: str) -> None:
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RP2350"))
    job = Job(pico_image(), load_target("rp2040-pico"), str(drive.folder) if port else "")
    with pytest.raises(DeviceError, match=r"is not the drive of rp2040-pico \(RPI-RP2\)|no drive .* hold BOOTSEL"):
        Uf2Drive(0.1, 0.1, drive.mounts).flash(job)
    assert [path.name for path in drive.folder.iterdir()] == ["INFO_UF2.TXT"]


def test_several_drives_are_listed(tmp_path: Path) -> None:
    drives = [SimulatedDrive(tmp_path, name) for name in ("one", "two")]
    for drive in drives:
        drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    with pytest.raises(DeviceError, match=r"several drives fit: .*one .*two .*--port FOLDER"):
        Uf2Drive(0.1, 0.1, drives[0].mounts).flash(Job(pico_image(), load_target("rp2040-pico")))


@pytest.mark.parametrize("is_named", [True, False])
def test_running_firmware_is_touched_at_1200_baud(
    drive: SimulatedDrive, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    stop = threading.Event()
    found = Port(os.ttyname(slave), "2e8a:000a", "", "", ("rp2040-pico",), False)
    monkeypatch.setattr("picoformer.flash.uf2_drive.serial_ports", lambda: [found])

    def firmware() -> None:
        """Starts the bootloader when the speed of its port becomes 1200."""
        while not stop.wait(0.005):
            if termios.tcgetattr(master)[4] == termios.B1200:
                drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
                return

    thread = threading.Thread(target=firmware, daemon=True)
    thread.start()
    try:
        with drive.takes("FIRMWARE.UF2", has_all_blocks, drive.vanish):
            job = Job(pico_image(), load_target("rp2040-pico"), found.device if is_named else "")
            assert ("touch /dev/pts/" in Uf2Drive().plan(job)[0]) == is_named
            Uf2Drive(10, 10, drive.mounts).flash(job)
    finally:
        stop.set()
        thread.join(5)
        os.close(master)
        os.close(slave)
    assert drive.took is not None


def test_what_a_rom_would_not_start_never_reaches_the_drive(drive: SimulatedDrive, tmp_path: Path) -> None:
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    pico, pico2 = load_target("rp2040-pico"), load_target("rp2350-pico2")
    way = Uf2Drive(0.1, 0.1, drive.mounts)
    with pytest.raises(ModelError, match="the ROM would not start them"):
        way.flash(Job(pico_image(b"\x01" * 3000), pico))
    with pytest.raises(ModelError, match="no image definition"):
        way.flash(Job(pico_image(), pico2))
    path = tmp_path / "x.uf2"
    path.write_bytes(write_uf2(pico_image().segments, RP2350))
    with pytest.raises(ModelError, match=r"is for RP2350, Arm \(0xe48bff59\) and rp2040-pico is RP2040"):
        way.flash(Job(read_image(path), pico))
    assert [entry.name for entry in drive.folder.iterdir()] == ["INFO_UF2.TXT"]
    definition = struct.pack("<I", 0xFFFFDED3).rjust(512, b"\0")
    way.plan(Job(pico_image(definition), pico2))


def test_a_uf2_file_says_its_board_and_is_copied_as_it_is(drive: SimulatedDrive, tmp_path: Path) -> None:
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RP2350"))
    erratum = bytearray(write_uf2((Segment(0x10FFFF00, b"\xef" * 256),), 0xE48BFF57))
    erratum[24:28] = struct.pack("<I", 2)
    program = struct.pack("<I", 0xFFFFDED3).rjust(512, b"\0") + os.urandom(100)
    file = bytes(erratum) + write_uf2((Segment(0x10000000, program),), RP2350)
    path = tmp_path / "some.uf2"
    path.write_bytes(file)
    with drive.takes("FIRMWARE.UF2", lambda data: len(data) == len(file), drive.vanish):
        record = succeeds("flash", path, "--port", drive.folder, "--json").record
    assert drive.took == file
    assert (record["target"], record["method"], record["verified"]) == ("rp2350-pico2", "uf2", None)


MICROBIT = Image(Path("m.elf"), (Segment(0, struct.pack("<II", 0x20004000, 0x101) + os.urandom(5000)),))


def is_hex(data: bytes) -> bool:
    return data.endswith(b":00000001FF\n")


@pytest.mark.parametrize("port", ["", "/dev/null", "folder"])
def test_a_daplink_drive_is_mounted_anew_when_it_is_done(tmp_path: Path, port: str) -> None:
    drive = SimulatedDrive(tmp_path, "MICROBIT")
    drive.appear(DETAILS=DAPLINK_TEXT.format(board="9900", n=0))

    def again() -> None:
        drive.vanish()
        drive.appear(DETAILS=DAPLINK_TEXT.format(board="9900", n=1))

    with drive.takes("FIRMWARE.HEX", is_hex, again):
        outcome = Daplink(WAIT, 10, drive.mounts).flash(
            Job(MICROBIT, load_target("microbit"), str(drive.folder) if port == "folder" else port)
        )
    assert drive.took is not None
    segments, _ = read_hex(drive.took, Path("taken"))
    assert b"".join(segment.data for segment in segments) == MICROBIT.segments[0].data
    assert outcome.started and outcome.verified == "the debug chip reports no failure"


@pytest.mark.parametrize("text", ["error: The hex file cannot be decoded.\r\ntype: user\r\n", ""])
def test_what_fail_txt_says_is_said(tmp_path: Path, text: str) -> None:
    drive = SimulatedDrive(tmp_path, "MICROBIT")
    drive.appear(DETAILS=DAPLINK_TEXT.format(board="9901", n=3))

    def fail() -> None:
        (drive.folder / "FAIL.TXT").write_text(text)

    said = "error: The hex file cannot be decoded. type: user" if text else "that it failed"
    with drive.takes("FIRMWARE.HEX", is_hex, fail), pytest.raises(DeviceError, match=f"FAIL.TXT: .*{said}"):
        Daplink(WAIT, 10, drive.mounts).flash(Job(MICROBIT, load_target("microbit"), str(drive.folder)))


def test_a_drive_that_does_not_come_back_leaves_it_open(tmp_path: Path) -> None:
    drive = SimulatedDrive(tmp_path, "MICROBIT")
    drive.appear(DETAILS=DAPLINK_TEXT.format(board="9900", n=0))
    with drive.takes("FIRMWARE.HEX", is_hex, drive.vanish):
        outcome = Daplink(WAIT, 0.3, drive.mounts).flash(Job(MICROBIT, load_target("microbit")))
    assert outcome.verified == "" and not outcome.started and "was not mounted again" in outcome.notes[0]
    drive.appear(DETAILS=DAPLINK_TEXT.format(board="9904", n=0))  # a micro:bit v2
    with pytest.raises(DeviceError, match="is not the DAPLink drive of microbit"):
        Daplink(WAIT, 0.3, drive.mounts).flash(Job(MICROBIT, load_target("microbit"), str(drive.folder)))


def test_the_drive_of_a_jlink_takes_a_hex_too(tmp_path: Path) -> None:
    drive = SimulatedDrive(tmp_path, "JLINK")
    drive.appear(Segger="<html>")

    def again() -> None:
        drive.vanish()
        time.sleep(0.5)
        drive.appear(Segger="<html>")

    with drive.takes("FIRMWARE.HEX", is_hex, again):
        outcome = JlinkDrive(WAIT, 10, drive.mounts).flash(Job(MICROBIT, load_target("nrf52840-dk")))
    assert drive.took is not None and outcome.verified == "the debug chip reports no failure"


def test_drives_are_told_apart(tmp_path: Path) -> None:
    first, second = SimulatedDrive(tmp_path, "a b"), SimulatedDrive(tmp_path, "c")
    first.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    second.appear(DETAILS=DAPLINK_TEXT.format(board="9900", n=7))
    other = SimulatedDrive(tmp_path / "other", "e")
    other.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))  # a folder with such a file on a disk of ours
    with first.mounts.open("a") as stream:
        stream.write(f"/dev/sda1 {other.folder} ext4 rw 0 0\n")
    found = find_drives(first.mounts)
    assert [(d.folder.name, d.kind, d.board, d.count) for d in found] == [
        ("a b", "uf2", "RPI-RP2", 0), ("c", "daplink", "9900", 7)
    ]  # fmt: skip
    assert identify(tmp_path) is None and identify(tmp_path / "none") is None
    (second.folder / "DETAILS.TXT").write_bytes(b"\xff\0" * 9000)
    assert identify(second.folder) is None


def test_without_a_drive_a_person_is_told_what_to_press(
    drive: SimulatedDrive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("picoformer.flashing.flasher", lambda kind: Uf2Drive(0.1, 0.1, drive.mounts))
    path = tmp_path / "x.uf2"
    path.write_bytes(write_uf2(pico_image().segments, RP2040))
    answer = picoformer("flash", path)
    lines = answer.err.splitlines()
    assert answer.code == 1 and len(lines) == 2
    assert lines[0].startswith("picoformer: hold BOOTSEL while you plug the board in") and "waiting" in lines[0]
    assert "no drive of rp2040-pico is mounted" in lines[1]
