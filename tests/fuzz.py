"""Files that nobody vouches for, mutated: python tests/fuzz.py --seconds 30 finds what is not refused in one line.

Each case is a number: it seeds the choice of a file, of what is done to it, and all else, so that a finding can be run
again alone (--case). A case is clean when the file is read or refused by a PicoformerError of one line, in bounded time
and memory, and nothing was written outside the case's folder. Cases run in a process of their own, which has a limit on
its memory, and whose end by a signal is a finding too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_files
from picoformer.errors import PicoformerError

MEMORY_BYTES = 4 << 30
"""Address space of the process: several times what its libraries take."""
SECONDS_PER_CASE = 20


class TooSlow(Exception):
    """A case took longer than it may."""


def _alarm(*_: Any) -> None:
    raise TooSlow(f"over {SECONDS_PER_CASE} s")


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.alarm(0)


READ, REFUSED = "read", "refused"


def outcome(case: int, base: Path) -> str:
    """READ, REFUSED, or what is unclean about a case; `base` is an empty folder, and is so again afterwards."""
    generator = random.Random(case)
    outside, folder = base / "outside", base / "case"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret.bin").write_bytes(bytes(256))
    problem = READ
    try:
        with _time_limit():
            read = fuzz_files.make(generator, folder)
            given = _listing(base)
            try:
                read()
            except PicoformerError as error:
                text, problem = str(error), REFUSED
                if "\n" in text or not text or len(text) > 20_000:
                    problem = f"an error of {len(text)} characters, {text.count(chr(10)) + 1} lines: {text[:200]!r}"
        if problem in (READ, REFUSED) and _listing(base) != given:
            problem = f"files were written: {sorted(_listing(base) ^ given)[:3]}"
    except TooSlow as error:
        problem = str(error)
    except MemoryError:
        problem = "takes more memory than there is"
    except Exception as error:  # that is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:200]!r}"
    for path in (outside, folder):
        shutil.rmtree(path)
    return problem


def _listing(base: Path) -> set[tuple[str, int]]:
    return {(str(path.relative_to(base)), path.lstat().st_size) for path in base.rglob("*")}


def work(first: int, count: int, seconds: float) -> None:
    """Run cases and print one JSON line before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="picoformer-fuzz-") as base:
        for case in range(first, first + count):
            if time.monotonic() > ends:
                return
            print(json.dumps({"case": case}), flush=True)
            print(json.dumps({"case": case, "outcome": outcome(case, Path(base))}), flush=True)


@dataclass
class Report:
    """What came of a number of cases."""

    read: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Cases that were run."""
        return self.read + self.refused + len(self.findings)


def run(first: int, count: int, seconds: float) -> Report:
    """Run at most `count` cases in at most about so many seconds."""
    ends = time.monotonic() + seconds
    report = Report()
    while report.done < count and time.monotonic() < ends:
        left = [str(first + report.done), str(count - report.done)]
        command = [sys.executable, "-W", "ignore", __file__, "--work", *left, "--seconds", str(ends - time.monotonic())]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            under_way = None
            for line in process.stdout:
                record = json.loads(line)
                under_way = record["case"] if "outcome" not in record else None
                if "outcome" in record:
                    _count(report, record["case"], record["outcome"])
        if under_way is not None:
            _count(report, under_way, f"ended the process with {process.returncode}")
        elif process.returncode != 0:
            report.findings.append(f"the process ended with {process.returncode}")
            break
    return report


def _count(report: Report, case: int, what: str) -> None:
    if what == READ:
        report.read += 1
    elif what == REFUSED:
        report.refused += 1
    else:
        report.findings.append(f"case {case}: {what}")


def main() -> int:
    """Run cases for a while and print what was found; 1 when anything was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--first", type=int, help="the first case; by default one that was hardly run before")
    parser.add_argument("--count", type=int, default=1 << 30)
    parser.add_argument("--case", type=int, help="run this case alone, and let what it raises through")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work, arguments.seconds)
        return 0
    if arguments.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            fuzz_files.make(random.Random(arguments.case), Path(folder))()
        return 0
    first = int.from_bytes(os.urandom(5), "big") if arguments.first is None else arguments.first
    report = run(first, arguments.count, arguments.seconds)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{report.done} cases from {first} on: {report.read} read, {report.refused} refused in one line, "
          f"{len(report.findings)} findings; at most {peak} MiB of memory")  # fmt: skip
    print("\n".join(report.findings))
    return 1 if report.findings or report.done == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
