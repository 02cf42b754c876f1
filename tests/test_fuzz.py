"""Mutated files are read or refused in one line; and the fuzzer sees each way of not doing so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fuzz
import fuzz_files
from picoformer.errors import ModelError


@pytest.mark.parametrize(("first", "count"), [(0, 100), pytest.param(100, 1000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused_in_one_line(first: int, count: int) -> None:
    report = fuzz.run(first, count, 120)
    assert report.findings == []
    assert report.done == count
    assert report.read > count / 20 and report.refused > count / 2


def _two_lines() -> None:
    raise ModelError("one\ntwo")


def _much() -> None:
    bytearray(fuzz.MEMORY_BYTES)


def _key() -> None:
    {}["x"]


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "two lines": (_two_lines, "2 lines"),
    "a traceback": (_key, "KeyError in test_fuzz.py"),
    "too slow": (lambda: time.sleep(3), "over 1 s"),
    "memory": (_much, "takes more memory than there is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, says = FAULTS[fault]
    monkeypatch.setattr(fuzz_files, "make", lambda *_: reader)
    monkeypatch.setattr(fuzz, "SECONDS_PER_CASE", 1)
    if fault == "memory":
        monkeypatch.setattr(fuzz, "MEMORY_BYTES", 1 << 62)
    assert says in fuzz.outcome(0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_written_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_files, "make", lambda *_: (tmp_path / "outside" / "written").touch)
    assert "files were written: [('outside/written', 0)]" in fuzz.outcome(0, tmp_path)


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    import random

    written = []
    for name in ("a", "b"):
        for case in range(30):
            folder = tmp_path / name / str(case)
            folder.mkdir(parents=True)
            fuzz_files.make(random.Random(case), folder)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file() and not path.is_symlink())
        written.append([(path.parent.name, path.name, path.read_bytes()) for path in files])
    assert written[0] == written[1]
