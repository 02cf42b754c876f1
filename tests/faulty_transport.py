"""A line that loses, damages, doubles, holds up and swaps what goes over it, and resets the device: from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from picoformer.link.transport import Transport


@dataclass(frozen=True)
class Faults:
    """How often, per frame in either direction, each thing happens; `reset`: per frame to the device."""

    drop: float = 0.0
    flip: float = 0.0
    lose_byte: float = 0.0
    double_byte: float = 0.0
    swap_bytes: float = 0.0
    cut: float = 0.0
    double: float = 0.0
    late: float = 0.0
    """The frame comes once more behind up to six others."""
    swap: float = 0.0
    """The frame comes behind the next one."""
    noise: float = 0.0
    """Bytes of anything, zeros among them, before the frame."""
    reset: float = 0.0
    lose_log: float = 0.0
    """Of the frames by which a device says that it has started."""

    def scaled(self, factor: float) -> Faults:
        """All of them more or less often."""
        return Faults(**{name: min(1.0, rate * factor) for name, rate in vars(self).items()})


EVERYTHING = Faults(
    drop=0.02, flip=0.02, lose_byte=0.01, double_byte=0.01, swap_bytes=0.01, cut=0.005, double=0.02, late=0.02,
    swap=0.01, noise=0.01, reset=0.004, lose_log=0.5,
)  # fmt: skip


class _Way:
    """One direction: frames in, what comes out at the other end."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._rest = bytearray()
        self._held: list[tuple[int, bytes]] = []  # frames that come behind so many others

    def pass_on(self, data: bytes, faults: Faults, count: Callable[[str], None]) -> bytes:
        """What comes out when `data` is put in."""
        self._rest += data
        *lines, rest = self._rest.split(b"\0")
        self._rest = bytearray(rest)
        return b"".join(self._frame(bytes(line) + b"\0", faults, count) for line in lines)

    def forget(self) -> None:
        """What was on the way is lost."""
        self._rest.clear()
        self._held.clear()

    def _frame(self, frame: bytes, faults: Faults, count: Callable[[str], None]) -> bytes:
        if frame == b"\0":
            return frame

        def happens(name: str) -> bool:
            if self._chance.random() >= getattr(faults, name):
                return False
            count(name)
            return True

        due = b"".join(held for left, held in self._held if left <= 0)
        self._held = [(left - 1, held) for left, held in self._held if left > 0]
        if happens("late"):
            self._held.append((self._chance.randrange(6), frame))
        came = b"" if happens("drop") else frame * 2 if happens("double") else self._bytes(frame, happens)
        if happens("noise"):
            came = self._chance.randbytes(self._chance.randrange(1, 40)) + came
        if happens("swap"):
            self._held.append((0, came))
            came = b""
        return came + due

    def _bytes(self, frame: bytes, happens: Callable[[str], bool]) -> bytes:
        changed = bytearray(frame)
        at = self._chance.randrange(len(changed))
        if happens("flip"):
            changed[at] ^= 1 << self._chance.randrange(8)
        if happens("lose_byte"):
            del changed[at]
        if happens("double_byte") and changed:
            changed.insert(at, changed[at % len(changed)])
        if happens("swap_bytes") and at + 1 < len(changed):
            changed[at], changed[at + 1] = changed[at + 1], changed[at]
        if happens("cut"):
            del changed[at:]
        return bytes(changed)


class FaultyTransport:
    """A Transport over another one; `restart` ends the device and starts it anew, which gives its new line."""

    def __init__(
        self, inner: Transport, faults: Faults, seed: int, restart: Callable[[], Transport] | None = None
    ) -> None:
        self._inner, self._restart = inner, restart
        self.faults = faults
        self._chance = random.Random(seed)
        self._out, self._in = _Way(self._chance), _Way(self._chance)
        self._loses_log = False
        self.happened: dict[str, int] = {}
        """How often each thing happened."""

    def write(self, data: bytes, timeout: float) -> None:
        """See Transport."""
        if self._restart is not None and self._chance.random() < self.faults.reset:
            self._count("reset")
            self._out.forget()
            self._in.forget()
            self._inner = self._restart()
            self._loses_log = self._chance.random() < self.faults.lose_log
        sent = self._out.pass_on(data, self.faults, self._count)
        if sent:
            self._inner.write(sent, timeout)

    def read(self, timeout: float) -> bytes:
        """See Transport."""
        data = self._inner.read(timeout)
        if self._loses_log and data:
            self._loses_log = False
            start, _, rest = data.partition(b"\0")  # the first line is empty, the log is the second
            _, _, data = rest.partition(b"\0") if not start else (b"", b"", rest)
            self._count("lose_log")
        return self._in.pass_on(data, self.faults, self._count) if data else b""

    def close(self) -> None:
        """See Transport."""
        self._inner.close()

    def _count(self, name: str) -> None:
        self.happened[name] = self.happened.get(name, 0) + 1
