"""Generated C: it compiles everywhere, computes the reference's bytes, and says no where it cannot.

To write the golden file anew: PICOFORMER_UPDATE_GOLDEN=1 python -m pytest tests/test_backend_c.py -k golden
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c_host import FIRMWARE, GENERIC, STRICT, Objects, State, host, link, object_cache, rows_computed, run
from c_library import preprocessed_header, prototypes
from graphs import CASES, Builder, tiny_classifier
from picoformer.backends.c import emit_c, steps_of
from picoformer.backends.c.isa import layout_of
from picoformer.backends.c.source_operators import EMITTERS
from picoformer.backends.c.sources import files_behind
from picoformer.ir import DType, Graph, QuantParams, TensorType
from picoformer.ops import (
    OPERATORS,
    Requantize,
)
from picoformer.ops.attention import EXP_ENTRIES
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.ops.graph_file import graph_identity
from picoformer.reference import lower_graph, run_float, run_integer

GOLDEN = Path(__file__).parent / "golden" / "tiny_classifier.c"


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Firmware objects, compiled once for all tests."""
    return object_cache(tmp_path_factory.mktemp("objects"))


# Equality with the reference.


def sample_bytes(values: Mapping[str, Any], graph: Graph, index: int) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(values[name][index]).tobytes() for name in graph.inputs}


@pytest.mark.parametrize("case", CASES)
def test_every_step_gives_the_bytes_of_the_reference(case: str, tmp_path: Path, objects: Objects) -> None:
    made = CASES[case]()
    graph = made.quantized()
    built = host(graph, tmp_path, objects)
    reference = run_integer(lower_graph(graph), made.samples)
    expected_steps = [step.output for step in steps_of(graph, layout_of(GENERIC))]
    for index in range(len(next(iter(made.samples.values())))):
        ran = []
        inputs = sample_bytes(reference, graph, index)
        for name, data in built.steps(inputs):
            expected = rows_computed(np.ascontiguousarray(reference[name][index]), data, inputs)
            assert np.array_equal(np.frombuffer(data, expected.dtype), expected), f"sample {index}, '{name}'"
            ran.append(name)
        assert sorted(ran) == sorted(expected_steps)
        for tensor in built.device.outputs[: built.device.output_count]:
            name = tensor.name.decode()
            assert built.read(tensor) == np.ascontiguousarray(reference[name][index]).tobytes()
    described = built.device
    assert bytes(described.identity) == graph_identity(graph)[:16]
    assert [t.name.decode() for t in described.inputs[: described.input_count]] == list(graph.inputs)
    assert [t.name.decode() for t in described.outputs[: described.output_count]] == list(graph.outputs)


@pytest.mark.parametrize("case", CASES)
def test_float_steps_stay_within_rounding_of_the_reference(case: str, tmp_path: Path, objects: Objects) -> None:
    """1e-5 of the largest: float32 sums in another order and our own exp and erf."""
    made = CASES[case]()
    built = host(made.graph, tmp_path, objects)
    reference = run_float(made.graph, made.samples)
    for index in range(4):
        inputs = sample_bytes(reference, made.graph, index)
        for name, data in built.steps(inputs):
            expected = rows_computed(reference[name][index], data, inputs)
            limit = 1e-5 * float(np.abs(reference[name]).max())
            assert np.abs(np.frombuffer(data, expected.dtype) - expected).max() <= limit, name


def test_every_operator_has_an_emitter_or_a_reason() -> None:
    assert set(EMITTERS) == set(OPERATORS)


def test_every_function_of_ops_h_comes_from_the_files_the_table_names(tmp_path: Path, objects: Objects) -> None:
    declared = sorted(prototypes(preprocessed_header()))
    assert len(declared) > 60
    defined: dict[tuple[str, ...], str] = {}
    for function in declared:
        files = files_behind(function)
        if files not in defined:
            parts = [objects(name.replace("kernels/", "kernels/generic/")) for name in files]
            run("gcc", "-shared", "-Wl,--no-undefined", *parts, "-o", tmp_path / "whole.so")
            defined[files] = run("nm", "--defined-only", *parts)
        assert re.search(rf" T {function}$", defined[files], re.MULTILINE), f"{function} is not in {files}"


