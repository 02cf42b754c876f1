"""`pi serve` as a process under a load of right, wrong, huge and slow requests: the right ones are answered rightly."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import pi_bundles
from digits_student import trained
from http_talk import Line, Reply, request
from picoformer.raspberry_pi import open_bundle, open_runner

THREADS, REQUESTS = 6, 60
CONNECTIONS = 24
GROWTH = 32 << 20
"""Bytes: a few times CONNECTIONS · (largest body + two buffers of a head), as Python's objects take more than text."""


@dataclass
class Process:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    errors: list[str] = field(default_factory=list)

    def memory(self) -> int:
        """The most bytes it ever had in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", text)[1])  # type: ignore[index]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    bundle = pi_bundles.digits(tmp_path, "int8")
    pi_bundles.digits.cache_clear()
    words = [sys.executable, "-m", "picoformer", "pi", "serve", str(bundle), "--port", "0", "--threads", "1",
             "--queue", "3", "--connections", str(CONNECTIONS)]  # fmt: skip
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None and process.stderr is not None
    match = re.fullmatch(r"serving digits on http://127\.0\.0\.1:(\d+) .*\n", process.stdout.readline())
    assert match is not None
    found = Process(process, int(match[1]))
    reader = threading.Thread(target=lambda: found.errors.extend(process.stderr), daemon=True)  # type: ignore[arg-type]
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait(10)
        reader.join(5)


def ask_until_served(port: int, data: bytes) -> Reply:
    """Send a right request until there is a place for it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with Line.to(port) as line:
                reply = line.send(data).read()
        except OSError:  # no connection to be had, and the refusal taken back by what had been sent
            reply = Reply(503, {"retry-after": "1"}, b"")
        if reply.status != 503:
            return reply
        assert reply.fields["retry-after"] == "1"
        time.sleep(0.02)
    raise AssertionError("no place for a minute")


def chunked(path: str, body: bytes, size: int = 100) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = request("POST", path, content_length="0").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + data


class Client:
    """One thread's requests, by its own random numbers."""

    def __init__(self, seed: int, port: int, bodies: list[bytes], wanted: list[Any]) -> None:
        self.random, self.port = random.Random(seed), port
        self.bodies, self.wanted = bodies, wanted
        self.served = 0
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            for _ in range(REQUESTS):
                kind = self.random.choice([self.right, self.right, self.in_chunks, self.wrong, self.huge, self.broken,
                                           self.leaves, self.in_a_row])  # fmt: skip
                kind(self.random.randrange(len(self.bodies)))
        except Exception as error:
            self.failed = error

    def right(self, at: int) -> None:
        self._holds(ask_until_served(self.port, request("POST", "/v1/classify", self.bodies[at])), at)

    def in_chunks(self, at: int) -> None:
        self._holds(ask_until_served(self.port, chunked("/v1/classify", self.bodies[at])), at)

    def _holds(self, reply: Reply, at: int) -> None:
        assert reply.status == 200 and reply.value == self.wanted[at], (reply, self.wanted[at])
        self.served += 1

    def wrong(self, at: int) -> None:
        body = self.random.choice([b"{", b'{"inputs": {"x": [NaN]}}', b'{"inputs": {}}', b"[" * 20_000, b'{"top": 1}'])
        reply = ask_until_served(self.port, request("POST", "/v1/run", body))
        assert reply.status == 400 and reply.code in ("bad_json", "bad_input")

    def huge(self, at: int) -> None:
        """One says how huge it is, one sends it all the same, one hides it in chunks."""
        body = b"x" * 2_000_000
        for data in (request("POST", "/v1/run", content_length="99999999999"), request("POST", "/v1/run", body),
                     chunked("/v1/run", body, 50_000)):  # fmt: skip
            with Line.to(self.port) as line:
                try:
                    reply = line.send(data).read()
                except OSError:  # the server had enough of it
                    continue
                except AssertionError:  # and took its answer back
                    continue
                assert reply.status in (413, 503)

    def broken(self, at: int) -> None:
        with Line.to(self.port) as line:
            try:
                reply = line.send(self.random.randbytes(200) + b"\r\n\r\n").read()
            except (OSError, AssertionError):
                return
            assert reply.status in (400, 503)

    def leaves(self, at: int) -> None:
        """In the middle of a request, or before its answer."""
        data = request("POST", "/v1/classify", self.bodies[at])
        with Line.to(self.port) as line:
            line.send(data[: self.random.randrange(1, len(data) + 1)])

    def in_a_row(self, at: int) -> None:
        with Line.to(self.port) as line:
            try:
                line.send(request("GET", "/health") * 3)
                replies = [line.read() for _ in range(3)]
            except (OSError, AssertionError):
                return
            assert {reply.status for reply in replies} == {200}


def test_under_load_every_right_request_is_answered_rightly(server: Process) -> None:
    folder = server.process.args[5]  # type: ignore[index]
    runner = open_runner(open_bundle(folder), 1)
    (values,) = trained().test.values()
    samples = values[:20]
    bodies = [json.dumps({"inputs": {"x": sample.tolist()}}).encode() for sample in samples]
    wanted = [runner.classify({"x": sample}).to_json() for sample in samples]
    for body in bodies:
        ask_until_served(server.port, request("POST", "/v1/classify", body))
    before = server.memory()

    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    for index, line in enumerate(slow):  # they hold connections for as long as they are let
        line.sendall(request("POST", "/v1/run", b"x" * 1000)[: 20 + 60 * index])
    clients = [Client(seed, server.port, bodies, wanted) for seed in range(THREADS)]
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    for client in clients:
        if client.failed is not None:
            raise client.failed
    assert sum(client.served for client in clients) > THREADS * REQUESTS / 4
    assert server.process.poll() is None
    assert server.memory() - before < GROWTH
    for line in slow:
        line.close()

    last = Line.to(server.port).send(request("POST", "/v1/classify", bodies[0]) * 2)
    assert last.read().value == wanted[0]
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    last.close()
    text = "".join(server.errors)
    assert "Traceback" not in text and " 500 " not in text and "fault" not in text
    lines = [line for line in server.errors if re.match(r"\d{4}-\d\d-\d\dT\S+Z 127\.0\.0\.1:\d+ .* ms$", line)]
    assert len(lines) == len(server.errors) > THREADS * REQUESTS / 2


def test_ctrl_c_ends_it_too(server: Process) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(15) == 0
    assert server.errors == []
