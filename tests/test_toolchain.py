"""The cache of compiled objects: what is the same is compiled once, what has changed is compiled again."""

from __future__ import annotations

from pathlib import Path

import pytest

from picoformer.compilers import named_compiler
from picoformer.files import cache_root
from picoformer.toolchain import Unit, compile_units


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "cache"))


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def compiled(sources: Path, includes: list[Path], build: Path) -> bytes:
    build.mkdir(exist_ok=True)
    units = [Unit(sources / "op.c", Path("op.o"))]
    compile_units(named_compiler("gcc"), ["-O2"], includes, units, build)
    return (build / "op.o").read_bytes()


def kept() -> int:
    return len(list(cache_root().rglob("*.o")))


def test_an_operator_is_compiled_once_for_all_models(tmp_path: Path) -> None:
    firmware = write(
        tmp_path / "firmware", op_c='#include "op.h"\nint f(void) { return ANSWER; }\n', op_h="#define ANSWER 1\n"
    )
    models = [write(tmp_path / name, model_h=f"#define SIZE {name[-1]}\n") for name in ("model1", "model2")]
    first, second = (compiled(firmware, [firmware, model], tmp_path / f"build_{model.name}") for model in models)
    assert first == second and kept() == 1


@pytest.mark.parametrize("mark", ['"in.h"', "<in.h>"])
def test_a_header_of_a_header_counts(mark: str, tmp_path: Path) -> None:
    sources = write(
        tmp_path / "src", op_c='#include "op.h"\nint f(void) { return ANSWER; }\n', op_h=f"#  include {mark}\n"
    )
    inner = write(tmp_path / "inc", in_h="#define ANSWER 1\n")
    first = compiled(sources, [inner], tmp_path / "build")
    write(inner, in_h="#define ANSWER 2\n")
    assert compiled(sources, [inner], tmp_path / "build") != first and kept() == 2
    write(inner, in_h="#define ANSWER 1\n")
    assert compiled(sources, [inner], tmp_path / "build") == first and kept() == 2


def test_the_nearest_header_is_the_one_that_counts(tmp_path: Path) -> None:
    sources = write(
        tmp_path / "src", op_c='#include "op.h"\nint f(void) { return ANSWER; }\n', op_h="#define ANSWER 1\n"
    )
    other = write(tmp_path / "inc", op_h="#define ANSWER 3\n")
    first = compiled(sources, [other], tmp_path / "build")
    write(other, op_h="#define ANSWER 4\n")
    assert compiled(sources, [other], tmp_path / "build") == first and kept() == 1
