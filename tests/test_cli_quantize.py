"""The quantizer's settings and its report from the command line, and calibration data that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import CLASSES, Workshop, open_workshop, refuses, samples, succeeds
from picoformer.ops.graph_file import load_graph


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("quantizing"))


def quantize_words(shop: Workshop, out: Path, *more: str) -> list[str | Path]:
    return ["quantize", shop.model, "--calibration", shop.calibration, "-o", out, *more]


def test_a_budget_lowers_weights_until_the_constants_fit(shop: Workshop, tmp_path: Path) -> None:
    whole = json.loads(succeeds(*quantize_words(shop, tmp_path / "whole", "--json")).out)["constant_bytes"]
    budget = whole - 100
    record = json.loads(succeeds(*quantize_words(shop, tmp_path / "q", "--budget", str(budget), "--json")).out)
    assert record["constant_bytes"] <= budget < whole
    typed = load_graph(tmp_path / "q")
    assert any(typed.types[name].dtype.value == "s4" for name in typed.constants)
    line = refuses(quantize_words(shop, tmp_path / "none", "--budget", "1KB"), "cannot be met", "give at least")
    assert str(tmp_path) not in line and not (tmp_path / "none").exists()


@pytest.mark.parametrize("budget", ["many", "0", "-5", "KB"])
def test_a_budget_that_is_no_number_of_bytes(shop: Workshop, tmp_path: Path, budget: str) -> None:
    refuses(quantize_words(shop, tmp_path / "q", f"--budget={budget}"), "--budget", "bytes" if budget != "0" else "0")


def test_a_budget_needs_integers(shop: Workshop, tmp_path: Path) -> None:
    refuses(quantize_words(shop, tmp_path / "q", "--scheme", "float32", "--budget", "9KB"), "integer scheme")


def test_settings_reach_the_quantizer(shop: Workshop, tmp_path: Path) -> None:
    succeeds(*quantize_words(shop, tmp_path / "wide", "--widen", "1"))
    succeeds(*quantize_words(shop, tmp_path / "narrow", "--widen", "0"))
    wide, narrow = (
        [type_.dtype.value for type_ in load_graph(tmp_path / name).types.values()].count("s16")
        for name in ("wide", "narrow")
    )
    assert wide > narrow
    succeeds(*quantize_words(shop, tmp_path / "even", "--equalization", "on"))
    gains = [len(node.inputs) for node in load_graph(tmp_path / "even").nodes if node.op.kind == "LayerNorm"]
    assert 3 in gains, "a norm takes up scales as its gain"
    build = ["build", shop.model, "--quantized", tmp_path / "even", "--target", "host", "-o", tmp_path / "built"]
    refuses([*build, "--budget", "9KB"], "--quantized", "--budget")
    refuses([*build, "--scheme", "int4x8"], "--quantized", "--scheme")
    refuses([*build, "--inputs-dtype", "int16"], "--quantized", "--inputs-dtype")
    succeeds(*build)
    assert any(n.op.kind == "LayerNorm" and len(n.inputs) == 3 for n in load_graph(tmp_path / "built" / "float").nodes)
    records = [json.loads((tmp_path / name / "quantization.json").read_text()) for name in ("even", "built")]
    assert records[0]["tensors"] == records[1]["tensors"]
    kept = json.loads((tmp_path / "even" / "equalized" / "graph.json").read_text())
    kept["types"] = {name: {**type_, "shape": type_["shape"][:1]} for name, type_ in kept["types"].items()}
    (tmp_path / "even" / "equalized" / "graph.json").write_text(json.dumps(kept))
    refuses(build, "not a graph of this program")


def test_an_equalized_build_is_equal_down_the_chain(shop: Workshop) -> None:
    folder = shop.build("host", "--equalization=on")
    found = json.loads(succeeds("verify", folder, "--inputs", shop.inputs, "--json").out)
    links = {(link["from"], link["to"]): link for link in found["links"]}
    assert found["passed"] and links["reference", "host"]["equal"]
    assert links["float onnx", "float graph"]["max_abs"] < 1e-4


def test_the_report_is_kept_and_shown(shop: Workshop) -> None:
    folder = shop.build("host")
    record = json.loads(succeeds("inspect", folder, "--json").out)
    graph = load_graph(folder / "quantized")
    shown = {row["name"]: row for row in record["tensors"]}
    assert record == json.loads((folder / "quantization.json").read_text())
    assert set(shown) == {n for n, t in graph.types.items() if t.quant is not None and t.dtype.value != "s32"}
    assert all(shown[name]["type"] == graph.types[name].dtype.value for name in shown)
    text = succeeds("inspect", folder).out
    assert record["tensors"][0]["name"] in text and f"{record['constant_bytes']:,} bytes" in text
    (folder / "quantization.json").write_text("{}")
    refuses(["inspect", folder], "quantization.json", "build again")


def test_a_build_shows_the_costliest(shop: Workshop, tmp_path: Path) -> None:
    out = succeeds(*shop.build_words(tmp_path / "b")).out
    record = json.loads((tmp_path / "b" / "quantization.json").read_text())
    assert all(row["name"] in out for row in record["tensors"][:3])
    refuses(["inspect", tmp_path], "has no quantization.json")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": samples(0)}, ["no samples"]),
        ({"x": np.zeros_like(samples(5))}, ["'x' is 0 everywhere", "as the model will see them"]),
        ({"x": np.repeat(samples(1), 6, axis=0)}, ["all 6 samples are the same", "different samples"]),
        ({"x": samples(6), "labels": np.full(6, CLASSES - 1)}, ["all 6 samples have label", "every class"]),
    ],
)
def test_calibration_data_that_teaches_nothing(
    shop: Workshop, tmp_path: Path, arrays: dict[str, np.ndarray], said: list[str]
) -> None:
    bad = tmp_path / "bad.npz"
    np.savez(bad, **arrays)
    refuses(["quantize", shop.model, "--calibration", bad, "-o", tmp_path / "q"], "bad.npz", *said)
    assert not (tmp_path / "q").exists()


def test_one_sample_is_enough(shop: Workshop, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=samples(1))
    succeeds("quantize", shop.model, "--calibration", tmp_path / "one.npz", "-o", tmp_path / "q")


def test_quantize_export_and_build_agree_on_a_valid_length(tmp_path: Path, shop: Workshop) -> None:
    """The same flags everywhere: a folder quantized with an added length is one for a build that adds it too."""
    calibration, folder = ["--calibration", shop.calibration], tmp_path / "integers"
    succeeds("quantize", shop.model, *calibration, "--valid-length", "-o", folder)
    assert "valid_length" in json.loads((folder / "graph.json").read_text())["inputs"]
    words = ["build", shop.model, "--quantized", folder, "--target", "host", "-o", tmp_path / "out"]
    refuses(words, "--valid-length; give those it had")
    succeeds(*words, "--valid-length")
    c = ["--format", "c", "--valid-length", "-o"]
    succeeds("export", shop.model, *calibration, *c, tmp_path / "direct")
    succeeds("export", shop.model, "--quantized", folder, *c, tmp_path / "from")
    made = [(tmp_path / place / "include" / "model.h").read_text() for place in ("direct", "from")]
    assert made[0] == made[1] and "valid_length" in made[0]
