"""A model that a board cannot hold is refused before a compiler starts, with bytes, names, and what would mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Workshop, open_workshop, refuses
from picoformer import toolchain

BOARD = (Path(__file__).parents[1] / "targets" / "mps2-an386.toml").read_text()


def board(folder: Path, flash: int = 0x400000, ram: int = 0x400000) -> Path:
    """A board like the mps2-an386, called small, with other sizes in bytes."""
    text = BOARD.replace('name = "mps2-an386"', 'name = "small"').replace("0x00400000", f"{flash:#x}", 1)
    (folder / "small.toml").write_text(text.replace("0x00400000", f"{ram:#x}", 1))
    return folder / "small.toml"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a compiler was started")

    monkeypatch.setattr(toolchain.subprocess, "run", refused)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"flash": 1024}, ("flash (ssram1) needs ", "and has 1,024")),
        ({"ram": 4608}, ("RAM (ssram23) needs ", "and has 4,608", "stack 4,096")),
    ],
)
def test_refused_before_any_compile(
    tmp_path: Path, no_compiler: None, workshop: Workshop, sizes: dict[str, int], said: tuple[str, ...]
) -> None:
    target, out = board(tmp_path, **sizes), tmp_path / "out"
    words = workshop.build_words(out, target)
    line = refuses(words, "the model does not fit small: ", *said, "the room, or make the model smaller")
    assert "biggest: " in line
    biggest = line.partition("biggest: ")[2].partition(";")[0].split(", ")
    counts = [int(part.rpartition(" ")[2].replace(",", "")) for part in biggest]
    assert len(counts) == 3 and counts == sorted(counts, reverse=True)
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]
