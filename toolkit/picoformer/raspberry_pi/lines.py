"""A stream of lines, one question each, to one JSON answer each: what stands in a shell's pipe.

A line that cannot be answered gets an object with `error` and the line's number, and the stream goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from picoformer.errors import DataError, PicoformerError
from picoformer.raspberry_pi.json_fields import parse_json

LONGEST_LINE = 1 << 20
"""Bytes of one line, its end included."""


def read_lines(stream: BinaryIO, longest: int = LONGEST_LINE) -> Iterator[bytes | None]:
    """The lines of a stream without their ends, as they come; None for one that is longer, of which no more than
    `longest` bytes are ever held."""
    while line := stream.readline(longest):
        if line.endswith(b"\n"):
            yield line[:-1].removesuffix(b"\r")
        elif len(line) < longest:
            yield line  # the last one, which nobody ended
        else:
            while (rest := stream.readline(longest)) and not rest.endswith(b"\n"):
                pass
            yield None


def question(line: bytes | None, is_text: bool) -> Any:
    """What a line asks: a text as it stands, or JSON where it begins with a brace, a bracket or a quotation mark, or
    the model takes no text. Raises DataError for a line that is neither."""
    if line is None:
        raise DataError(f"the line is longer than {LONGEST_LINE} bytes; give shorter ones, or a file")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is no UTF-8; convert the text") from None
    if not text.strip():
        raise DataError("the line is empty; give a text, or a JSON object")
    if is_text and not text.lstrip().startswith(("{", '"')):
        return text
    try:
        return parse_json(text)
    except ValueError as error:
        hint = '; give such a text as {"text": …}' if is_text else '; give {"inputs": {name: numbers}}'
        raise DataError(f"the line is no JSON ({error}){hint}") from None


def answer_lines(
    stream: BinaryIO, write: Callable[[str], None], answer: Callable[[Any], dict[str, Any]], is_text: bool
) -> int:
    """Answer every line of `stream` by one line to `write`; how many had none to give."""
    wrong = 0
    for number, line in enumerate(read_lines(stream), start=1):
        try:
            found = answer(question(line, is_text))
        except PicoformerError as error:
            wrong += 1
            found = {"error": " ".join(str(error).split()), "line": number}
        except MemoryError:
            wrong += 1
            found = {"error": "out of memory; the input is too large for this machine", "line": number}
        write(json.dumps(found) + "\n")
    return wrong
