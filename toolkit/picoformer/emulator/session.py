"""Opening a device under test: an emulator or a serial port, with the firmware's symbols at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from picoformer.emulator.choice import choose_emulator
from picoformer.emulator.host import HostEmulator
from picoformer.emulator.interface import Emulator, Instructions, Region, Running
from picoformer.emulator.qemu import QemuEmulator, QemuProcess
from picoformer.emulator.symbols import symbolize
from picoformer.errors import DeviceError
from picoformer.link.device import Device
from picoformer.link.messages import Table
from picoformer.link.transport import DEFAULT_BAUD, SerialTransport, reopen_serial
from picoformer.targets import Target

_RUN_SECONDS = 120.0
_REOPEN_SECONDS = 5.0  # for a port that went away while its board was reset
_MARGIN_SECONDS = 10.0  # past the watchdog: its message should win over our timeout


class Build(Protocol):
    """What a session needs of built firmware."""

    @property
    def elf(self) -> Path:
        """The linked ELF."""


@dataclass(frozen=True)
class Session:
    """An open device; `running` is its emulator, None on a serial port."""

    device: Device
    running: Running | None

    @property
    def instructions(self) -> Instructions | None:
        """What the last run executed; None when it was not counted, for the reason in `uncounted`."""
        calls = self.device.calls
        counted = self.running.instructions(len(calls)) if self.running else None
        if counted is None:
            return None
        per_step = [0] * (max(calls) + 1)
        for step, count in zip(calls, counted.per_step, strict=True):
            per_step[step] += count
        return Instructions(counted.total, counted.init, tuple(per_step))

    @property
    def emulator(self) -> str:
        """What runs the firmware, with its version; empty on a serial port."""
        return self.running.name if self.running else ""

    @property
    def profile(self) -> tuple[Region, ...] | None:
        """What init and each call of the last run executed; None where it was not profiled."""
        running = self.running
        return running.profile(len(self.device.calls)) if isinstance(running, QemuProcess) else None

    @property
    def uncounted(self) -> str:
        """Why instructions are not counted; empty when they are."""
        return self.running.uncounted if self.running else "instructions are counted in an emulator only"


def emulator_for(target: Target, *, count: bool = True, profile: bool = False, choice: str = "auto") -> Emulator:
    """What runs the target's firmware here: see `choose_emulator`."""
    kind = choose_emulator(target, choice)
    if kind == "host":
        return HostEmulator()
    if kind == "qemu":
        return QemuEmulator(count=count, profile=profile)
    from picoformer.emulator.unicorn import UnicornEmulator

    return UnicornEmulator(count=count)


@contextmanager
def open_device(
    build: Build | None,
    target: Target,
    port: str | None = None,
    *,
    identity: bytes | None = None,
    count: bool = True,
    emulator: str = "auto",
    profile: bool = False,
    run_seconds: float | None = None,
) -> Iterator[Session]:
    """Start the firmware in the target's emulator, or reach it over the serial `port`, and greet it.

    `build` gives faults their functions' names; on a port it may be None.
    `emulator`: "qemu", "unicorn", or "auto" for the first that is there. `identity` (16 bytes): DeviceError when the
    device runs another model. `profile` keeps which instructions ran. `run_seconds` bounds one run; by default two
    minutes, or longer where the target's watchdog allows one step more. The emulator is ended when the context is left,
    whatever happens.
    """
    longest = max(_RUN_SECONDS, target.watchdog.seconds + _MARGIN_SECONDS)
    seconds = longest if run_seconds is None else run_seconds

    def name(address: int) -> str:
        return symbolize(build.elf, address) if build is not None else ""

    running: Running | None = None
    device: Device | None = None
    try:
        if port is not None:
            baud = target.uart.baud if target.uart else DEFAULT_BAUD
            device = Device(
                SerialTransport(port, baud),
                run_seconds=seconds,
                symbolize=name,
                machine=target.port,
                reopen=lambda: reopen_serial(port, baud, _REOPEN_SECONDS),
            )
        else:
            assert build is not None, "an emulator runs built firmware"
            running = emulator_for(target, count=count, profile=profile, choice=emulator).start(build.elf, target)
            device = Device(
                running.transport,
                run_seconds=seconds,
                symbolize=name,
                post_mortem=running.post_mortem,
                machine=target.port,
                asks_cycles=False,
            )
        hello = device.hello()
        if identity is not None and hello.identity != identity:
            raise DeviceError(
                f"the device runs another model ({hello.name}, {hello.identity.hex()[:12]}, "
                f"not {identity.hex()[:12]}); flash this build first"
            )
        device.tensors(Table.STEPS)  # so that a fault can name its step
        yield Session(device, running)
    finally:
        if device is not None:
            device.close()
        if running is not None:
            running.close()
