"""Estimates before building: against what a build then measures, without a compiler, and what they do not know."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import Workshop, open_workshop, picoformer, refuses, succeeds
from picoformer import toolchain
from picoformer.api import build, verify
from picoformer.backends.c import draft_c
from picoformer.estimate import formulas
from picoformer.estimate.calls import calls_of
from picoformer.estimate.costs import cost_table
from picoformer.estimate.formulas import terms_of
from picoformer.estimate.inspection import estimate
from picoformer.estimate.made_up import made_up_graph, made_up_samples
from picoformer.importing import import_model
from picoformer.models.config import TransformerConfig, reference_encoder_config
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.targets import load_target
from test_misfit import board

torch.set_num_threads(1)

REFIT = "fit the costs again: python benchmarks/fit_costs.py"
SHAPES = {
    "reference encoder": reference_encoder_config("gelu"),
    "digits student": TransformerConfig.uniform(
        layers=2, heads=2, d_ff=64, d_model=32, image=(1, 8, 8), patch=(2, 2), classes=10
    ),
    "odd sizes": TransformerConfig.uniform(
        layers=1, heads=3, d_ff=77, d_model=27, sequence=21, input_size=11, classes=7, activation="relu"
    ),
}
TEXT = TransformerConfig.uniform(
    layers=1, heads=2, d_ff=32, d_model=16, sequence=9, vocab_size=40, classes=40, causal=True, pooling="none"
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("workshop"))


def exported(folder: Path, config: TransformerConfig) -> Path:
    export_onnx(Transformer(config, seed=0), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("shape", "scheme"), [("reference encoder", "int8"), ("digits student", "int8"), ("odd sizes", "int4x16")]
)
def test_an_estimate_is_what_a_build_measures(tmp_path: Path, arm_tools: None, shape: str, scheme: str) -> None:
    model = exported(tmp_path, SHAPES[shape])
    said = succeeds("inspect", model, "--target", "mps2-an386", "--scheme", scheme, "--json").record
    samples = made_up_samples(import_model(model), 4, seed=1)
    build(model, calibration=samples, scheme=scheme, target="mps2-an386", out=tmp_path / "out")
    found = verify(tmp_path / "out", inputs={name: x[:1] for name, x in samples.items()}, min_sqnr=0).to_json()
    assert said["instructions"] == pytest.approx(found["instructions"]["per_inference"], rel=0.1), REFIT
    for end in ("low", "high"):
        assert said["cycles"][end] == pytest.approx(found["cycles"][end], rel=0.1), REFIT
    for memory in ("ram_bytes", "flash_bytes"):
        assert said[memory]["total"] == pytest.approx(found[memory]["total"], rel=0.05), REFIT
    sizes = json.loads((tmp_path / "out" / "mps2-an386" / "size.json").read_text())
    assert said["image"]["flash"]["bytes"] == pytest.approx(sizes["flash"]["total"], rel=0.05), REFIT
    assert said["image"]["ram"]["bytes"] == pytest.approx(sizes["ram"]["total"], rel=0.05), REFIT
    assert said["ram_bytes"]["stack"] == pytest.approx(found["ram_bytes"]["stack"], rel=0.1), REFIT
    assert [step["name"] for step in said["steps"]] == [step["name"] for step in found["instructions"]["per_operator"]]


def test_with_the_data_of_the_build_the_code_is_foretold(tmp_path: Path, arm_tools: None, workshop: Workshop) -> None:
    words = ["--calibration", workshop.calibration, "--target", "mps2-an386"]
    said = succeeds("inspect", workshop.model, *words, "--json").record
    made = succeeds("build", workshop.model, *words, "-o", tmp_path / "out", "--json").record
    assert said["flash_bytes"]["code"] == pytest.approx(made["flash_bytes"]["code"], rel=0.03), REFIT
    assert said["flash_bytes"]["model"] == made["flash_bytes"]["model"]
    assert said["ram_bytes"]["arena"] == made["ram_bytes"]["arena"]
    assert said["image"]["ram"]["bytes"] == made["ram_bytes"]["total"]


def test_tiles_are_estimated_as_they_are_built(workshop: Workshop) -> None:
    arenas = []
    for tile in ("none", "least"):
        said = succeeds("inspect", workshop.model, "--target", "mps2-an386", "--tile", tile, "--json").record
        arenas.append(said["ram_bytes"]["arena"])
        assert said["instructions"] > said["macs"]
    assert arenas[1] <= arenas[0]
    refuses(["inspect", workshop.model, "--target", "mps2-an386", "--tile", "some"], "some")


def test_costs_of_other_formulas_are_not_used(monkeypatch: pytest.MonkeyPatch, workshop: Workshop) -> None:
    plain, formula = load_target("mps2-an386"), formulas.FORMULAS["pf_linear_"]
    monkeypatch.setitem(formulas.FORMULAS, "pf_linear_", lambda sizes: [*formula(sizes), 1.0])
    found = estimate(made_up_graph(import_model(workshop.model), "int8"), plain, "int8")
    assert found.instructions is None and "make costs" in found.unknown[0]


def test_no_compiler_is_needed_and_little_time(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(toolchain.subprocess, "Popen", refused)
    begun = time.process_time()
    said = succeeds(
        "inspect", workshop.model, "--target", "mps2-an386", "--calibration", workshop.calibration, "--json"
    )
    assert time.process_time() - begun < 5
    assert said.record["fits"] and said.record["data"] == str(workshop.calibration)
    text = succeeds("inspect", workshop.model, "--target", "mps2-an386").out
    assert "it fits" in text and "made up" in text and "nothing was compiled" in text


def test_what_is_not_counted_is_said(workshop: Workshop) -> None:
    uncounted = succeeds("inspect", workshop.model, "--target", "esp32-s3").out
    assert "flash of the library, bytes" in uncounted and "at least " in uncounted
    assert "it fits as far as it is counted; the SDK and your program come on top" in uncounted
    counted = succeeds("inspect", workshop.model, "--target", "rp2040-pico").out
    assert "it fits; the SDK" in counted and "at least" not in counted
    said = succeeds("targets", "--fits", workshop.model).out.splitlines()
    lines = {line.split()[0]: line for line in said if line}
    assert lines["esp32-s3"].endswith("and the SDK's, code not counted") and "SDK" not in lines["mps2-an386"]


def test_a_model_too_large_is_said_and_refused(tmp_path: Path, workshop: Workshop) -> None:
    small = board(tmp_path, ram=4608)
    words = ["inspect", workshop.model, "--target", small]
    refuses(words, "the model does not fit small: RAM (ssram23) needs ", "and has 4,608", "have the room")
    answer = picoformer(*words, "--json")
    assert answer.code == 1 and answer.record["fits"] is False
    assert answer.record["image"]["ram"]["bytes"] > answer.record["image"]["ram"]["available"] == 4608


def test_targets_are_chosen_by_what_fits(tmp_path: Path, workshop: Workshop) -> None:
    small = succeeds("targets", "--fits", workshop.model, "--json").record
    boards = {row["target"]: row for row in small["fits"]}
    assert {"mps2-an386", "microbit"} <= set(boards) and "host" not in boards and small["too_small"] == []
    assert all(row["ram"]["bytes"] <= row["ram"]["available"] for row in boards.values())
    model = exported(tmp_path, SHAPES["reference encoder"])
    large = succeeds("targets", "--fits", model, "--json").record
    assert "mps2-an386" in [row["target"] for row in large["fits"]]
    (microbit,) = (row for row in large["too_small"] if row["target"] == "microbit")
    said = picoformer("inspect", model, "--target", "microbit", "--json").record["image"]
    assert microbit["missing"] == {"ram": said["ram"]["bytes"] - said["ram"]["available"]}
    assert json.loads(succeeds("targets", "--json").out)  # the whole list, as ever


def test_who_fits_is_a_table_with_headings_the_smallest_board_first(tmp_path: Path) -> None:
    model = exported(tmp_path, SHAPES["reference encoder"])
    record = succeeds("targets", "--fits", model, "--json").record
    ram = [row["ram"]["available"] for row in record["fits"]]
    assert ram == sorted(ram) and len(set(ram)) > 4
    lines = succeeds("targets", "--fits", model).out.splitlines()
    fits, small = (
        next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("board ", "too small")
    )
    assert lines[0] == f"model, int8, estimated: {small - fits - 2} of {len(lines) - 5} boards have room"
    assert [line.split()[0] for line in lines[fits + 1 : small - 1]] == [row["target"] for row in record["fits"]]
    assert "RAM lacks, bytes" in lines[small] and "rated MHz" in lines[fits]
    (microbit,) = (row for row in record["too_small"] if row["target"] == "microbit")
    assert f"{microbit['missing']['ram']:,}" in next(line for line in lines[small:] if line.startswith("microbit"))


def test_times_are_said_at_the_clock_of_the_image_and_at_the_rating(workshop: Workshop) -> None:
    words = ["inspect", workshop.model, "--target"]
    nucleo = succeeds(*words, "stm32f446-nucleo", "--json").record
    assert (nucleo["clock_hz"], nucleo["max_clock_hz"]) == (16_000_000, 180_000_000)
    for end in ("low", "high"):
        assert nucleo["seconds"][end] * 16e6 == pytest.approx(nucleo["cycles"][end])
        assert nucleo["seconds_at_max_clock"][end] * 180e6 == pytest.approx(nucleo["cycles"][end])
    text = succeeds(*words, "stm32f446-nucleo").out
    assert "time at 16 MHz, the clock that the image runs at" in text and "time at 180 MHz, the chip's rating" in text
    assert succeeds(*words, "mps2-an386").out.count("time at") == 1


def test_what_was_not_measured_is_not_estimated(workshop: Workshop) -> None:
    plain = load_target("mps2-an386")
    graph = made_up_graph(import_model(workshop.model), "int8")
    assert estimate(graph, plain, "int8").unknown == []
    other = estimate(graph, plain.model_copy(update={"cpu": "cortex-m99"}), "int8")
    assert other.instructions is None and other.cycles is None and other.stack is None
    assert other.unknown == ["no cost table for cortex-m99 with gcc: code is not counted"]
    assert other.sizes.flash.total == other.sizes.flash.model and other.fits


def test_the_sizes_of_calls_are_read_off_the_code(workshop: Workshop) -> None:
    draft = draft_c(made_up_graph(import_model(workshop.model), "int8"), ["dsp", "generic"])
    steps = calls_of(draft)
    assert len(steps) == len(draft.rows)
    macs = 0
    for call in (call for calls in steps for call in calls):
        assert call.times == 1 and terms_of(call.function, call.sizes) is not None, call
        if call.function.startswith("pf_linear"):
            macs += call.sizes["rows"] * call.sizes["n"] * call.sizes["k"]
        if call.function.startswith("pf_attention"):
            width = call.sizes["head_size"] + call.sizes["value_size"]
            macs += call.sizes["heads"] * call.sizes["queries"] * call.sizes["keys"] * width
    assert macs == draft.graph.macs


def test_made_up_ids_are_in_their_table(tmp_path: Path) -> None:
    graph = import_model(exported(tmp_path, TEXT))
    samples: dict[str, Any] = made_up_samples(graph, 50)
    (ids,) = samples.values()
    assert ids.dtype.kind == "i" and ids.min() >= 0 and ids.max() == 39
    assert np.array_equal(ids, next(iter(made_up_samples(graph, 50).values())))
    assert estimate(made_up_graph(graph, "int8x16"), load_target("mps2-an386"), "int8x16").instructions


def test_every_emulated_board_has_a_cost_table() -> None:
    from picoformer.targets import list_targets

    for name in list_targets():
        target = load_target(name)
        if not target.is_host and target.emulator is not None:
            assert cost_table(target) is not None, f"{name}: {REFIT}"
