"""A board with its bootloader in QEMU: reset, power cuts, its flash looked at; and small firmware to put on it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import device_fixture
from picoformer.bootloader import build_bootloader, write_image
from picoformer.emulator.qemu import _keep_on_one_core
from picoformer.firmware import build_firmware
from picoformer.link.transport import DescriptorTransport
from picoformer.slot_image import ImageHeader, lay_out, split_image
from picoformer.targets import Target, bootloaded, load_target

_SECONDS = 20.0


@dataclass(frozen=True)
class SmallFirmware:
    """The tiny model linked for the slot of a target; `identity` is its own."""

    target: Target
    elf: Path
    image: Path
    identity: bytes

    @property
    def parts(self) -> tuple[ImageHeader, bytes]:
        return split_image(self.image.read_bytes(), str(self.image))

    @property
    def laid_out(self) -> bytes:
        """What the slot holds of it."""
        assert self.target.bootloader is not None
        return lay_out(self.image.read_bytes(), self.target.bootloader.page_bytes)


def small_firmware(name: str, folder: Path, number: int = 0, *, fault_tests: bool = False) -> SmallFirmware:
    """Variant `number` of the tiny model: other constants, another identity; odd ones have other code too.

    Its bootloader lies beside it.
    """
    plain = load_target(name)
    plain = plain.model_copy(update={"watchdog": plain.watchdog.model_copy(update={"seconds": 1})})
    target = bootloaded(plain, number)
    identity = bytes([number + 1] * 16)
    stated = ", ".join(map(str, identity))
    source = device_fixture.TILED_DEVICE_C if number % 2 else device_fixture.DEVICE_C
    device_c = re.sub(r"\.identity = \{[^}]*\}", f".identity = {{{stated}}}", source)
    model_c = device_fixture.TILED_MODEL_C if number % 2 else device_fixture.MODEL_C
    model = device_fixture.write_model(folder / "model", device_c=device_c, model_c=model_c)
    weights = model / "weights.c"
    table = ", ".join(str(value ^ number) for value in device_fixture.weights())
    weights.write_text(re.sub(r"\{[\d, ]*\}", f"{{{table}}}", weights.read_text()))
    built = build_firmware(model, target, folder / "out", fault_tests=fault_tests, strict=True)
    build_bootloader(target, folder / "out", strict=True)
    return SmallFirmware(target, built.elf, write_image(built.elf, target, folder / "out", identity), identity)


class BootloaderBoard:
    """QEMU with a bootloader in its flash, and in the slot what `slot` holds (as it is, at its beginning)."""

    def __init__(self, target: Target, bootloader: Path, slot: bytes = b"", *, pty: bool = False) -> None:
        choice = target.emulator
        assert choice is not None
        self.target = target
        self.folder = Path(tempfile.mkdtemp(prefix="board-"))
        self._line: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        try:
            command = [choice.program, "-M", choice.machine, "-display", "none", "-monitor", "none", "-S"]
            command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(bootloader)]
            if slot:
                (self.folder / "slot").write_bytes(slot)
                place = f"file={self.folder / 'slot'},addr={target.slot_region.origin:#x}"
                command += ["-device", f"loader,{place},force-raw=on"]
            wire = "pty,id=wire" if pty else f"socket,id=wire,path={self.folder / 'uart'},server=on,wait=off"
            command += ["-chardev", wire, "-serial", "chardev:wire"]
            command += ["-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            _keep_on_one_core(self.process.pid)
            self._qmp = _connect(self.folder / "qmp")
            self._answers = self._qmp.makefile("r")
            self._answers.readline()
            self.ask("qmp_capabilities")
            self.port = str(self._pty()) if pty else ""
        except BaseException:
            self.close()
            raise

    def _pty(self) -> str:
        found = next(entry for entry in self.ask("query-chardev") if entry["label"] == "wire")
        return str(found["filename"]).removeprefix("pty:")

    def ask(self, command: str, **arguments: Any) -> Any:
        """What QEMU's monitor answers."""
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._answers.readline())
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer

    def open(self) -> DescriptorTransport:
        """The line, to whoever had it before it is closed."""
        if self._line is not None:
            self._line.close()
        self._line = line = _connect(self.folder / "uart")
        return DescriptorTransport(line.fileno(), line.fileno(), line.close)

    def go(self) -> None:
        """Let the core run."""
        self.ask("cont")

    def stop(self) -> None:
        """Stop the core where it is."""
        self.ask("stop")

    def reset(self) -> None:
        """As by the button: RAM keeps what it has."""
        self.ask("system_reset")

    def slot(self) -> bytes:
        """All of the slot, as it is now."""
        return self.memory(self.target.slot_region.origin, self.target.slot_region.length)

    def memory(self, address: int, size: int) -> bytes:
        """What the core sees from an address on."""
        path = self.folder / "dump"
        self.ask("memsave", val=address, size=size, filename=str(path))
        return path.read_bytes()

    def close(self) -> None:
        for line in (self._line, getattr(self, "_qmp", None)):
            if line is not None:
                with contextlib.suppress(OSError):
                    line.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> BootloaderBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(path: Path) -> socket.socket:
    end = time.monotonic() + _SECONDS
    while True:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(_SECONDS)
        try:
            line.connect(str(path))
            return line
        except OSError:
            line.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
