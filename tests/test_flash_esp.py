"""Espressif's chips: the real esptool, as a program, against a simulated ROM; hostile project files refused before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import picoformer, refuses, succeeds
from picoformer.flash.drives import wait_until
from picoformer.flash.program import find
from simulated_esp32c3 import SECTOR, simulated_esp32c3

_ASM = """
    .section .text
    .globl _start
_start: la sp, 0x3fcd0000
1:  la a0, words
    lw a1, 0(a0)
    addi a1, a1, {number}
    j 1b
    .section .rodata
words: .rept {words}
    .word 0xC0DBDCDD, {number}
    .endr
"""
_FILES = {"0x0": "bootloader/bootloader.bin", "0x8000": "partition_table/partition-table.bin", "0x10000": "app.bin"}


def _image(folder: Path, name: str, number: int, words: int) -> None:
    """<name>.bin of a bare program for an RV32IMC core, as ESP-IDF makes its images."""
    source, elf = folder / f"{name}.s", folder / f"{name}.elf"
    source.write_text(_ASM.format(number=number, words=words))
    places = ["-Wl,-Ttext=0x40380000", "-Wl,--section-start=.rodata=0x3FC90000", "-Wl,--build-id=none"]
    compiler = ["riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "-nostdlib", "-Wl,-N"]
    subprocess.run([*compiler, *places, str(source), "-o", str(elf)], check=True, capture_output=True)
    make = [*find(["esptool"], "esptool", ""), "--chip", "esp32c3", "elf2image", "--flash-size", "4MB"]
    subprocess.run([*make, "-o", str(folder / f"{name}.bin"), str(elf)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, riscv_tools: None) -> Path:
    """A project as `idf.py build` leaves it, for a board whose reset is not wired to the port."""
    project = tmp_path_factory.mktemp("project")
    build = project / "build"
    (build / "bootloader").mkdir(parents=True)
    (build / "partition_table").mkdir()
    _image(build, "app", 7, 1500)
    _image(build, "boot", 3, 50)
    (build / "boot.bin").rename(build / _FILES["0x0"])
    entry = struct.pack("<HBBII16sI", 0x50AA, 0, 0, 0x10000, 0x100000, b"factory", 0)
    (build / _FILES["0x8000"]).write_bytes(entry.ljust(3072, b"\xff"))
    record = {
        "write_flash_args": ["--flash_mode", "dio", "--flash_size", "4MB", "--flash_freq", "80m"],
        "flash_settings": {"flash_mode": "dio", "flash_size": "4MB", "flash_freq": "80m"},
        "flash_files": _FILES,
        "bootloader": {"offset": "0x0", "file": _FILES["0x0"], "encrypted": "false"},
        "app": {"offset": "0x10000", "file": "app.bin", "encrypted": "false"},
        "extra_esptool_args": {"after": "no_reset", "before": "no_reset", "stub": False, "chip": "esp32c3"},
    }
    (build / "flasher_args.json").write_text(json.dumps(record))
    return project


def test_a_project_is_on_the_chip_byte_for_byte(built: Path) -> None:
    with simulated_esp32c3() as chip:
        record = succeeds("flash", built, "--port", chip.port, "--json").record
    wanted = bytearray(chip.before)
    for offset, name in _FILES.items():
        data, start = (built / "build" / name).read_bytes(), int(offset, 16)
        wanted[start : start + len(data)] = data
        end = start + len(data)
        wanted[end : -(-end // SECTOR) * SECTOR] = b"\xff" * (-end % SECTOR)
    assert chip.flash == wanted
    assert (record["target"], record["method"], record["started"]) == ("esp32-c3", "esptool", False)
    assert record["verified"] == "MD5 of every file, computed by the chip" and record["found"].startswith("ESP32-C3")
    assert record["bytes"] == sum((built / "build" / name).stat().st_size for name in _FILES.values())


def test_one_image_goes_where_address_says(built: Path) -> None:
    app = built / "build" / "app.bin"
    words = ["flash", app, "--target", "esp32-c3", "--address", "0x10000", "--dry-run"]
    said = succeeds(*words, "--port", "/dev/null").out
    assert f"write {app.stat().st_size:,} bytes at 0x10000, app.bin" in said and "then: hard reset" in said


def test_a_flash_that_does_not_hold_is_reported(built: Path) -> None:
    with simulated_esp32c3(spoils=0x8000 + 100) as chip:
        refuses(["flash", built, "--port", chip.port], "esptool", "MD5", "the board holds part of an image")


def test_another_chip_is_refused_before_anything_is_erased(built: Path) -> None:
    with simulated_esp32c3(chip=9) as chip:
        refuses(["flash", built, "--port", chip.port], "esptool on ", "ESP32-S3", "ESP32-C3")
        assert chip.flash == chip.before and chip.begun == []


def test_a_port_that_is_none_is_reported(built: Path, tmp_path: Path) -> None:
    refuses(["flash", built, "--port", tmp_path / "nothing"], "nothing: there is no such port", "picoformer devices")
    refuses(["flash", built, "--port", "/dev/null"], "esptool on /dev/null: ")


def test_an_old_esptool_is_told_its_old_names(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that stands for version 4: it notes its words and says what that version says."""
    program = tmp_path / "esptool"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "if sys.argv[1:] == ['version']: print('esptool.py v4.8.1\\n4.8.1')\n"
        f"else: open({str(tmp_path / 'words')!r}, 'w').write(' '.join(sys.argv[1:])); "
        "print('Chip is ESP32-C3 (QFN32)\\n' + 3 * 'Hash of data verified.\\n')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    record = succeeds("flash", built, "--port", "/dev/null", "--json").record
    said = (tmp_path / "words").read_text()
    assert "--before no_reset --after no_reset --no-stub write_flash --flash_mode keep --flash_freq keep" in said
    assert record["found"] == "ESP32-C3 (QFN32)"
    program.write_text(program.read_text().replace("3 * 'Hash", "2 * 'Hash"))
    refuses(["flash", built, "--port", "/dev/null"], "without having compared what it wrote")


