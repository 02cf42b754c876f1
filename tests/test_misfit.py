"""A model that a board cannot hold is refused before a compiler starts, with bytes, names, and what would mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Workshop, open_workshop, picoformer, refuses, succeeds
from picoformer import build_folder, toolchain
from picoformer.errors import FitError
from picoformer.estimate.early import refuse_early
from picoformer.estimate.mend import board_with_memory, nearest
from picoformer.importing import import_model
from picoformer.quantize import SCHEMES
from picoformer.targets import list_targets, load_target

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


def test_the_boards_offered_are_the_nearest_with_their_memory() -> None:
    """Those whose builds are of the same kind first, the smaller ones before the larger ones."""
    known = [load_target(name) for name in list_targets()]
    nucleo = load_target("stm32f411-nucleo")
    names = [board.name for board in nearest(known, nucleo)]
    assert names[:3] == ["microbit", "stm32f411-nucleo", "stm32f446-nucleo"] and "host" not in names
    ports = [load_target(name).port == "cortex_m" for name in names]
    assert ports == sorted(ports, reverse=True)
    pico = [board.name for board in nearest(known, load_target("rp2040-pico"))]
    assert pico[0] == "coral-dev-board-micro-m4" and pico.index("rp2350-pico2") < pico.index("microbit")
    assert board_with_memory(nucleo) == "stm32f411-nucleo (128 KB RAM, 512 KB flash)"


def test_a_refusal_offers_them_in_that_order(tmp_path: Path, workshop: Workshop) -> None:
    line = refuses(workshop.build_words(tmp_path / "out", board(tmp_path, ram=4608)), "the model does not fit small")
    offered = "microbit (16 KB RAM, 256 KB flash), stm32f411-nucleo (128 KB RAM, 512 KB flash)"
    assert f"{offered}, stm32f446-nucleo (128 KB RAM, 512 KB flash) have the room" in line


def test_refused_before_it_is_quantized(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("it was quantized")

    monkeypatch.setattr(build_folder, "quantize_model", refused)
    words = ["build", workshop.model, "--target", board(tmp_path, ram=4608), "-o", tmp_path / "out"]
    for more in (["--calibration", workshop.calibration], ["--calibration", workshop.calibration, "--tile", "6%"], []):
        refuses([*words, *more], "RAM (ssram23) needs ", "biggest: ", "have the room, or make the model smaller")
    flash = ["build", workshop.model, "--target", board(tmp_path, flash=4096), "-o", tmp_path / "out"]
    refuses(flash, "flash (ssram1) needs ", "have the room")
    under_budget = picoformer(*flash, "--calibration", workshop.calibration, "--budget", "9000")
    assert "it was quantized" in under_budget.err, "under a budget of bytes, flash is not known before"


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_what_fits_to_the_byte_is_not_refused(tmp_path: Path, workshop: Workshop, scheme: str) -> None:
    words = ["--calibration", workshop.calibration, "--scheme", scheme]
    taken = succeeds("inspect", workshop.model, "--target", board(tmp_path), *words, "--json").record["image"]
    graph = import_model(workshop.model)
    sizes = {"flash": taken["flash"]["bytes"], "ram": taken["ram"]["bytes"]}
    refuse_early(graph, load_target(board(tmp_path, **sizes)), scheme)
    for memory, region in (("flash", "ssram1"), ("ram", "ssram23")):
        small = load_target(board(tmp_path, **{memory: int(0.6 * sizes[memory])}))
        with pytest.raises(FitError, match=rf"\({region}\) needs"):
            refuse_early(graph, small, scheme)