# The C itself.


@pytest.mark.parametrize("compiler", ["gcc", "clang", "arm-none-eabi-gcc"])
def test_generated_c_is_clean(compiler: str, tmp_path: Path) -> None:
    assert shutil.which(compiler), f"{compiler} is needed by this test: install it"
    for case in CASES:
        made = CASES[case]()
        for kind, graph in (("integer", made.quantized()), ("float", made.graph)):
            folder = tmp_path / case / kind
            model = emit_c(graph, GENERIC, "model", folder)
            files = [folder / name for name in (*model.model_sources, "main.c")]
            include = f"-I{FIRMWARE / 'include'}"
            run(compiler, *STRICT, "-DMODEL_STEP_NAMES", "-fsyntax-only", include, *files)
    run(
        "clang++",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-fsyntax-only",
        "-x",
        "c++",
        folder / "model.h",
    )


def test_the_example_runs_under_the_sanitizers(tmp_path: Path) -> None:
    model = emit_c(CASES["postnorm_tokens"]().quantized(), GENERIC, "model", tmp_path)
    files = [tmp_path / "model.c", tmp_path / "weights.c", tmp_path / "main.c"]
    files += [FIRMWARE / source for source in model.sources]
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    run("gcc", "-std=c99", "-g", *checks, f"-I{FIRMWARE / 'include'}", *files, "-o", tmp_path / "example")
    run(tmp_path / "example")


