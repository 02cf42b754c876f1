"""A server of the tests' own in a thread, and HTTP spoken to it byte by byte, as no well-behaved client would."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from picoformer.serving.server import App, Limits, Route, Server
from picoformer.serving.work import Job


@dataclass
class TryApp:
    """An app whose work waits until it is let go."""

    body_bytes: int = 1000
    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/echo": {"POST": Route(work=lambda head, body, job: body.decode())},
            "/large": {"POST": Route(work=lambda head, body, job: "x" * 30_000_000)},
            "/wait": {"POST": Route(work=self._wait)},
            "/stream": {"POST": Route(work=self._stream)},
            "/fault": {"POST": Route(work=lambda head, body, job: 1 // 0)},
            "/nan": {"POST": Route(work=lambda head, body, job: float("nan"))},
            "/health": {"GET": Route(fixed=lambda: {"status": "ok"})},
        }

    def _wait(self, head: object, body: bytes, job: Job) -> Any:
        self.begun.release()
        assert self.go.wait(20)
        return body.decode()

    def _stream(self, head: object, body: bytes, job: Job) -> Any:
        job.piece({"text": "one"}, "application/x-ndjson")
        self.begun.release()
        for _ in range(2000):
            if job.is_over.is_set():
                self.abandoned.set()
                return None
            if self.go.wait(0.01):
                break
        job.piece({"text": "two"}, "application/x-ndjson")
        return None


@dataclass
class Running:
    """A server that runs."""

    app: Any
    port: int
    lines: list[str]
    _loop: asyncio.AbstractEventLoop
    _stop: asyncio.Event
    thread: threading.Thread
    clean: list[bool]

    def stop(self) -> None:
        """What a signal does."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def connect(self) -> Line:
        return Line.to(self.port)


@contextmanager
def running(app: App | None = None, limits: Limits | None = None, host: str = "127.0.0.1") -> Iterator[Running]:
    """A server on a free port; stopped at the end, which must be within its grace."""
    app, limits = app or TryApp(), limits or Limits()
    lines: list[str] = []
    clean: list[bool] = []
    found: list[Any] = []
    is_ready = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()

        def ready(_: str, port: int) -> None:
            found.extend((port, asyncio.get_running_loop(), stop))
            is_ready.set()

        server = Server(app, limits, host, frozenset({"board.example"}), lines.append)
        clean.append(await server.run(0, ready, stop))

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert is_ready.wait(10)
    port, loop, stop = found
    server = Running(app, port, lines, loop, stop, thread, clean)
    try:
        yield server
    finally:
        if isinstance(app, TryApp):
            app.go.set()
        if thread.is_alive():
            server.stop()
        thread.join(limits.grace_seconds + 5)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Reply:
    """An answer off the wire."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's."""
        error = self.value["error"]
        assert set(error) == {"code", "message"} and "\n" not in error["message"]
        return str(error["code"])


class Line:
    """One connection."""

    def __init__(self, line: socket.socket) -> None:
        self.socket, self._file = line, line.makefile("rb")

    @staticmethod
    def to(port: int) -> Line:
        """A new one to a port of this machine."""
        return Line(socket.create_connection(("127.0.0.1", port), timeout=20))

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> Line:
        self.socket.sendall(data)
        return self

    def ask(self, method: str, path: str, body: bytes = b"", **fields: str) -> Reply:
        """A well-formed request and its answer."""
        return self.send(request(method, path, body, **fields)).read()

    def read(self) -> Reply:
        """The next answer, whole."""
        status, fields = self.read_head()
        if status == 100:
            return Reply(status, fields, b"")
        if fields.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        else:
            body = self._file.read(int(fields["content-length"]))
        return Reply(status, fields, body)

    def read_head(self) -> tuple[int, dict[str, str]]:
        first = self._file.readline()
        assert first.startswith(b"HTTP/1.1 ") and first.endswith(b"\r\n"), first
        fields = {}
        while (line := self._file.readline()) != b"\r\n":
            assert line, "the answer ends in its head"
            name, _, value = line.decode("latin-1").partition(": ")
            fields[name.lower()] = value.removesuffix("\r\n")
        return int(first.split()[1]), fields

    def read_chunk(self) -> bytes:
        size = int(self._file.readline(), 16)
        data = self._file.read(size)
        assert self._file.read(2) == b"\r\n"
        return data

    def is_at_end(self) -> bool:
        """Whether the other side has closed, and said nothing more."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def request(method: str, path: str, body: bytes = b"", **fields: str) -> bytes:
    """A request's bytes; `fields` with _ for -, over those that are always there."""
    named = {"Host": "localhost", **({"Content-Type": "application/json"} if method == "POST" else {})}
    if body or method == "POST":
        named["Content-Length"] = str(len(body))
    named |= {name.replace("_", "-").title(): value for name, value in fields.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
