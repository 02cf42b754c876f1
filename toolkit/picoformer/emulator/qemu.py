"""Boards in QEMU: the wire is the board's own UART, instructions are counted by a plugin."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from picoformer.compilers import find_program
from picoformer.emulator.counting import plugin_for, qemu_version, read_counts, read_last, read_profile
from picoformer.emulator.interface import Instructions, Region
from picoformer.emulator.process import Child
from picoformer.emulator.symbols import symbol_address
from picoformer.errors import DeviceError
from picoformer.link.transport import DescriptorTransport, Transport
from picoformer.slot_image import BOOTLOADER, IMAGE, lay_out
from picoformer.targets import Target

_START_SECONDS = 20.0
_LONGEST_SOCKET_PATH = 100


class QemuProcess:
    """See interface.Running. QEMU connects to a socket of ours in a folder of our own: no port, no race."""

    def __init__(self, elf: Path, target: Target, *, count: bool, profile: bool = False) -> None:
        choice = target.emulator
        assert choice is not None
        program = find_program(choice.program)
        self.name = qemu_version(program)
        self._folder = Path(tempfile.mkdtemp(prefix="picoformer-"))
        if len(str(self._folder)) > _LONGEST_SOCKET_PATH:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="picoformer-", dir="/tmp"))
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._counts, self._profile = self._folder / "counts", self._folder / "profile"
        self._with_profile = profile
        self.uncounted = ""
        try:
            address = str(self._folder / "uart")
            command = [program, "-M", choice.machine, "-display", "none", "-monitor", "none", "-no-reboot"]
            command += ["-semihosting-config", "enable=on,target=native", *self._memory(elf, target)]
            command += ["-chardev", f"socket,id=wire,path={address},server=off"]
            command += [*(["-serial", "null"] * choice.serial), "-serial", "chardev:wire"]
            command += [*self._counting(program, elf, count), *choice.args]
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(1)
                listener.settimeout(0.1)
                self._child = Child(f"{choice.program} -M {choice.machine}", command, piped=False)
                _keep_on_one_core(self._child.popen.pid)
                self._socket = self._accept(listener, self._child)
            descriptor = self._socket.fileno()
            self.transport: Transport = DescriptorTransport(descriptor, descriptor, self.close)
        except BaseException:
            self.close()
            raise

    def _memory(self, elf: Path, target: Target) -> list[str]:
        """What QEMU finds in memory: the firmware, or its image behind the bootloader, which starts it."""
        if not target.in_slot or target.bootloader is None:
            return ["-kernel", str(elf.resolve())]
        first, slot = elf.with_name(f"{BOOTLOADER}.elf"), self._folder / "slot"
        image = elf.with_name(IMAGE)
        if not (first.is_file() and image.is_file()):
            raise DeviceError(f"{elf.parent} has no {first.name} or no {IMAGE}; build with --bootloader again")
        slot.write_bytes(lay_out(image.read_bytes(), target.bootloader.page_bytes))
        place = f"loader,file={slot},addr={target.slot_region.origin:#x},force-raw=on"
        return ["-kernel", str(first.resolve()), "-device", place]

    def _counting(self, program: str, elf: Path, count: bool) -> list[str]:
        plugin, self.uncounted = plugin_for(program) if count else (None, "counting was not asked for")
        if plugin is None:
            return []
        begin, end = symbol_address(elf, "pf_region_begin"), symbol_address(elf, "pf_region_end")
        if "," in f"{plugin}{self._counts}":
            self.uncounted = f"QEMU takes no comma in the plugin's path {plugin}; set PICOFORMER_CACHE"
            return []
        options = f"{plugin},begin={begin:#x},end={end:#x},out={self._counts}"
        if self._with_profile:
            low, high = symbol_address(elf, "pf_stack_limit"), symbol_address(elf, "pf_stack_top")
            options += f",stack_low={low:#x},stack_high={high:#x},profile={self._profile}"
        return ["-plugin", options]

    @staticmethod
    def _accept(listener: socket.socket, child: Child) -> socket.socket:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if child.popen.poll() is not None:
                    raise DeviceError(f"the emulator did not start: {child.post_mortem()}") from None
                if time.monotonic() > end:
                    raise DeviceError(f"{child.name} did not start within {_START_SECONDS:g} s") from None

    def instructions(self, steps: int) -> Instructions | None:
        """See interface.Running."""
        return None if self.uncounted else read_counts(self._counts, steps)

    def last_call(self) -> int | None:
        """See interface.Running."""
        return None if self.uncounted else read_last(self._counts)

    def profile(self, steps: int) -> tuple[Region, ...] | None:
        """What init and each step of the last run executed, block by block; None where that was not asked for."""
        return None if self.uncounted else read_profile(self._profile, steps)

    def post_mortem(self) -> str:
        """See interface.Running."""
        return self._child.post_mortem() if self._child else "it never started"

    def close(self) -> None:
        """See interface.Running."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        if self._child is not None:
            self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _keep_on_one_core(pid: int) -> None:
    """Let QEMU's two threads, which hand every received byte to each other, share a core: 1.5 to 2 times the
    bytes/s."""
    with contextlib.suppress(OSError, AttributeError):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(pid, {cores[pid % len(cores)]})


class QemuEmulator:
    """Runs firmware of a target whose emulator is QEMU; `count=False` leaves the plugin out, `profile` makes it say
    which blocks ran."""

    def __init__(self, *, count: bool = True, profile: bool = False) -> None:
        self._count, self._profile = count, profile

    def start(self, elf: Path, target: Target) -> QemuProcess:
        """Start QEMU and wait for its line; ToolError when QEMU is missing."""
        return QemuProcess(elf, target, count=self._count, profile=self._profile)
