"""Connections: one request after the other, every wait bounded, and an end that finishes what runs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from picoformer.serving.hosts import check_origin, is_loopback, own_names
from picoformer.serving.http import (
    HEAD_BYTES,
    Head,
    HttpError,
    answer_head,
    chunk,
    json_bytes,
    read_body,
    read_head,
    too_large,
)
from picoformer.serving.work import Answer, Begin, Event, Job, Workers, busy

LINGER_SECONDS, LINGER_BYTES = 1.0, 1 << 18
"""How long, and for how much, the rest of a refused request is read away, so that its answer arrives."""


@dataclass(frozen=True)
class Limits:
    """What a client may take, at most."""

    connections: int = 32
    workers: int = 1
    waiting: int = 8
    """Requests in the queue, besides those that are computed."""
    request_seconds: float = 60.0
    """From the whole request to the end of its answer's computation."""
    body_seconds: float = 15.0
    write_seconds: float = 15.0
    """For a client to take a piece of its answer."""
    grace_seconds: float = 10.0
    """For what runs when the server is told to stop."""


@dataclass(frozen=True)
class Route:
    """What stands behind a path and a method: `fixed` is answered at once, `work` in a thread."""

    fixed: Callable[[], Any] | None = None
    work: Callable[[Head, bytes, Job], Any] | None = None


class App(Protocol):
    """What is served."""

    @property
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        """Path → method → route."""

    @property
    def body_bytes(self) -> int:
        """Most bytes of a body."""


