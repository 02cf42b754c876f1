"""The HTTP of `pi serve`: every request is answered or refused in JSON, every wait ends, and the end is clean."""

from __future__ import annotations

import json
import random
import socket
import time

import pytest

from http_talk import Running, TryApp, request, running
from picoformer.serving import http
from picoformer.serving.server import Limits

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> object:
    with running() as found:
        yield found


def head(line: bytes, *fields: bytes) -> bytes:
    return line + b"\r\n" + b"".join(fields) + b"\r\n"


POST = b"POST /echo HTTP/1.1"
REFUSED = {
    "no version": (b"GET /health\r\n\r\n", 400, "bad_request_line"),
    "lower case method": (head(b"get /health HTTP/1.1", HOST), 400, "bad_request_line"),
    "two blanks": (head(b"GET  /health HTTP/1.1", HOST), 400, "bad_request_line"),
    "control character": (head(b"GET /he\x01alth HTTP/1.1", HOST), 400, "bad_request_line"),
    "version 2": (b"PRI * HTTP/2.0\r\n\r\n", 505, "version"),
    "long target": (head(b"GET /" + b"a" * 9000 + b" HTTP/1.1", HOST), 414, "target_too_long"),
    "long field": (head(b"GET /health HTTP/1.1", HOST, b"A: " + b"a" * 20_000 + b"\r\n"), 431, "head_too_long"),
    "endless line": (b"GET /" + b"a" * 40_000, 431, "head_too_long"),
    "many fields": (head(b"GET /health HTTP/1.1", HOST, b"A: b\r\n" * 80), 431, "too_many_fields"),
    "no host": (head(b"GET /health HTTP/1.1"), 400, "no_host"),
    "two hosts": (head(b"GET /health HTTP/1.1", HOST, HOST), 400, "bad_field"),
    "folded field": (head(b"GET /health HTTP/1.1", HOST, b"A: b\r\n c\r\n"), 400, "bad_field"),
    "blank before colon": (head(b"GET /health HTTP/1.1", HOST, b"A : b\r\n"), 400, "bad_field"),
    "bare line feed": (head(b"GET /health HTTP/1.1", HOST, b"A: b\nC: d\r\n"), 400, "bad_field"),
    "bad host": (head(b"GET /health HTTP/1.1", b"Host: a/b\r\n"), 400, "bad_host"),
    "another's name": (head(b"GET /health HTTP/1.1", b"Host: evil.example:80\r\n"), 421, "unknown_host"),
    "another's address": (head(b"GET /health HTTP/1.1", b"Host: 192.0.2.7\r\n"), 421, "unknown_host"),
    "absolute form of another": (head(b"GET http://evil.example/health HTTP/1.1", HOST), 421, "unknown_host"),
    "page of elsewhere": (head(b"GET /health HTTP/1.1", HOST, b"Origin: http://a.example\r\n"), 403, "cross_origin"),
    "opaque origin": (head(b"GET /health HTTP/1.1", HOST, b"Origin: null\r\n"), 403, "cross_origin"),
    "cross-site fetch": (head(b"GET /health HTTP/1.1", HOST, b"Sec-Fetch-Site: cross-site\r\n"), 403, "cross_origin"),
    "length and coding": (
        head(POST, HOST, JSON, b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        400, "bad_length",
    ),
    "two lengths": (head(POST, HOST, JSON, b"Content-Length: 2\r\nContent-Length: 3\r\n"), 400, "bad_field"),
    "length list": (head(POST, HOST, JSON, b"Content-Length: 2, 2\r\n"), 400, "bad_length"),
    "length with sign": (head(POST, HOST, JSON, b"Content-Length: +2\r\n"), 400, "bad_length"),
    "negative length": (head(POST, HOST, JSON, b"Content-Length: -2\r\n"), 400, "bad_length"),
    "coding in 1.0": (head(b"POST /echo HTTP/1.0", HOST, JSON, b"Transfer-Encoding: chunked\r\n"), 400, "bad_length"),
    "other coding": (head(POST, HOST, JSON, b"Transfer-Encoding: gzip, chunked\r\n"), 501, "transfer_encoding"),
    "too large": (head(POST, HOST, JSON, b"Content-Length: 1001\r\n"), 413, "body_too_large"),
    "too large in chunks": (
        head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n",
        413, "body_too_large",
    ),
    "chunk size": (head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"0x2\r\nab\r\n", 400, "bad_chunk"),
    "long chunk": (head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"2\r\nabcd2\r\nef\r\n0\r\n\r\n",
                   400, "bad_chunk"),
    "long chunk line": (
        head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"2;" + b"a" * 300 + b"\r\nab\r\n",
        400, "bad_chunk",
    ),
    "endless trailer": (
        head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"0\r\n" + b"A: b\r\n" * 3000, 431, "head_too_long",
    ),
    "form": (head(POST, HOST, b"Content-Type: text/plain\r\nContent-Length: 2\r\n") + b"{}", 415, "content_type"),
    "no type": (head(POST, HOST, b"Content-Length: 2\r\n") + b"{}", 415, "content_type"),
    "compressed": (
        head(POST, HOST, JSON, b"Content-Encoding: gzip\r\nContent-Length: 2\r\n") + b"{}", 415, "content_encoding",
    ),
    "expectation": (head(POST, HOST, JSON, b"Content-Length: 2\r\nExpect: 200-ok\r\n") + b"{}", 417, "expectation"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_request_is_refused_and_the_connection_ends(server: Running, name: str) -> None:
    data, status, code = REFUSED[name]
    with server.connect() as line:
        reply = line.send(data).read()
        assert (reply.status, reply.code) == (status, code)
        assert reply.fields["connection"] == "close" and reply.fields["content-type"] == "application/json"
        assert line.is_at_end()
    with server.connect() as line:
        assert line.ask("GET", "/health").value == {"status": "ok"}


def test_any_bytes_are_a_request_or_refused() -> None:
    """Whole requests with bytes flipped, dropped and doubled: a head, or an HttpError that ends the connection."""
    numbers = random.Random(3)
    seeds = [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data, _, _ in REFUSED.values() if len(data) < 500]
    seeds.append(request("POST", "/echo", b"", expect="100-continue", origin="http://localhost"))
    heads = 0
    for _ in range(5000):
        data = bytearray(numbers.choice(seeds))
        for _ in range(numbers.randrange(4)):
            at = numbers.randrange(len(data))
            data[at : at + numbers.randrange(3)] = numbers.choice(
                [b"", b"\0", b" ", b":", b"\r", b"\n", b"\xff", b"0", b"/"]
            )
        try:
            found = http.parse_head(bytes(data))
        except http.HttpError as error:
            assert error.close and 400 <= error.status < 600 and json.loads(error.body())
            continue
        heads += 1
        assert found.method.isupper() and found.target.isprintable() and found.target.isascii()
        assert all(value.isprintable() or "\t" in value or not value.isascii() for value in found.fields.values())
        assert found.length is None or 0 <= found.length < 10**15
    assert 500 < heads < 4900


def test_an_unknown_path_or_method_is_refused_and_the_connection_goes_on(server: Running) -> None:
    with server.connect() as line:
        reply = line.ask("GET", "/elsewhere")
        assert (reply.status, reply.code) == (404, "unknown_path")
        for method, path, allowed in (("GET", "/echo", "POST"), ("DELETE", "/health", "GET, HEAD"),
                                      ("OPTIONS", "/echo", "POST")):  # fmt: skip
            reply = line.ask(method, path)
            assert (reply.status, reply.code, reply.fields["allow"]) == (405, "method", allowed)
        assert line.ask("GET", "/health?why=1").status == 200
        assert line.ask("GET", "http://localhost/health").status == 200
    with server.connect() as line:  # with a body, which nobody reads, it ends
        assert line.ask("POST", "/elsewhere", b"x" * 500).fields["connection"] == "close"
        assert line.is_at_end()


def test_head_has_no_body(server: Running) -> None:
    with server.connect() as line:
        line.send(request("HEAD", "/health"))
        status, fields = line.read_head()
        assert status == 200 and fields["content-length"] == "16"
        assert line.ask("GET", "/health").body == b'{"status":"ok"}\n'


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1:8080", "127.9.9.9", "[::1]:80",
                                  "board.example", "LOCALHOST"])  # fmt: skip
def test_this_machine_has_names(server: Running, host: str) -> None:
    with server.connect() as line:
        assert line.ask("GET", "/health", host=host, origin=f"http://{host.lower()}").status == 200


def test_on_an_open_address_every_address_is_a_name() -> None:
    with running(host="0.0.0.0") as server, server.connect() as line:
        assert line.ask("GET", "/health", host="192.0.2.7").status == 200
        assert line.ask("GET", "/health", host=f"{socket.gethostname()}.local:80").status == 200
        assert line.ask("GET", "/health", host="evil.example").status == 421


def test_requests_in_a_row_are_answered_in_order(server: Running) -> None:
    """Sent at once, one of them refused and one in chunks that are cut anywhere."""
    chunked = head(POST, HOST, JSON, b"Transfer-Encoding: chunked\r\n") + b"2\r\n[1\r\n1;a=b\r\n]\r\n0\r\nA: b\r\n\r\n"
    stream = b"\r\n" + request("POST", "/echo", b"one") + request("GET", "/no") + chunked + request("GET", "/health")
    for size in (len(stream), 7):
        with server.connect() as line:
            for at in range(0, len(stream), size):
                line.send(stream[at : at + size])
            replies = [line.read() for _ in range(4)]
            assert [reply.status for reply in replies] == [200, 404, 200, 200]
            assert (replies[0].value, replies[2].value) == ("one", "[1]")


def test_http_1_0_ends_after_one_answer(server: Running) -> None:
    with server.connect() as line:
        reply = line.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").read()
        assert reply.status == 200 and reply.fields["connection"] == "close" and line.is_at_end()


def test_who_asks_first_is_told_to_go_on_or_not_to(server: Running) -> None:
    with server.connect() as line:
        first = request("POST", "/echo", b"12345", expect="100-continue")
        line.send(first[:-5])
        assert line.read().status == 100
        assert line.send(first[-5:]).read().value == "12345"
        line.send(request("POST", "/echo", content_length="2000", expect="100-continue"))
        assert line.read().status == 413  # with no 100 before it
    with server.connect() as line:
        line.send(request("POST", "/no", content_length="20", expect="100-continue"))
        assert line.read().status == 404


def test_what_fails_inside_is_an_answer(server: Running) -> None:
    with server.connect() as line:
        reply = line.ask("POST", "/fault")
        assert (reply.status, reply.code) == (500, "internal") and "ZeroDivisionError" in reply.value["error"][
            "message"
        ]
        reply = line.ask("POST", "/nan")
        assert (reply.status, reply.code) == (500, "not_finite")
        assert line.ask("POST", "/echo", b"still").value == "still"


def test_clients_that_dawdle_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.4)
    with running(TryApp(40_000_000), Limits(body_seconds=0.2, write_seconds=0.3)) as server:
        with server.connect() as line:
            assert line.is_at_end()  # says nothing
        with server.connect() as line:
            reply = line.send(b"GET /health HTT").read()
            assert (reply.status, reply.code) == (408, "slow_head") and line.is_at_end()
        with server.connect() as line:
            reply = line.send(request("POST", "/echo", content_length="9") + b"1234").read()
            assert (reply.status, reply.code) == (408, "slow_body") and line.is_at_end()
        with server.connect() as line:  # asks for much and reads nothing
            line.send(request("POST", "/large"))
            _wait_for(lambda: len(server.lines) == 3)
        assert [text.split()[-5] for text in server.lines] == ["408", "408", "lost"]


