"""What is in a package: the model's card, examples of all sorts of models, arrays; and what is refused."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from command_line import CLASSES, SAMPLES, Workshop, refuses, succeeds
from graphs import CASES
from package_programs import STRICT, cmake, compiled, host_program, run
from package_workshop import SAME, Export, expected_line, export, gesture, shop, tree, typed
from picoformer.backends.c import draft_c, emit
from picoformer.build_folder import quantize_samples
from picoformer.files import file_hash
from picoformer.ir import Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.packages.description import Origin, Package, Sample
from picoformer.packages.forms import board_of
from picoformer.packaging import packed
from picoformer.reference import lower_graph, run_float, run_integer

__all__ = ["export", "shop", "typed"]


# --- what the card says -------------------------------------------------------------------------------------


def test_the_card_says_what_is_so(export: Export, shop: Workshop, typed: Graph) -> None:
    card = json.loads((export("c") / "model_card.json").read_text())
    given = np.load(shop.inputs)
    found = run_integer(lower_graph(typed), {"x": given["x"].reshape(SAMPLES, *typed.types["x"].shape)})["y"]
    right = float(np.mean(found.reshape(SAMPLES, -1).argmax(1) == given["labels"]))
    assert card["accuracy"] == {"value": pytest.approx(right, abs=1e-12), "samples": SAMPLES,
                                "measured_on": "inputs.npz", "measured_by": "integer reference"}  # fmt: skip
    assert card["source"] == {"file": "model.onnx", "sha256": hashlib.sha256(shop.model.read_bytes()).hexdigest()}
    assert card["macs"] == typed.macs and card["scheme"] == "int8" and card["classes"] is None
    x, y = typed.types["x"], typed.types["y"]
    assert x.quant is not None and y.quant is not None
    assert card["inputs"] == [{"name": "x", "c_name": "x", "shape": list(x.shape), "dtype": "int8",
                               "scale": x.quant.scale[0], "zero_point": x.quant.zero_point}]  # fmt: skip
    assert card["outputs"][0]["scale"] == y.quant.scale[0] and card["outputs"][0]["dtype"] == "int16"
    header = (export("c") / "include" / "gesture.h").read_text()
    assert f"GESTURE_ARENA_BYTES {card['ram_bytes']['arena']}\n" in header
    text = (export("c") / "MODEL_CARD.md").read_text()
    assert card["source"]["sha256"] in text and f"{right:.4f} on {SAMPLES} samples (inputs.npz)" in text


def test_what_is_not_known_is_null(shop: Workshop, tmp_path: Path) -> None:
    succeeds("export", shop.model, "--format", "c", "--calibration", shop.calibration, "-o", tmp_path / "c")
    card = json.loads((tmp_path / "c" / "model_card.json").read_text())
    assert card["accuracy"] is None and card["classes"] is None and card["target"] == "generic"
    assert "not measured" in (tmp_path / "c" / "MODEL_CARD.md").read_text()


def test_labels_of_the_calibration_count(shop: Workshop, tmp_path: Path) -> None:
    succeeds("export", shop.model, "--format", "c", "--calibration", shop.inputs, "-o", tmp_path / "c")
    accuracy = json.loads((tmp_path / "c" / "model_card.json").read_text())["accuracy"]
    assert accuracy["samples"] == SAMPLES and accuracy["measured_on"] == "inputs.npz, the samples it was calibrated on"


def test_classes_have_names(shop: Workshop, typed: Graph, tmp_path: Path) -> None:
    names = ["wave, slow", 'a "tap"', "nothing"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    words = ["export", shop.model, "--format", "platformio", "--calibration", shop.calibration, "--inputs", shop.inputs]
    succeeds(*words, "--classes", tmp_path / "classes.txt", "--prefix", "gesture", "-o", tmp_path / "p")
    assert json.loads((tmp_path / "p" / "model_card.json").read_text())["classes"] == names
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    plain = expected_line(typed, np.load(shop.inputs)["x"][0])
    best = int(re.findall(r"class (\d+)", plain)[0])
    assert printed == plain.replace("prediction: class", f"prediction: {names[best]}, class") + SAME
    refuses([*words, "--classes", "a,b", "-o", tmp_path / "q"], "--classes a,b: 2 names", f"{CLASSES} classes")
    refuses([*words, "--classes", "a,a,b", "-o", tmp_path / "q"], "a name of its own")
    assert not (tmp_path / "q").exists()


@pytest.mark.slow
def test_a_build_is_packed_as_it_was_verified(shop: Workshop, tmp_path: Path) -> None:
    build = shop.build("host")
    words = ["--format", "c", "--target", "host", "--prefix", "model"]
    succeeds("export", build, *words, "--inputs", shop.inputs, "-o", tmp_path / "packed")
    for name in ("model.c", "weights.c"):
        packed = (tmp_path / "packed" / "src" / name).read_text()
        built = (build / "host" / "source" / name).read_text()
        assert re.sub(r"^ \* \w+: .*\n", "", packed, flags=re.M) == re.sub(r"^ \* \w+: .*\n", "", built, flags=re.M)
    card = json.loads((tmp_path / "packed" / "model_card.json").read_text())
    assert card["source"]["sha256"] == file_hash(shop.model) and card["accuracy"]["samples"] == SAMPLES
    refuses(["export", build, *words, "--scheme", "int8", "-o", tmp_path / "no"], "--scheme says nothing")
    refuses(["export", build, "-o", tmp_path / "no.onnx"], "is a build folder", "--format")


def test_a_float_model_is_packed(shop: Workshop, tmp_path: Path) -> None:
    words = ["export", shop.model, "--format", "platformio", "--scheme", "float32", "--inputs", shop.inputs]
    succeeds(*words, "-o", tmp_path / "p")
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    graph = quantize_samples(shop.model, None, "float32")[1]
    sample = np.load(shop.inputs)["x"][:1].reshape(1, *graph.types["x"].shape)
    logits = run_float(graph, {"x": sample.astype(np.float32)})["y"].reshape(-1)
    assert printed.startswith(f"prediction: class {int(logits.argmax())}, y ") and printed.endswith(SAME)
    assert abs(float(printed.split(" y ")[1].split("\n")[0]) - logits.max()) <= 0.0011
    card = json.loads((tmp_path / "p" / "model_card.json").read_text())
    assert card["accuracy"]["measured_by"] == "float reference" and card["inputs"][0]["scale"] is None


@pytest.mark.parametrize("name", ["postnorm_tokens", "movement"])
def test_examples_of_other_models_run(name: str, tmp_path: Path) -> None:
    """Ids, valid lengths, outputs that are no classes: what an example prints is held to the reference here too."""
    case = CASES[name]()
    graph = case.quantized()
    found = run_integer(lower_graph(graph), {key: value[:1] for key, value in case.samples.items()})
    sample = Sample({key: value[0] for key, value in case.samples.items()}, {o: found[o][0] for o in graph.outputs}, "")
    board = board_of("platformio", None)
    packed(
        Package("platformio", draft_c(graph, board.isa), board, Origin("a", "b", "int8"), sample=sample), tmp_path / "p"
    )
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    assert printed.endswith(SAME)
    shown = [line.split(":") for line in printed.splitlines() if not line.startswith(("prediction", "the outputs"))]
    for output, values in shown:
        quant = graph.types[output].quant
        real = found[output].reshape(-1)[:8] if quant is None else dequantize(found[output].reshape(-1)[:8], quant)
        assert [float(word) for word in values.split() if word != "..."] == pytest.approx(real, abs=0.00051)
    assert {output for output, _ in shown} == set(graph.outputs) or printed.startswith("prediction: class ")


def test_an_example_without_samples_runs_on_made_up_ones(shop: Workshop, tmp_path: Path) -> None:
    succeeds("quantize", shop.model, "--calibration", shop.calibration, "--valid-length", "-o", tmp_path / "q")
    words = ["--quantized", tmp_path / "q", "--valid-length", "--format", "platformio", "-o", tmp_path / "p"]
    succeeds("export", shop.model, *words)
    assert "made-up numbers" in (tmp_path / "p" / "README.md").read_text()
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    assert printed.startswith("prediction: class ") and printed.endswith(SAME)
    sample = (tmp_path / "p" / "examples" / "predict" / "src" / "sample.h").read_text()
    assert "#define SAMPLE_VALID_LENGTH 6\n" in sample


def test_constants_of_a_large_model_lie_in_a_binary_file(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cmake_tools: None
) -> None:
    monkeypatch.setattr(emit, "LARGEST_TEXT", 100)
    words = ["export", shop.model, "--calibration", shop.calibration, "--format"]
    succeeds(*words, "c", "-o", tmp_path / "c")
    assert (tmp_path / "c" / "src" / "weights.bin").is_file() and not (tmp_path / "c" / "src" / "weights.c").exists()
    cmake(tmp_path / "c", tmp_path / "build")
    assert run(tmp_path / "build" / "predict").endswith(SAME)
    succeeds(*words, "c-single", "-o", tmp_path / "s")
    assert not list((tmp_path / "s").rglob("weights.bin"))
    program = [tmp_path / "s" / "model.c", tmp_path / "s" / "examples" / "predict.c"]
    assert host_program(tmp_path / "run", program, [tmp_path / "s"]).endswith(SAME)


# --- constants as arrays ------------------------------------------------------------------------------------


def read_arrays(folder: Path, out: Path, prefix: str) -> ctypes.CDLL:
    """The arrays, compiled into a library."""
    source = folder / f"{prefix}_arrays.c"
    run("gcc", *STRICT, "-shared", "-fPIC", source, "-o", out)
    return ctypes.CDLL(str(out))


def c_array(library: ctypes.CDLL, symbol: str, dtype: type, count: int) -> np.ndarray:
    kind = np.ctypeslib.as_ctypes_type(dtype)
    return np.ctypeslib.as_array((kind * count).in_dll(library, symbol)).copy()


def unpacked(packed: np.ndarray, rows: int, width: int) -> np.ndarray:
    """int4 by the rules in the header's comment: a byte has two, the earlier one low, and rows begin with a byte."""
    found = np.zeros((rows, width), np.int64)
    stride = (width + 1) // 2
    for row in range(rows):
        for column in range(width):
            nibble = int(packed[row * stride + column // 2]) >> (4 * (column % 2)) & 15
            found[row, column] = nibble - 16 if nibble > 7 else nibble
    return found


@pytest.mark.parametrize("scheme", ["int8", "int4x8", "float32"])
def test_arrays_hold_the_models_numbers(scheme: str, shop: Workshop, tmp_path: Path) -> None:
    """Every constant as a real number, made from the arrays by what their header says, is the graph's."""
    calibration = None if scheme == "float32" else shop.calibration
    words: list[str | Path] = [] if calibration is None else ["--calibration", calibration]
    succeeds(
        "export", shop.model, "--format", "c-arrays", "--prefix", "g", "--scheme", scheme, *words, "-o", tmp_path / "a"
    )
    graph = quantize_samples(shop.model, calibration, scheme)[1]
    library = read_arrays(tmp_path / "a", tmp_path / "arrays.so", "g")
    header = (tmp_path / "a" / "g_arrays.h").read_text()
    listed = re.findall(r"/\* (\S+): (s4|s8|s16|s32|f32) [^\n]*\*/\nextern const \w+ (\w+)\[(\d+)\];", header)
    assert {name for name, *_ in listed} == set(graph.constants) and len(listed) > 8
    kinds = {"s4": np.uint8, "s8": np.int8, "s16": np.int16, "s32": np.int32, "f32": np.float32}
    for name, kind, symbol, count in listed:
        type_, values = graph.types[name], graph.constants[name]
        found = c_array(library, symbol, kinds[kind], int(count))
        found = unpacked(found, type_.rows, type_.width) if kind == "s4" else found
        assert np.array_equal(found.reshape(values.shape), values), name
        quant = type_.quant
        if quant is None:
            continue
        if quant.axis is None:
            scale = re.findall(rf"#define {symbol.upper()}_SCALE (\S+)f\n", header)
            assert np.float32(scale[0]) == np.float32(quant.scale[0])
            assert f"#define {symbol.upper()}_ZERO_POINT ({quant.zero_point})\n" in header
        else:
            scales = c_array(library, f"{symbol}_scale", np.float32, len(quant.scale))
            assert np.array_equal(scales, np.asarray(quant.scale, np.float32)) and f"axis {quant.axis}" in header
        if quant.block_multipliers:
            blocks = np.asarray(quant.block_multipliers)
            assert np.array_equal(c_array(library, f"{symbol}_blocks", np.uint8, blocks.size), blocks.reshape(-1))
    assert any(kind == "s4" for _, kind, *_ in listed) == (scheme == "int4x8")
    for node in graph.nodes:
        assert re.search(rf"^ \* {re.escape(node.output)} = {node.op.kind}\(", header, re.MULTILINE)


# --- the same again, and what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["c-arrays", "c-single", "cmsis-pack", "zephyr"])
def test_the_same_model_gives_the_same_bytes(form: str, export: Export, shop: Workshop, tmp_path: Path) -> None:
    succeeds(*gesture(shop, form), "-o", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(export(form))


def test_what_cannot_be_is_refused(shop: Workshop, tmp_path: Path) -> None:
    words = ["export", shop.model, "--format", "arduino", "--calibration", shop.calibration, "-o"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    refuses([*words, tmp_path / "mine"], "holds other files")
    (tmp_path / "folder.zip").mkdir()
    refuses([*words, tmp_path / "folder.zip"], "is a folder", ".zip")
    onnx = ["export", shop.model, "--classes", "a,b,c", "-o", tmp_path / "m.onnx"]
    refuses(onnx, "--classes says nothing about --format onnx")
    refuses([*words, tmp_path / "a", "--target", "nowhere"], "unknown target 'nowhere'")
    refuses([*words, tmp_path / "a", "--prefix", "Arduino"], "prefix 'Arduino'")
    np.savez(tmp_path / "other.npz", z=np.zeros((2, 3), np.float32))
    refuses([*words, tmp_path / "a", "--inputs", tmp_path / "other.npz"], "no array 'x'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.zip", "mine", "other.npz"]
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"
