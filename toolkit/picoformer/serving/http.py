"""HTTP/1.1 as the server hears it (RFC 9110, RFC 9112): requests read with bounds, answers written."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

HEAD_BYTES = 16 * 1024
"""Most bytes of a request line with its header fields; also of a chunked body's trailer."""
FIELDS = 64
"""Most header fields."""
CHUNK_LINE = 256
"""Most bytes of the line before a chunk."""
HEAD_SECONDS = 10.0
"""For a request's head, from its first byte to the empty line."""
IDLE_SECONDS = 15.0
"""For a first byte, on a new connection or after an answer."""

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")


class HttpError(Exception):
    """A request that gets an error for an answer: status, a code for programs, one line for people.

    With `close` the connection ends after the answer: where the request ends is not known, or its rest is unread.
    """

    def __init__(
        self, status: int, code: str, message: str, close: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.close, self.headers = close, dict(headers or {})

    def body(self) -> bytes:
        """The error as the JSON that answers it."""
        return json_bytes({"error": {"code": self.code, "message": self.message}})


@dataclass(frozen=True)
class Head:
    """A request up to its body: what it asks of what, and the header fields by their names in lower case."""

    method: str
    path: str
    minor: int
    """1 of HTTP/1.1, 0 of HTTP/1.0."""
    fields: Mapping[str, str]
    keeps: bool
    """Whether the client wants to go on after the answer."""
    length: int | None
    """Bytes of the body; None of a chunked one."""
    target: str
    """The path as it was written, for the log."""


async def read_head(reader: asyncio.StreamReader, begins: Callable[[], None]) -> Head | None:
    """The next request's head; None where the client has ended the connection or says nothing.

    `begins` is called with the first byte. Raises HttpError, always with `close`.
    """
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            first = await reader.read(1)
    except TimeoutError:
        return None
    if not first:
        return None
    begins()
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            text = (first + await reader.readuntil(b"\r\n")).removeprefix(b"\r\n")
            # An empty line before a request is passed over, as RFC 9112, 2.2, wants.
            while not text.removeprefix(b"\r\n"):
                text = await reader.readuntil(b"\r\n")
            while not text.endswith(b"\r\n\r\n"):
                text += await reader.readuntil(b"\r\n")
                if len(text) > HEAD_BYTES:
                    raise _too_long()
    except TimeoutError:
        raise HttpError(408, "slow_head", f"the request's head took more than {HEAD_SECONDS:g} s", True) from None
    except asyncio.LimitOverrunError:
        raise _too_long() from None
    except asyncio.IncompleteReadError:
        return None
    return parse_head(text)


def _too_long() -> HttpError:
    return HttpError(431, "head_too_long", f"the request's head has more than {HEAD_BYTES} bytes", True)


def parse_head(text: bytes) -> Head:
    """A request's head from its bytes, empty line included; raises HttpError with `close`."""
    line, *rest = text.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(line) > HEAD_BYTES // 2:
        raise HttpError(414, "target_too_long", f"the request's first line has more than {HEAD_BYTES // 2} bytes", True)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if re.search(rb" HTTP/[2-9]", line):
            raise HttpError(505, "version", "only HTTP/1.1 and HTTP/1.0 are spoken here", True)
        raise HttpError(400, "bad_request_line", "the first line is not METHOD /path HTTP/1.1", True)
    method, target, minor = match[1].decode(), match[2].decode(), int(match[3])
    if len(rest) > FIELDS:
        raise HttpError(431, "too_many_fields", f"more than {FIELDS} header fields", True)
    fields: dict[str, str] = {}
    for each in rest:
        parts = _FIELD.fullmatch(each)
        if parts is None:
            raise HttpError(400, "bad_field", "a header field is not NAME: VALUE in one line", True)
        name, value = parts[1].decode().lower(), parts[2].decode("latin-1")
        if name in fields and name in _ONCE:
            raise HttpError(400, "bad_field", f"the header field {name} stands there twice", True)
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if "host" not in fields:
        raise HttpError(400, "no_host", "the header field Host is missing", True)
    if target.startswith(("http://", "https://")):  # the absolute form, as a proxy would get it
        fields["host"], slash, path = target.split("://", 1)[1].partition("/")
        path = slash + path
    else:
        path = target
    tokens = {token.strip().lower() for token in fields.get("connection", "").split(",")}
    keeps = minor == 1 and "close" not in tokens
    return Head(method, path.partition("?")[0] or "/", minor, fields, keeps, _length(fields, minor), target)


_ONCE = {"host", "content-length", "transfer-encoding", "content-type", "content-encoding", "expect", "origin"}


def _length(fields: Mapping[str, str], minor: int) -> int | None:
    """Where the body ends, unmistakably: two ways to read a length are how requests get smuggled."""
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None:
        if length is not None or minor == 0:
            raise HttpError(400, "bad_length", "Transfer-Encoding beside Content-Length, or in HTTP/1.0", True)
        if coding.lower() != "chunked":
            raise HttpError(501, "transfer_encoding", "of Transfer-Encoding only chunked is known", True)
        return None
    if length is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise HttpError(400, "bad_length", "Content-Length is not a number of bytes", True)
    return int(length)


async def read_body(reader: asyncio.StreamReader, head: Head, limit: int, seconds: float) -> bytes:
    """The body; a length that the head says is looked at before, one in chunks is held to `limit` bytes here.

    Raises HttpError with `close`, ConnectionError where the client leaves.
    """
    try:
        async with asyncio.timeout(seconds):
            if head.length is None:
                return await _read_chunks(reader, limit)
            return await reader.readexactly(head.length)
    except TimeoutError:
        raise HttpError(408, "slow_body", f"the body took more than {seconds:g} s", True) from None
    except asyncio.LimitOverrunError:
        raise HttpError(400, "bad_chunk", "the line before a chunk is not a size", True) from None
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the client left within the body") from None


def too_large(limit: int) -> HttpError:
    """The answer to a body of more than `limit` bytes."""
    return HttpError(413, "body_too_large", f"the body has more than {limit} bytes", True)


async def _read_chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        match = re.fullmatch(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n", line)
        if match is None or len(line) > CHUNK_LINE:
            raise HttpError(400, "bad_chunk", "the line before a chunk is not a size", True)
        size = int(match[1], 16)
        if size == 0:
            break
        if len(body) + size > limit:
            raise too_large(limit)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise HttpError(400, "bad_chunk", "a chunk is longer than its size says", True)
    trailer = 0
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":  # fields behind the body are passed over
        trailer += len(line)
        if trailer > HEAD_BYTES:
            raise _too_long()
    return bytes(body)


def json_bytes(value: Any) -> bytes:
    """A value as one line of JSON; raises ValueError for a number that JSON cannot say."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def answer_head(status: int, headers: Mapping[str, str]) -> bytes:
    """The lines before an answer's body."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in (_ALWAYS | dict(headers)).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)