def _wait_for(is_so: object) -> None:
    end = time.monotonic() + 20
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def test_a_crowd_is_told_to_come_back() -> None:
    """One computed, two waiting: the fourth is refused at once and the three are answered."""
    with running(limits=Limits(waiting=2)) as server:
        lines = [server.connect() for _ in range(4)]
        lines[0].send(request("POST", "/wait", b"0"))
        assert server.app.begun.acquire(timeout=10)
        for index in (1, 2):
            lines[index].send(request("POST", "/wait", str(index).encode()))
            time.sleep(0.1)
        reply = lines[3].ask("POST", "/wait", b"3")
        assert (reply.status, reply.code, reply.fields["retry-after"]) == (503, "busy", "1")
        assert reply.fields["connection"] == "close" and lines[3].is_at_end()  # its body was not read
        lines[3] = server.connect()
        assert lines[3].ask("GET", "/health").status == 200  # which needs no place
        server.app.go.set()
        assert [lines[index].read().value for index in range(3)] == ["0", "1", "2"]
        assert lines[3].ask("POST", "/wait", b"3").value == "3"
        for line in lines:
            line.close()


def test_connections_have_a_limit() -> None:
    with running(limits=Limits(connections=2)) as server:
        first, second = server.connect(), server.connect()
        assert first.ask("GET", "/health").status == second.ask("GET", "/health").status == 200
        with server.connect() as third:
            reply = third.read()
            assert (reply.status, reply.code) == (503, "busy") and third.is_at_end()
        first.close()
        _wait_for(lambda: _is_answered(server))
        second.close()