def test_an_esptool_that_is_stopped_is_stopped_with_us(built: Path, tmp_path: Path) -> None:
    """A program that stands for it: it has begun to erase, and does not heed Ctrl-C itself."""
    program = tmp_path / "esptool"
    program.write_text(
        f"#!{sys.executable}\nimport array, fcntl, os, pathlib, signal, sys, termios, time\n"
        "if sys.argv[1:] == ['version']: print('esptool v5.6.0'); sys.exit()\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('Erasing flash...', flush=True)\n"
        "left = array.array('i', [1])\n"
        "while left[0]: fcntl.ioctl(1, termios.FIONREAD, left)\n"  # until its line is read
        f"pathlib.Path({str(tmp_path / 'id')!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [sys.executable, "-m", "picoformer", "flash", str(built), "--port", "/dev/null"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert wait_until(lambda: (tmp_path / "id").is_file() and (tmp_path / "id").read_text() != "", 60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and said.startswith(
        "picoformer: stopped while erasing: the board holds part of an image"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


def _changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = to

    return change


HOSTILE = {
    "outside": (_changed("flash_files", "0x20000", to="../../secret.bin"), "leads out of the build folder"),
    "absolute": (_changed("flash_files", "0x20000", to="/etc/passwd"), "leads out of the build folder"),
    "link": (_changed("flash_files", "0x20000", to="link.bin"), "leads out of the build folder"),
    "no name": (_changed("flash_files", "0x20000", to=["app.bin"]), "names no file"),
    "not there": (_changed("flash_files", "0x20000", to="other.bin"), "other.bin: cannot be read"),
    "folder": (_changed("flash_files", "0x20000", to="bootloader"), "is a folder"),
    "option": (_changed("flash_files", "--erase-all", to="app.bin"), "'--erase-all' is no offset"),
    "negative": (_changed("flash_files", "-0x1000", to="app.bin"), "is no offset"),
    "overlap": (_changed("flash_files", "0xF000", to="app.bin"), "app.bin (", " runs into app.bin at 0x10000"),
    "beyond": (_changed("flash_files", "0x3FF000", to="app.bin"), "end beyond the 4,194,304 bytes of flash"),
    "huge offset": (_changed("flash_files", "0x10000000", to="app.bin"), "is no offset in flash"),
    "no sector": (_changed("flash_files", "0x20100", to="app.bin"), "0x20100 is not a multiple of 4096"),
    "no files": (_changed("flash_files", to={}), "has 0 files"),
    "list": (_changed("flash_files", to=[1]), "has 0 files"),
    "chip": (_changed("extra_esptool_args", "chip", to="--help"), "names no chip"),
    "other chip": (_changed("extra_esptool_args", "chip", to="esp32c6"), "is for esp32c6, which no target has"),
    "wrong image": (_changed("extra_esptool_args", "chip", to="esp32s3"), "chip number 5 and esp32-s3 has 9"),
    "before": (_changed("extra_esptool_args", "before", to="rm -rf"), "'rm -rf', not one of"),
    "stub": (_changed("extra_esptool_args", "stub", to="no"), "neither true nor false"),
    "encrypted": (_changed("app", "encrypted", to="true"), "encrypted flash"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_project_that_lies_is_refused(case: str, built: Path, tmp_path: Path) -> None:
    change, *said = HOSTILE[case]
    shutil.copytree(built / "build", tmp_path / "build")
    (tmp_path / "build" / "link.bin").symlink_to("/etc/passwd")
    path = tmp_path / "build" / "flasher_args.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    refuses(["flash", tmp_path, "--port", "/dev/null"], *said)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", '"x"', "[" * 5000, "{" * 5000 + '"a":1'])
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "flasher_args.json").write_text(text)
    refuses(["flash", tmp_path], "flasher_args.json: ", "idf.py build")


def test_what_is_no_image_for_this_chip_says_what_to_give(built: Path, tmp_path: Path) -> None:
    build = built / "build"
    refuses(["flash", build / "app.elf", "--target", "esp32-c3"], "an ELF is not what lies in the flash", "--address")
    refuses(["flash", built, "--target", "rp2040-pico"], "rp2040-pico")
    refuses(["flash", built, "--target", "esp32-s3"], "is for esp32c3 and esp32-s3 is esp32s3")
    refuses(["flash", built, "--address", "0x1000"], "--address", "leave it away")
    refuses(["flash", tmp_path], "no build of picoformer and no built ESP-IDF project")
    answer = picoformer("flash", build, "--port", "/dev/null", "--dry-run")  # the build folder itself will do
    assert answer.code == 0 and "esp32c3" in answer.out
