"""What is connected: serial ports by their USB ids, drives of boards, debug probes; and which a target means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from picoformer.errors import DeviceError, ToolError
from picoformer.flash.drives import MOUNTS, Drive, find_drives
from picoformer.flash.usb_ids import known
from picoformer.targets import Target, list_targets, load_target


@dataclass(frozen=True)
class Port:
    """A serial port. `usb`: "2341:805a", empty for other ports; `targets`: those that its ids stand for."""

    device: str
    usb: str
    serial_number: str
    name: str
    targets: tuple[str, ...]
    is_bootloader: bool


@dataclass(frozen=True)
class Connected:
    """Everything that was found; `notes` say what was not looked for, and why."""

    ports: tuple[Port, ...]
    drives: tuple[Drive, ...]
    probes: tuple[Any, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object of `devices --json`."""
        drives = [
            {"folder": str(d.folder), "kind": d.kind, "name": d.name, "board": d.board, "targets": drive_targets(d)}
            for d in self.drives
        ]
        return {
            "ports": [asdict(port) for port in self.ports],
            "drives": drives,
            "probes": [asdict(probe) for probe in self.probes],
            "notes": list(self.notes),
        }


def serial_ports() -> list[Port]:
    """Serial ports with what the system knows of them; those of no USB device last."""
    from serial.tools import list_ports

    found = []
    for port in list_ports.comports():
        entry = known(port.vid, port.pid)
        usb = f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None and port.pid is not None else ""
        name = entry.name or (f"{_plain(port.manufacturer)} {_plain(port.product)}".strip() if usb else "")
        found.append(
            Port(port.device, usb, _plain(port.serial_number), name or _plain(port.description), entry.targets,
                 entry.is_bootloader)
        )  # fmt: skip
    return sorted(found, key=lambda port: (not port.usb, port.device))


def look(mounts: Path = MOUNTS) -> Connected:
    """Look for everything; debug probes where pyocd is installed."""
    from picoformer.flash.pyocd import probes, program

    notes: list[str] = []
    try:
        connected = tuple(probes(program()))
    except ToolError as error:
        connected = ()
        notes.append(f"debug probes were not looked for: {error}")
    return Connected(tuple(serial_ports()), tuple(find_drives(mounts)), connected, tuple(notes))


def drive_targets(drive: Drive) -> list[str]:
    """Targets that a drive is of."""
    boards = [load_target(name) for name in list_targets()]
    return [
        board.name
        for board in boards
        if board.flasher is not None
        and (drive.board in board.flasher.drives if drive.board else drive.kind in board.flasher.others)
    ]


def choose_port(target: Target, ports: Sequence[Port], method: str) -> str:
    """The one serial port that can be the target's for a way in: the only one whose ids say so, or else the only
    adapter. Raises DeviceError with the list where there are several, or none.
    """
    enter = f" (to get it into its bootloader: {target.flasher.enter})" if target.flasher else ""
    usb = [port for port in ports if port.usb]
    own = [port for port in usb if target.name in port.targets]
    open_to_all = [port for port in usb if not port.targets]
    candidates = own or open_to_all
    if method == "stm32":  # the ROM does not listen to the ST-LINK's port
        candidates = open_to_all or own
    if len(candidates) == 1:
        return candidates[0].device
    if candidates:
        names = ", ".join(f"{port.device} ({port.name})" for port in candidates)
        raise DeviceError(f"several serial ports can be {target.name}: {names}; say which by --port")
    others = ", ".join(f"{port.device} ({port.name})" for port in usb)
    seen = f", only {others}" if others else ", nor any other on USB"
    raise DeviceError(f"no serial port of {target.name} is connected{seen}; plug it in, or give --port{enter}")


def _plain(text: Any) -> str:
    return "".join(c for c in str(text or "")[:120] if c.isprintable())