def _is_answered(server: Running) -> bool:
    with server.connect() as line:
        try:
            return line.ask("GET", "/health").status == 200
        except OSError:
            return False


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with running(limits=Limits(request_seconds=0.3)) as server, server.connect() as line:
        reply = line.ask("POST", "/wait", b"1")
        assert (reply.status, reply.code) == (504, "timeout")
        reply = line.ask("POST", "/echo", b"1")  # waits behind the one that still computes
        assert (reply.status, reply.code) == (504, "timeout")
        server.app.go.set()
        _wait_for(lambda: line.ask("POST", "/echo", b"1").status == 200)


def test_a_stream_comes_piece_by_piece() -> None:
    with running() as server, server.connect() as line:
        line.send(request("POST", "/stream"))
        status, fields = line.read_head()
        assert status == 200 and fields["content-type"] == "application/x-ndjson"
        assert line.read_chunk() == b'{"text":"one"}\n'  # while the second is not made yet
        assert not server.app.go.is_set()
        server.app.go.set()
        assert line.read_chunk() == b'{"text":"two"}\n' and line.read_chunk() == b""
        assert line.ask("GET", "/health").status == 200


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    with running(limits=Limits(request_seconds=0.3)) as server, server.connect() as line:
        pieces = line.send(request("POST", "/stream")).read().body.splitlines()
        assert pieces[0] == b'{"text":"one"}' and b'"timeout"' in pieces[1] and len(pieces) == 2
        assert server.app.abandoned.wait(10)


