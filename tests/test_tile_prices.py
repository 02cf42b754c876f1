"""Tiles at a percentage: one of the instructions by the measured costs, the same for inspect, build and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from command_line import Workshop, open_workshop, picoformer, succeeds
from picoformer.backends.c import draft_c
from picoformer.estimate import tiles
from picoformer.estimate.costs import cost_table
from picoformer.estimate.made_up import made_up_graph
from picoformer.estimate.tiles import draft_for, instructions
from picoformer.importing import import_model
from picoformer.models.config import reference_encoder_config
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.targets import load_target

torch.set_num_threads(1)

M0 = "mps2-an385-m0"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "model.onnx"
    export_onnx(Transformer(reference_encoder_config("gelu"), seed=0), path)
    return path


@pytest.mark.parametrize(("target", "part", "is_past"), [(M0, 0.06, False), ("mps3-an547", 0.2, True)])
def test_tiles_take_no_more_than_their_price_by_the_measured_costs(
    encoder: Path, target: str, part: float, is_past: bool
) -> None:
    """`is_past`: whether the planner's own prices are too low for what was asked."""
    board = load_target(target)
    graph, table = made_up_graph(import_model(encoder), "int8"), cost_table(board, "gcc")
    assert table is not None
    tile = f"{100 * part:g}%"
    whole, planned = draft_c(graph, board.isa, tile="none"), draft_c(graph, board.isa, tile=tile)
    found = draft_for(graph, board, tile=tile, toolchain="gcc")
    counts = [instructions(draft, table, board) for draft in (whole, planned, found)]
    assert None not in counts
    none, own, measured = (count or 0.0 for count in counts)
    assert (own > none * (1 + part)) is is_past
    assert none * (1 + part) >= measured > none
    assert found.arena_bytes <= 0.75 * whole.arena_bytes


def test_without_measured_costs_the_planner_decides(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, host = made_up_graph(import_model(encoder), "int8"), load_target("host")
    assert draft_for(graph, host, tile="6%").plan == draft_c(graph, host.isa, tile="6%").plan
    board = load_target(M0)
    assert draft_for(graph, board, tile="auto").plan == draft_c(graph, board.isa).plan
    monkeypatch.setattr(tiles, "cost_table", lambda *_: None)
    assert draft_for(graph, board, tile="6%").plan == draft_c(graph, board.isa, tile="6%").plan


def test_inspect_says_what_tiles_take(encoder: Path) -> None:
    words = ["inspect", encoder, "--target", M0, "--toolchain", "gcc"]
    whole, tiled = (succeeds(*words, "--tile", tile, "--json").record for tile in ("none", "auto"))
    assert whole["tiles_take"] == 0 and tiled["tiles_take"] > 0
    assert tiled["tiles_take"] == pytest.approx(tiled["instructions"] - whole["instructions"], abs=2)
    assert "for tiles of rows" in succeeds(*words).out and "tiles" not in succeeds(*words, "--tile", "none").out


def test_a_build_and_an_export_have_the_plan_of_the_estimate(tmp_path: Path, workshop: Workshop) -> None:
    words = ["--calibration", workshop.calibration, "--target", M0, "--tile", "30%"]
    said = succeeds("inspect", workshop.model, *words, "--json").record
    made = succeeds("build", workshop.model, *words, "-o", tmp_path / "out", "--json").record
    c = tmp_path / "c"
    exported = succeeds("export", workshop.model, *words, "--format", "c", "-o", c, "--json").record
    assert said["ram_bytes"]["arena"] == made["arena_bytes"] == exported["arena_bytes"]
    assert picoformer("export", workshop.model, *words[:-1], "x%", "--format", "c", "-o", c).code == 1
