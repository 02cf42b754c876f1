"""Flashing programs of others, called and never imported: found, run with a bound, watched, stopped with us."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from picoformer.errors import ToolError

_MOST_OUTPUT = 1 << 20
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Line = Callable[[str], None]


def find(names: Sequence[str], module: str, mend: str) -> list[str]:
    """The command that starts a program: one of `names` in the PATH or beside this Python, or its module run by this
    Python (asked for, never imported). ToolError with `mend` where there is none."""
    for name in names:
        beside = Path(sys.executable).with_name(name)
        place = shutil.which(name) or (str(beside) if os.access(beside, os.X_OK) else "")
        if place:
            return [place]
    if module and importlib.util.find_spec(module) is not None:
        return [sys.executable, "-m", module]
    raise ToolError(f"{names[0]} is not installed; {mend}")


def lacking(command: Callable[[], list[str]]) -> tuple[str, ...]:
    """A line of a plan where a program is not there yet; none where it is."""
    try:
        command()
    except ToolError as error:
        return (f"before that: {error}",)
    return ()


def run(command: Sequence[str], name: str, seconds: float, line: Line = lambda text: None) -> tuple[int, str]:
    """(exit code, what it said): `line` is given each line, and each state of a bar, as it comes.

    The program is stopped when it takes longer than `seconds` (ToolError) or when we are.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except OSError as error:
        raise ToolError(f"{name}: cannot be run ({error.strerror}); install it again") from None
    said = bytearray()
    end = time.monotonic() + seconds
    try:
        assert process.stdout is not None
        descriptor, rest = process.stdout.fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise ToolError(f"{name} was still busy after {seconds:g} s and was stopped; is the board asleep?")
                if not selector.select(min(left, 1.0)):
                    continue
                data = os.read(descriptor, 65536)
                if not data:
                    break
                said += data[: max(_MOST_OUTPUT - len(said), 0)]
                *lines, rest = re.split(rb"[\r\n]+", rest[-4096:] + data)
                for text in lines:
                    line(_COLOURS.sub("", text.decode("utf-8", "replace")).strip())
        code = process.wait(max(end - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} did not end; it was stopped") from None
    finally:
        _stop(process)
    return code, _COLOURS.sub("", said.decode("utf-8", "replace"))


def last_words(said: str, name: str, most: int = 300) -> str:
    """The end of what a program said that is worth a line: its error, or its last line."""
    lines = [line.strip(" │╭╰─╮╯") for line in re.split(r"[\r\n]+", said)]
    lines = [line for line in lines if line]
    telling = [line for line in lines if re.search(r"error|fatal|fail|cannot|could not|no such|unable", line, re.I)]
    return (telling or lines or [f"{name} said nothing"])[-1][:most]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
        return
    process.kill()
    process.wait(3)