def test_stopping_finishes_what_runs_and_lets_go_of_the_rest() -> None:
    with running() as server:
        idle, busy = server.connect(), server.connect()
        assert idle.ask("GET", "/health").status == 200
        busy.send(request("POST", "/wait", b"last") + request("GET", "/health"))
        assert server.app.begun.acquire(timeout=10)
        server.stop()
        assert idle.is_at_end()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        assert server.thread.is_alive()
        server.app.go.set()
        reply = busy.read()
        assert reply.value == "last" and reply.fields["connection"] == "close" and busy.is_at_end()
        server.thread.join(5)
        assert server.clean == [True]
        for line in (idle, busy):
            line.close()


def test_what_does_not_end_is_left_after_the_grace() -> None:
    with running(limits=Limits(grace_seconds=0.3)) as server, server.connect() as line:
        line.send(request("POST", "/wait", b"1"))
        assert server.app.begun.acquire(timeout=10)
        server.stop()
        assert line.is_at_end()
        server.thread.join(5)
        assert server.clean == [False]


def test_every_request_is_one_line_of_log() -> None:
    with running() as server:
        with server.connect() as line:
            line.ask("POST", "/echo", b"1")
            line.ask("GET", "/" + "a" * 500)
            line.send(b"\x00\x01 nonsense\r\n\r\n").read()
        _wait_for(lambda: len(server.lines) == 3)
        first, second, third = server.lines
        assert " POST /echo 200 " in first and first.startswith("20") and "127.0.0.1:" in first
        assert " 404 " in second and len(second) < 200
        assert " - 400 " in third and all(text.isprintable() for text in server.lines)
