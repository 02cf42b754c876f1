"""`picoformer export --format tflite`: what it writes, says and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import text_models
from command_line import SAMPLES, Workshop, open_workshop, refuses, samples, succeeds
from picoformer import api
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.backends.tflite.file import read_program
from picoformer.backends.tflite.runtime import run_tflite
from picoformer.files import file_hash


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("tflite"))


@pytest.mark.parametrize(("scheme", "least"), [("float32", 90.0), ("int8", 22.0), ("int8x16", 38.0)])
def test_every_scheme(shop: Workshop, tmp_path: Path, scheme: str, least: float) -> None:
    out = tmp_path / "model.tflite"
    words: list[str | Path] = ["export", shop.model, "--format", "tflite", "--scheme", scheme, "-o", out]
    if scheme != "float32":
        words += ["--calibration", shop.calibration]
    record = succeeds(*words, "--check", shop.inputs, "--json").record
    assert record["bytes"] == out.stat().st_size and record["runs_on_tflite_micro"] is True
    assert record["samples"] == SAMPLES and record["sqnr_db"] >= least and 0 <= record["accuracy"] <= 1
    assert sum(record["operators"].values()) == record["steps"]
    assert ("cost_of_one_type_db" in record) == (scheme == "int8")
    summary = {(e["operator"], e["inside"]): e for e in record["checked"]["summary"]}
    assert summary["Linear", False]["worst"] <= (1e-5 if scheme == "float32" else 1)
    assert summary["Linear", False]["equal"] > 0.9 and len(record["checked"]["rows"]) > 30
    program, metadata = read_program(out.read_bytes())
    assert metadata["source_sha256"] == file_hash(shop.model) and metadata["scheme"] == scheme
    expected = run_onnx(shop.model, {"x": samples()[:, None]})["y"]
    for runtime in ("litert", "micro"):
        found = run_tflite(out, {"x": samples()[:, None]}, runtime=runtime)["y"]  # type: ignore[arg-type]
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 0.2 * np.abs(expected).max()
    first = out.read_bytes()
    text = succeeds(*words, "--check", shop.inputs).out
    assert out.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert "inside a node" in text and "runs on tflite micro       yes" in text
    assert program.inputs == ("x",)


def test_gelu_and_operators_that_micro_lacks(shop: Workshop, tmp_path: Path) -> None:
    words: list[str | Path] = ["export", shop.model, "--format", "tflite", "--calibration", shop.calibration]
    out = tmp_path / "m.tflite"
    table = succeeds(*words, "-o", out, "--json").record
    assert table["operators"]["GATHER"] == 1 and "GELU" not in table["operators"]
    whole = succeeds(*words, "--gelu", "operator", "--any-operator", "-o", out, "--json").record
    assert whole["operators"]["GELU"] == 1 and whole["runs_on_tflite_micro"] is False
    refuses([*words, "--gelu", "operator", "-o", out], "(Activation)", "no GELU for int8", "--any-operator")


def test_what_is_refused(shop: Workshop, tmp_path: Path) -> None:
    words: list[str | Path] = ["export", shop.model, "--format", "tflite", "-o", tmp_path / "m.tflite"]
    calibrated = [*words, "--calibration", shop.calibration]
    refuses(words, "int8 needs --calibration")
    refuses([*calibrated, "--scheme", "int4x8"], "int4x8", "float32, int8, int8x16")
    refuses([*calibrated, "--budget", "40KB"], "budget")
    refuses([*calibrated, "--wide-weights", "0.5"], "wide weights")
    refuses([*calibrated, "--target", "host"], "--target says nothing about --format tflite")
    refuses([*calibrated, "--check", tmp_path / "none.npz"], "none.npz")
    refuses([*calibrated[:-2], "--calibration", tmp_path / "none.npz"], "none.npz")
    refuses([*words[:-1], tmp_path], "is a folder")
    refuses(["export", shop.model, "--format", "onnx", "--gelu", "table", "-o", tmp_path / "m"], "--gelu says nothing")
    refuses(["export", shop.model, "--format", "c", "--check", shop.inputs, "-o", tmp_path / "m"], "--check says")
    assert list(tmp_path.iterdir()) == []


def test_from_python(shop: Workshop, tmp_path: Path) -> None:
    api.export(shop.model, calibration=shop.calibration, scheme="int8", form="tflite", out=tmp_path / "m.tflite")
    words = ["export", shop.model, "--format", "tflite", "--calibration", shop.calibration, "-o", tmp_path / "c.tflite"]
    succeeds(*words)
    assert (tmp_path / "m.tflite").read_bytes() == (tmp_path / "c.tflite").read_bytes()


def test_a_language_model(place: Path, tmp_path: Path) -> None:
    folder = text_models.model_folder(place)
    tokens = tmp_path / "tokens.npz"
    np.savez(tokens, tokens=np.random.default_rng(0).integers(0, text_models.TOKENS, (1, 12)))
    words: list[str | Path] = ["export", folder, "--format", "tflite", "-o", tmp_path / "m.tflite"]
    for scheme in ("float32", "int8x16"):
        record = succeeds(*words, "--scheme", scheme, "--check", tokens, "--json").record
        assert record["tokens"] == 12 and record["same_token"] >= 0.75
        assert record["sqnr_db"] >= (80 if scheme == "float32" else 20)
        assert record["cache_bytes"] == (4 if scheme == "float32" else 2) * 2 * 6 * text_models.CONTEXT
        program, _ = read_program((tmp_path / "m.tflite").read_bytes())
        assert program.inputs[:2] == ("tokens", "position") and len(program.inputs) == len(program.outputs) + 1
        found = {entry["operator"]: entry for entry in record["checked"]["summary"] if not entry["inside"]}
        assert found["Linear"]["worst"] <= 1 and found["KvAppend"]["worst"] <= 1
    refuses([*words, "--scheme", "int8"], "16-bit activations", "int8x16")
    refuses([*words, "--scheme", "float32", "--block", "4"], "--block says nothing")
    refuses([*words, "--scheme", "float32", "--check", tmp_path / "m.tflite"], "m.tflite")
    np.savez(tokens, tokens=np.full((1, 3), text_models.TOKENS))
    refuses([*words, "--scheme", "float32", "--check", tokens], str(text_models.TOKENS))


def test_tensorflow_is_never_loaded_to_write(shop: Workshop, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom picoformer.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'ai_edge_litert', 'flatbuffers', 'tflite_micro'}\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    words = ["export", str(shop.model), "--scheme", "float32", "--format", "tflite", "-o", str(tmp_path / "m.tflite")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "ai_edge_litert flatbuffers" and done.stderr == ""
