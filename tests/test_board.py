"""Pruning for a board: what its flash and RAM leave for the model, and a model that fits them already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from picoformer.api import build
from picoformer.compress.budget import Limits, find_limits
from picoformer.compress.settings import DistillSettings, PruneSettings
from picoformer.datasets import save_dataset, synthetic_signal
from picoformer.errors import ConfigError
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer
from picoformer.stages import board_limits, prune_model

torch.set_num_threads(1)

ENCODER = TransformerConfig.uniform(layers=2, heads=4, d_ff=16, d_model=16, sequence=12, input_size=4, classes=3)


def test_a_board_is_flash_and_ram(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "targets" / "mps2-an386.toml").read_text()
    board = tmp_path / "small.toml"
    board.write_text(text.replace("0x00400000", "0x00008000"))
    limits = board_limits(PruneSettings(board=str(board), code_bytes=20_000))
    assert limits == Limits(bytes=0x8000 - 20_000, ram=0x8000 - 4096 - 2816)
    assert find_limits(ENCODER, PruneSettings(board=str(board), budget="bytes", limit=5), limits) == Limits(
        bytes=5, ram=limits.ram
    )
    with pytest.raises(ConfigError, match="code_bytes"):
        board_limits(PruneSettings(board=str(board), code_bytes=40_000))
    with pytest.raises(
        ConfigError, match=r"32,768 bytes of RAM less a stack of 4,096 and runtime_bytes = 30,000: nothing"
    ):
        board_limits(PruneSettings(board=str(board), runtime_bytes=30_000))
    with pytest.raises(ConfigError, match="this machine"):
        board_limits(PruneSettings(board="host"))
    assert board_limits(PruneSettings()) is None


@pytest.mark.parametrize(
    ("keys", "fits"),
    [({"budget": "macs", "keep": 1.0}, True), ({"budget": "bytes", "limit": 10**6, "rounds": 3}, True),
     ({"budget": "macs", "keep": 0.9}, False), ({"budget": "macs", "keep": 1.0, "width_fraction": 0.25}, False)],
)  # fmt: skip
def test_what_fits_already_is_neither_pruned_nor_trained(tmp_path: Path, keys: dict[str, Any], fits: bool) -> None:
    model, data = Transformer(ENCODER, seed=1), synthetic_signal(seed=0, n=160, seq=12, features=4, classes=3)
    save_dataset(data, tmp_path / "data.npz")
    save_checkpoint(model, tmp_path / "model.safetensors")
    out, curves = tmp_path / "small.safetensors", tmp_path / "small.curves.json"
    curves.write_text("{}")
    figures = prune_model(
        tmp_path / "model.safetensors", tmp_path / "data.npz", PruneSettings(samples=64, **keys), out,
        DistillSettings(epochs=1, batch=64),
    )  # fmt: skip
    assert figures.get("pruned") == ("fits already; nothing pruned" if fits else None)
    weights, before = load_checkpoint(out)[0].state_dict(), model.state_dict()
    assert fits == all(torch.equal(weights[name], before[name]) for name in weights)
    assert curves.is_file() != fits, "curves are of a training that there was"
    assert len(figures["pruning"]["rounds"]) == 1


def test_the_ram_and_flash_beside_the_model_are_what_a_build_takes(tmp_path: Path, arm_tools: None) -> None:
    build(Transformer(ENCODER), scheme="float32", target="mps2-an386", out=tmp_path / "out")
    sizes = json.loads((tmp_path / "out" / "mps2-an386" / "size.json").read_text())
    beside, settings = sizes["ram"]["data"] + sizes["ram"]["runtime"], PruneSettings()
    assert 0 <= settings.runtime_bytes - beside <= 256, beside
    assert sizes["flash"]["code"] + sizes["flash"]["runtime"] < settings.code_bytes