@dataclass
class Server:
    """An app behind a socket."""

    app: App
    limits: Limits
    host: str
    allowed: frozenset[str] = frozenset()
    log: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _idle: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False

    async def run(self, port: int, ready: Callable[[str, int], None], stop: asyncio.Event) -> bool:
        """Serve until `stop` is set; set again, it cuts the grace short. `ready` hears the address.

        Returns whether no thread computes any more. Raises OSError where the address cannot be had.
        """
        self._workers = Workers(self.limits.workers, self.limits.waiting)
        self._loopback = is_loopback(self.host)
        self._names = own_names(self.allowed, self._loopback)
        listener = await asyncio.start_server(self._connect, self.host, port, limit=HEAD_BYTES, backlog=64)
        address = listener.sockets[0].getsockname()
        ready(address[0], address[1])
        await stop.wait()
        self._stopping = True
        listener.close()
        for task in list(self._idle):
            task.cancel()
        stop.clear()
        await self._finish(stop)
        return self._workers.taken == 0

    async def _finish(self, stop: asyncio.Event) -> None:
        again = asyncio.ensure_future(stop.wait())
        end = time.monotonic() + self.limits.grace_seconds
        while self._connections and not again.done() and (left := end - time.monotonic()) > 0:
            await asyncio.wait({*self._connections, again}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        if len(self._connections) >= self.limits.connections or self._stopping:
            error = busy("every connection is taken", True)
            with suppress(OSError):
                await connection.send_error(error)
            connection.line(None, error.status, time.monotonic())
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await connection.serve(task)
        except OSError:  # TimeoutError among them
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # the end of the server: nobody waits for this task
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    """One client, and its requests in order."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.limits = server.limits
        self.sent = 0
        peer = writer.get_extra_info("peername") or ("?", 0)
        self.peer = f"{peer[0]}:{peer[1]}"
        writer.transport.set_write_buffer_limits(0)  # drained is sent

    async def serve(self, task: asyncio.Task[None]) -> None:
        """Answer requests until one of both sides has enough."""
        while not self.server._stopping:
            self.server._idle.add(task)
            head: Head | None = None
            start = time.monotonic()
            self.sent = 0
            try:
                head = await read_head(self.reader, lambda: self.server._idle.discard(task))
                if head is None:
                    return
                start = time.monotonic()
                status, keeps = await self._answer(head)
            except HttpError as error:
                status, keeps = error.status, bool(head and head.keeps) and not error.close
                await self.send_error(error, head, keeps)
            except OSError:
                self.line(head, "lost", start)
                raise
            finally:
                self.server._idle.discard(task)
            self.line(head, status, start)
            if not keeps:
                await self._linger()
                return

    def line(self, head: Head | None, status: int | str, start: float) -> None:
        """Log one request in one line, whatever it holds. Status "lost": the client left, or did not read."""
        what = f"{head.method} {head.target[:80]}" if head else "-"
        took = 1e3 * (time.monotonic() - start)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.server.log(f"{stamp} {self.peer} {what} {status} {self.sent} B {took:.1f} ms")

    async def _answer(self, head: Head) -> tuple[int, bool]:
        """Answer one request: status, and whether the connection goes on. Raises HttpError before the first byte."""
        check_origin(head, self.server._names, self.server._loopback)
        route = self._route(head)
        await self._check_body(head, route)
        body = await read_body(self.reader, head, self.server.app.body_bytes, self.limits.body_seconds)
        keeps = head.keeps and not self.server._stopping
        if route.fixed is not None:
            await self._send(200, json_bytes(route.fixed()), keeps, head.method == "HEAD")
            return 200, keeps
        work = route.work
        assert work is not None
        job = self.server._workers.submit(lambda job: work(head, body, job))
        try:
            return await self._follow(job, head)
        finally:
            job.is_over.set()

    def _route(self, head: Head) -> Route:
        methods = self.server.app.routes.get(head.path)
        if methods is None:
            paths = ", ".join(self.server.app.routes)
            raise HttpError(404, "unknown_path", f"there is nothing here; there is {paths}", head.length != 0)
        method = "GET" if head.method == "HEAD" else head.method
        if method not in methods:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise HttpError(
                405, "method", f"the method here is {allowed}", head.length != 0, {"Allow": allowed}
            )  # fmt: skip
        return methods[method]

    async def _check_body(self, head: Head, route: Route) -> None:
        """What can be said of a body before it is read, so that a client that asks first need not send it."""
        unread = head.length != 0
        limit = self.server.app.body_bytes
        if head.length is not None and head.length > limit:
            raise too_large(limit)
        if route.work is not None:
            media = head.fields.get("content-type", "").partition(";")[0].strip().lower()
            if media != "application/json":
                raise HttpError(415, "content_type", "send Content-Type: application/json", unread)
            if head.fields.get("content-encoding", "identity").lower() != "identity":
                raise HttpError(415, "content_encoding", "send the body as it is, not compressed", unread)
            if self.server._workers.is_full:
                raise busy("every place in the queue is taken", unread)
        expect = head.fields.get("expect")
        if expect is not None and head.minor == 1:
            if expect.lower() != "100-continue":
                raise HttpError(417, "expectation", "of Expect only 100-continue is known", unread)
            if unread:
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _follow(self, job: Job, head: Head) -> tuple[int, bool]:
        """Pass on what a job tells; raises HttpError as long as nothing is sent."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.limits.request_seconds
        event = await self._next(job, end)
        keeps = head.keeps and not self.server._stopping
        if isinstance(event, HttpError):
            raise event
        if isinstance(event, Answer):
            await self._send(200, event.body, keeps)
            return 200, keeps
        assert isinstance(event, Begin)
        chunked = head.minor == 1
        keeps = keeps and chunked
        before, after = (b"data: ", b"\n") if event.media_type == "text/event-stream" else (b"", b"")
        coding = {"Transfer-Encoding": "chunked"} if chunked else {}
        connection = {} if keeps else {"Connection": "close"}
        await self._write(answer_head(200, {"Content-Type": event.media_type, **coding, **connection}))
        while True:
            try:
                piece = await self._next(job, end)
            except HttpError as error:
                piece = error
            is_last = not isinstance(piece, bytes)
            if isinstance(piece, HttpError):
                piece = piece.body()
            if isinstance(piece, bytes):
                piece = before + piece + after
                await self._write(chunk(piece) if chunked else piece)
            if is_last:
                break
        if chunked:
            await self._write(chunk(b""))
        return 200, keeps

    async def _next(self, job: Job, end: float) -> Event:
        try:
            async with asyncio.timeout_at(end):
                return await job.events.get()
        except TimeoutError:
            seconds = self.limits.request_seconds
            raise HttpError(504, "timeout", f"not done within {seconds:g} s") from None

    async def send_error(self, error: HttpError, head: Head | None = None, keeps: bool = False) -> None:
        """Send an error as JSON."""
        await self._send(error.status, error.body(), keeps, bool(head and head.method == "HEAD"), error.headers)

    async def _send(
        self, status: int, body: bytes, keeps: bool, only_head: bool = False, more: Mapping[str, str] | None = None
    ) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(more or {})}
        if not keeps:
            headers["Connection"] = "close"
        await self._write(answer_head(status, headers) + (b"" if only_head else body))

    async def _write(self, data: bytes) -> None:
        """Send, for as long as a client may take; raises TimeoutError where it does not read."""
        self.writer.write(data)
        async with asyncio.timeout(self.limits.write_seconds):
            await self.writer.drain()
        self.sent += len(data)

    async def _linger(self) -> None:
        """Read away what is still coming for a moment: closing on unread bytes takes the answer back from the wire."""
        with suppress(OSError):
            self.writer.write_eof()
            read = 0
            async with asyncio.timeout(LINGER_SECONDS):
                while read < LINGER_BYTES and (data := await self.reader.read(1 << 14)):
                    read += len(data)
