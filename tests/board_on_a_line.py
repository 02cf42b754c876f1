"""Firmware in its emulator behind a line as a board's: a socket or a pseudo-terminal, which a test may harm."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from picoformer.emulator.interface import Running
from picoformer.emulator.session import emulator_for
from picoformer.errors import DeviceError
from picoformer.link.frames import decode_frame
from picoformer.targets import Target

Harm = Callable[[bytes], bytes]


class Board:
    """Pumps bytes between whoever opens `port` and the firmware, in a thread. `requests`: the types that the host
    asked; `before[type, n]` is called before the n-th request of a type (from 0) gets there; `to_host` may change
    what comes back."""

    def __init__(self, elf: Path, target: Target) -> None:
        self._elf, self._target = elf, target
        self.running: Running = self._start()
        self.requests: list[int] = []
        self.before: dict[tuple[int, int], Callable[[], None]] = {}
        self.to_host: Harm = lambda data: data
        self.port = ""
        self._ended = threading.Event()
        self._rest, self._is_cut = b"", False

    def _start(self) -> Running:
        return emulator_for(self._target, count=False).start(self._elf, self._target)

    def reset(self) -> None:
        """As by the button: memory is as after power-on, the line stays."""
        self.running.close()
        self.running = self._start()

    def leave(self) -> None:
        """As by pulling the plug: the line is gone and does not come back."""
        self._ended.set()

    def cut(self) -> None:
        """As by a bad plug: the line breaks, what is on it is lost, and it can be opened again."""
        self._is_cut = True

    def pump(self, read: Callable[[], bytes], write: Callable[[bytes], None], descriptor: int) -> None:
        """Until the host closes its end, or the board leaves."""
        self._is_cut, self._rest = False, b""
        while not (self._ended.is_set() or self._is_cut):
            if select.select([descriptor], [], [], 0)[0]:
                data = read()
                if not data:
                    return
                self._to_device(data)
                continue
            if data := self.running.transport.read(0.002):
                write(self.to_host(data))

    def _to_device(self, data: bytes) -> None:
        """Request by request, so that what a test does before one happens between two."""
        *lines, self._rest = (self._rest + data).split(b"\0")
        for line in lines:
            if body := decode_frame(line) if line else None:
                if action := self.before.pop((body[1], self.requests.count(body[1])), None):
                    action()
                self.requests.append(body[1])
            if not (self._ended.is_set() or self._is_cut):
                self.running.transport.write(line + b"\0", 5.0)

    def close(self) -> None:
        self._ended.set()
        self.running.close()


@contextlib.contextmanager
def board_on_a_socket(elf: Path, target: Target) -> Iterator[Board]:
    """A board that can be opened again and again; its `port` is a socket:// address."""
    board = Board(elf, target)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    board.port = f"socket://127.0.0.1:{listener.getsockname()[1]}"

    def serve() -> None:
        with listener:
            while not board._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    line, _ = listener.accept()
                    with line, contextlib.suppress(OSError, DeviceError):
                        board.pump(partial(line.recv, 65536), line.sendall, line.fileno())

    with _served(board, serve):
        yield board


@contextlib.contextmanager
def board_on_a_terminal(elf: Path, target: Target) -> Iterator[Board]:
    """A board whose `port` is a pseudo-terminal, as a USB serial port is one."""
    board = Board(elf, target)
    controller, terminal = os.openpty()
    board.port = os.ttyname(terminal)

    def serve() -> None:
        with contextlib.suppress(OSError, DeviceError):
            board.pump(lambda: os.read(controller, 65536), lambda data: _write(controller, data), controller)

    with _served(board, serve):
        yield board
    os.close(controller)
    os.close(terminal)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def _served(board: Board, serve: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        board._ended.set()
        thread.join(10)
        board.close()
