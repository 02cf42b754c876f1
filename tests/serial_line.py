"""A serial port on this machine that leads to running firmware, and that can be pulled out and put in again."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import threading
import tty
from collections.abc import Callable
from pathlib import Path

from picoformer.emulator.interface import Running
from picoformer.errors import DeviceError


class SerialLine:
    """`path` is the port. `start` starts the firmware behind it; None: whatever the test sends by `say`."""

    def __init__(self, path: Path, start: Callable[[], Running] | None = None) -> None:
        self.path, self._start = path, start
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._running: Running | None = None
        self._ends: tuple[int, int] | None = None
        self.unplug_after: int | None = None
        """Bytes from the host after which the board is pulled out and put in again."""
        self.plug()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        if start is not None:
            self._thread.start()

    def plug(self) -> None:
        """The port is there, and the firmware starts."""
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(theirs))
        self._ends = ours, theirs
        self._running = self._start() if self._start is not None else None

    def unplug(self) -> None:
        """The port is gone, and the firmware has no power."""
        self.path.unlink(missing_ok=True)
        ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)
        if self._running is not None:
            self._running.close()

    def say(self, data: bytes) -> None:
        """Bytes from the board."""
        assert self._ends is not None
        os.write(self._ends[0], data)

    def close(self) -> None:
        """All is over."""
        self._is_over.set()
        if self._start is not None:
            self._thread.join(10)
        self.unplug()

    def _pump(self) -> None:
        while not self._is_over.is_set():
            assert self._ends is not None and self._running is not None
            ours = self._ends[0]
            with contextlib.suppress(OSError, DeviceError):
                if select.select([ours], [], [], 0)[0]:
                    data = os.read(ours, 4096)
                    if self.unplug_after is not None:
                        self.unplug_after -= len(data)
                        if self.unplug_after <= 0:
                            self.unplug_after = None
                            self.unplug()
                            self.plug()
                            continue
                    self._running.transport.write(data, 5)
                left = memoryview(self._running.transport.read(0.002))
                while left:
                    left = left[os.write(ours, left) :]