def test_sources_lists_what_the_folder_holds(tmp_path: Path) -> None:
    model = emit_c(tiny_classifier().quantized(), GENERIC, "net", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(model.files)
    listed = json.loads((tmp_path / "sources.json").read_text())
    assert listed["model_sources"] == ["net.c", "weights.c", "net_device.c"]
    assert listed["sources"] == list(model.sources)
    assert all((FIRMWARE / name).is_file() for name in listed["sources"])
    assert all((FIRMWARE / name).is_dir() for name in listed["include"])
    text = (tmp_path / "weights.c").read_text()
    counts = [int(n) for n in re.findall(r"^const \w+ \w+\[(\d+)\]", text, re.MULTILINE)]
    assert len(counts) == 8 and model.weights_bytes == 48 + 24 + (8 + 3) * (4 + 2) + 256 + EXP_ENTRIES * 2


def test_golden_model_reads_as_before(tmp_path: Path) -> None:
    emit_c(tiny_classifier().quantized(), GENERIC, "model", tmp_path, card=["int8, made-up scales"])
    text = (tmp_path / "model.c").read_text()
    if os.environ.get("PICOFORMER_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "see the first lines of this test file for how to write it anew"


def test_the_same_graph_gives_the_same_files(tmp_path: Path) -> None:
    graph = CASES["prenorm_encoder"]().quantized()
    first, second = (emit_c(graph, GENERIC, "model", tmp_path / name) for name in ("a", "b"))
    for name in first.files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_equal_constants_are_stored_once(tmp_path: Path) -> None:
    graph = CASES["postnorm_tokens"]().quantized()
    emit_c(graph, GENERIC, "model", tmp_path)
    body = [int(n) for n in re.findall(r"int8_t model_\w+\[(320)\]", (tmp_path / "weights.c").read_text())]
    assert body == [320], "the table of the embedding and the tied output layer"


def test_sections_can_be_chosen(tmp_path: Path) -> None:
    emit_c(tiny_classifier().quantized(), GENERIC, "model", tmp_path)
    flags = [
        f'-DMODEL_{what}_ATTRIBUTE=__attribute__((section(".{where}")))'
        for what, where in (("WEIGHTS", "external"), ("CODE", "fast_code"), ("ARENA", "fast_data"))
    ]
    found = {}
    for name in ("weights", "model", "model_device"):
        source, output = tmp_path / f"{name}.c", tmp_path / f"{name}.o"
        run("arm-none-eabi-gcc", *STRICT, *flags, f"-I{FIRMWARE / 'include'}", "-c", source, "-o", output)
        found[name] = run("arm-none-eabi-objdump", "-ht", output)
    assert re.search(r"\.external\s\S+ model_logits_weight", found["weights"])
    assert re.search(r"\.fast_code\s\S+ model_step", found["model"])
    assert re.search(r"\.fast_code\s\S+ run_call", found["model"])
    assert re.search(r"\.fast_data\s\S+ arena", found["model_device"])
    assert re.search(r" \.external .* 2\*\*4$", found["weights"], re.MULTILINE), "aligned to 16"
    assert re.search(r" \.fast_data .* 2\*\*4$", found["model_device"], re.MULTILINE), "aligned to 16"
    own = re.findall(r" g .* (\w+)$", found["model_device"], re.MULTILINE)
    assert own == ["pf_device"], "nothing else of the descriptor is visible"


# The API.


def aligned(count: int) -> tuple[Any, int]:
    """A buffer and an address in it that is a multiple of 16 with `count` bytes behind it."""
    buffer = ctypes.create_string_buffer(count + 32)
    return buffer, -(-ctypes.addressof(buffer) // 16) * 16


def test_init_checks_the_arena(tmp_path: Path, objects: Objects) -> None:
    library = host(tiny_classifier().quantized(), tmp_path, objects).library
    state = State()
    buffer, address = aligned(64)
    init = library.model_init
    init.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    pointer = ctypes.addressof(state)
    assert init(pointer, address, 31) == -2
    assert library.model_run(ctypes.byref(state)) == -2
    assert init(pointer, address + 8, 64) == -2
    assert init(pointer, None, 64) == -2
    assert init(pointer, address, 32) == 0
    assert library.model_run(ctypes.byref(state)) == 0
    assert [library.model_step(ctypes.byref(state)) for _ in range(5)] == [1, 1, 1, 0, 1]
    assert library.model_run(ctypes.byref(state)) == 0, "run starts from the first step"
    del buffer


def test_an_id_outside_the_embedding_is_an_error(tmp_path: Path, objects: Objects) -> None:
    made = CASES["postnorm_tokens"]()
    graph = made.quantized()
    model = emit_c(graph, GENERIC, "model", tmp_path)
    library = link(tmp_path, [model], objects)
    state = State()
    buffer, address = aligned(model.arena_bytes)
    assert library.model_init(ctypes.byref(state), ctypes.c_void_p(address), ctypes.c_size_t(model.arena_bytes)) == 0
    library.model_input_input_ids.restype = ctypes.POINTER(ctypes.c_int32)
    for bad in (20, -1):
        ids = library.model_input_input_ids(ctypes.byref(state))
        for i in range(7):
            ids[i] = bad if i == 6 else 3
        assert library.model_run(ctypes.byref(state)) == -1
        assert state.status == -1
        assert library.model_step(ctypes.byref(state)) == -1, "the failed operator is the next one again"
    ids[6] = 4
    assert library.model_run(ctypes.byref(state)) == 0
    assert state.status == 0
    del buffer


def test_valid_length_is_full_at_first_and_stays_as_set(tmp_path: Path, objects: Objects) -> None:
    made = CASES["prenorm_encoder_valid_length"]()
    graph = made.quantized()
    model = emit_c(graph, GENERIC, "model", tmp_path)
    library = link(tmp_path, [model], objects)
    state = State()
    buffer, address = aligned(model.arena_bytes)
    assert library.model_init(ctypes.byref(state), ctypes.c_void_p(address), ctypes.c_size_t(model.arena_bytes)) == 0
    library.model_input_frames.restype = ctypes.c_void_p
    library.model_output_logits.restype = ctypes.POINTER(ctypes.c_int16)
    lowered = lower_graph(graph)
    frames = made.samples["frames"][:1]
    kept = 10
    for length in (None, 4, None, 10, 0, 7):
        if length is not None:
            assert library.model_set_valid_length(ctypes.byref(state), length) == 0
        for refused in (-1, 11, 2**31 - 1):
            assert library.model_set_valid_length(ctypes.byref(state), refused) == -3
        kept = kept if length is None else length
        reference = run_integer(lowered, {"frames": frames, "valid_length": np.array([kept], np.int32)})
        data = reference["frames"][0].tobytes()
        ctypes.memmove(library.model_input_frames(ctypes.byref(state)), data, len(data))
        assert library.model_run(ctypes.byref(state)) == 0
        assert library.model_output_logits(ctypes.byref(state))[:5] == reference["logits"][0].tolist(), length
    del buffer


def test_a_length_from_the_wire_never_reaches_past_the_axis(tmp_path: Path, objects: Objects) -> None:
    made = CASES["prenorm_encoder_valid_length"]()
    graph = made.quantized()
    built = host(graph, tmp_path, objects)
    for wild, same in ((2**31 - 1, 10), (11, 10), (-5, 0)):
        samples = {"frames": made.samples["frames"][:1], "valid_length": np.array([same], np.int32)}
        reference = run_integer(lower_graph(graph), samples)
        inputs = sample_bytes(reference, graph, 0) | {"valid_length": np.int32(wild).tobytes()}
        for name, data in built.steps(inputs):
            expected = rows_computed(np.ascontiguousarray(reference[name][0]), data, inputs)
            assert data == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [(DType.INT8, 0.25, -3), (DType.INT8, 0.0173, 127), (DType.INT16, 2.0**-10, 0), (DType.INT16, 3.1e-4, 0)],
)
def test_quantize_and_dequantize_are_those_of_the_reference(
    dtype: DType, scale: float, zero_point: int, tmp_path: Path, objects: Objects
) -> None:
    quant = QuantParams((scale,), zero_point)
    steps = np.arange(-300 if dtype is DType.INT8 else -33000, 300 if dtype is DType.INT8 else 33000) * 0.5
    largest = float(np.finfo(np.float32).max)
    special = [np.inf, -np.inf, largest, -largest, 1e-45, -1e-45, 0.0, -0.0, np.nan, 1e9, -1e9]
    ties = steps * np.float64(quant.scale[0])
    values = np.concatenate([ties, np.nextafter(ties.astype(np.float32), np.float32(9e9)), special]).astype(np.float32)
    values = np.concatenate([values, np.random.default_rng(0).normal(0, 60 * scale, 2000).astype(np.float32)])
    type_ = TensorType(values.shape, dtype, quant)
    b = Builder("grids")
    b.node(Requantize(), b.input("x", len(values)), name="y")
    graph = b.graph("y").replace(types={"x": type_, "y": type_})
    library = host(graph, tmp_path, objects).library
    actual = np.zeros(len(values), dtype.numpy)
    library.model_quantize_x(values.ctypes.data_as(ctypes.c_void_p), actual.ctypes.data_as(ctypes.c_void_p))
    numbers = ~np.isnan(values)
    with np.errstate(over="ignore"):
        assert np.array_equal(actual[numbers], quantize_real(values[numbers], quant, dtype))
    assert (actual[~numbers] == zero_point).all()
    every = np.resize(np.arange(dtype.minimum, dtype.maximum + 1), len(values)).astype(dtype.numpy)
    real = np.zeros(len(values), np.float32)
    library.model_dequantize_y(every.ctypes.data_as(ctypes.c_void_p), real.ctypes.data_as(ctypes.c_void_p))
    assert np.array_equal(real, dequantize(every, quant))


def test_two_models_live_in_one_image(tmp_path: Path, objects: Objects) -> None:
    made = {"first": CASES["tiny_classifier"]().quantized(), "second": CASES["movement"]().quantized()}
    models = [emit_c(graph, GENERIC, prefix, tmp_path / prefix) for prefix, graph in made.items()]
    library = link(tmp_path, models, objects)
    for prefix, model in zip(made, models, strict=True):
        state = State()
        buffer, address = aligned(model.arena_bytes)
        call = {word: getattr(library, f"{prefix}_{word}") for word in ("init", "run")}
        assert call["init"](ctypes.byref(state), ctypes.c_void_p(address), ctypes.c_size_t(model.arena_bytes)) == 0
        assert call["run"](ctypes.byref(state)) == 0
        del buffer
    symbols = run("nm", "-g", "--defined-only", tmp_path / "model.so")
    exported = {line.split()[-1] for line in symbols.splitlines() if " _" not in line}
    assert {name for name in exported if not name.startswith(("first_", "second_", "pf_", "_"))} == set()
