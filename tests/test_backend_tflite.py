"""TFLite out: every operator against its definition, in floats, int8 and int16, under LiteRT and TFLite Micro."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import graphs
from graphs import Array, Builder
from picoformer.backends.tflite import emitters
from picoformer.backends.tflite.compare import ACCUMULATING, ONE_STEP, Row, compare_tflite
from picoformer.backends.tflite.emitters import EMITTERS, Unsupported
from picoformer.backends.tflite.export import tflite_program
from picoformer.backends.tflite.file import program_bytes, read_program
from picoformer.backends.tflite.operators import BUILTINS
from picoformer.backends.tflite.program import Program
from picoformer.backends.tflite.runtime import run_tflite
from picoformer.errors import ConfigError, ModelError, UnsupportedError
from picoformer.ir import DType, Graph, QuantParams
from picoformer.ops import (
    OPERATORS,
    Activation,
    Add,
    Attention,
    Concat,
    Embedding,
    LayerNorm,
    Mul,
    ReduceMean,
    Reshape,
    RmsNorm,
    Slice,
    Softmax,
    TopExperts,
    Transpose,
)
from picoformer.ops.activation import SEGMENT_BITS
from picoformer.ops.fixedpoint import dequantize
from picoformer.parity import sqnr_db
from picoformer.quantize import QuantizeSettings, quantize, uniform_settings
from picoformer.reference import lower_graph, run_float, run_integer
from tflite_window_cases import FUNCTION_CASES, WINDOW_CASES, function

SAMPLES = 24
TYPES = ("float32", "int8", "int16")


def _activation(function: str) -> Callable[[Builder], str]:
    return lambda b: b.node(Activation(function), b.input("x", 5, 12), name="y")  # type: ignore[arg-type]


def _attention(b: Builder, queries: int = 6, keys: int = 6, heads: int = 4, kv_heads: int = 4, causal: bool = False,
               length: bool = False, lead: tuple[int, ...] = ()) -> str:  # fmt: skip
    x, z = b.input("x", *lead, queries, 16), b.input("z", *lead, keys, 16)
    q, k, v = b.linear(x, 16, "q"), b.linear(z, 4 * kv_heads, "k"), b.linear(z, 4 * kv_heads, "v")
    extra = [b.input("valid_length", dtype=DType.INT32)] if length else []
    return b.node(Attention(heads, 0.5, causal, kv_heads), q, k, v, *extra, name="y")


def _norm(b: Builder, op: LayerNorm | RmsNorm, constants: int) -> str:
    names = [b.constant("gain", 1 + b.random.normal(0, 0.3, 16)), b.constant("bias", shape=(16,))][:constants]
    return b.node(op, b.input("x", 2, 5, 16), *names, name="y")


OPERATOR_CASES: dict[str, Callable[[Builder], str]] = {
    "linear": lambda b: b.linear(b.input("x", 1, 5, 12), 7, "y"),
    "linear_without_bias": lambda b: b.linear(b.input("x", 5, 12), 7, "y", bias=False),
    "linear_of_a_vector": lambda b: b.linear(b.input("x", 12), 7, "y"),
    "add": lambda b: b.node(Add(), b.input("x", 5, 12), b.input("z", 5, 12), name="y"),
    "add_broadcast": lambda b: b.node(Add(), b.input("x", 2, 5, 12), b.input("z", 1, 5, 1), name="y"),
    "add_constant": lambda b: b.node(Add(), b.input("x", 5, 12), b.constant("c", shape=(12,)), name="y"),
    "mul": lambda b: b.node(Mul(), b.input("x", 5, 12), b.input("z", 5, 12), name="y"),
    "mul_scalar": lambda b: b.node(Mul(), b.input("x", 5, 12), b.constant("c", np.array(1.7)), name="y"),
    **{name: _activation(name) for name in ("relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")},
    "softmax": lambda b: b.node(Softmax(), b.input("x", 5, 12), name="y"),
    "layer_norm": lambda b: _norm(b, LayerNorm(1e-5), 0),
    "layer_norm_gain": lambda b: _norm(b, LayerNorm(1e-5), 2),
    "rms_norm": lambda b: _norm(b, RmsNorm(1e-6), 0),
    "rms_norm_gain": lambda b: _norm(b, RmsNorm(1e-6), 1),
    "mean_of_rows": lambda b: b.node(ReduceMean(-2, False), b.input("x", 5, 12), name="y"),
    "mean_kept": lambda b: b.node(ReduceMean(-1, True), b.input("x", 2, 5, 12), name="y"),
    "mean_of_valid": lambda b: b.node(
        ReduceMean(-2, False), b.input("x", 6, 12), b.input("valid_length", dtype=DType.INT32), name="y"
    ),
    "embedding": lambda b: b.node(
        Embedding(), b.input("ids", 6, dtype=DType.INT32), b.constant("table", shape=(11, 12)), name="y"
    ),
    "reshape": lambda b: b.node(Reshape((3, 20)), b.input("x", 5, 12), name="y"),
    "transpose": lambda b: b.node(Transpose((-2, -1, -3)), b.input("x", 2, 5, 12), name="y"),
    "slice": lambda b: b.node(Slice(-1, 1, 11, 3), b.input("x", 5, 12), name="y"),
    "slice_dropped": lambda b: b.node(Slice(-2, 2, 3, 1, False), b.input("x", 5, 12), name="y"),
    "concat": lambda b: b.node(Concat(-2), b.constant("c", shape=(1, 12)), b.input("x", 5, 12), name="y"),
    "attention": _attention,
    "attention_batch": lambda b: _attention(b, lead=(2,)),
    "attention_grouped": lambda b: _attention(b, kv_heads=2),
    "attention_causal": lambda b: _attention(b, queries=4, causal=True),
    "attention_valid": lambda b: _attention(b, length=True),
    "attention_valid_causal_grouped": lambda b: _attention(b, kv_heads=1, causal=True, length=True, lead=(1,)),
    **{name: function(name, *given) for name, given in FUNCTION_CASES.items()},
    **WINDOW_CASES,
}  # fmt: skip
"""Operator and form → a graph of it with output y."""


def made(name: str) -> tuple[Graph, dict[str, Array]]:
    """A case's float graph, and samples for it."""
    if name in graphs.CASES:
        case = graphs.CASES[name]()
        return case.graph, dict(case.samples)
    b = Builder(name, seed=len(name))
    graph = b.graph(OPERATOR_CASES[name](b))
    return graph, graphs._samples(b, SAMPLES, ids=(0, 10), valid_length=(0, 6))


@functools.cache
def written(name: str, base: str) -> tuple[Graph, Graph, dict[str, Array], bytes, Program]:
    """(float graph, the graph written, samples, the file, its program) of a case in a type."""
    graph, samples = made(name)
    typed = graph if base == "float32" else quantized(graph, samples, base)
    program = tflite_program(typed, runs(graph, samples))
    return graph, typed, samples, program_bytes(program, {"source": name}), program


def quantized(graph: Graph, samples: Mapping[str, Array], base: str) -> Graph:
    asked = QuantizeSettings(activations=DType[base.upper()], rounding="nearest", bias_correction=False)
    return quantize(graph, samples, run_float, uniform_settings(asked))


def runs(graph: Graph, samples: Mapping[str, Array]) -> list[dict[str, Array]]:
    values = {**samples, **run_float(graph, samples)}
    return [{name: value[i] for name, value in values.items()} for i in range(len(next(iter(samples.values()))))]


BOUNDS = {
    ("Activation", "int16"): 6, ("Attention", "int8"): 4, ("Attention", "int16"): 100, ("Embedding", "int16"): 1,
    ("LayerNorm", "int8"): 1, ("LayerNorm", "int16"): 16, ("LOGISTIC", "int16"): 2, ("RmsNorm", "int8"): 1,
    ("RmsNorm", "int16"): 16, ("RSQRT", "int8"): 1, ("SOFTMAX", "int8"): 1, ("SOFTMAX", "int16"): 100,
    ("Softmax", "int8"): 1, ("Softmax", "int16"): 100,
}  # fmt: skip
"""Operator and type → most steps between the runtime and the definition, where any are allowed. TFLite's int16 softmax
looks a table up that is finer than 8 bits and coarser than 16; an int8 attention rounds its scores to 8 bits."""


def bound(row: Row, typed: Graph) -> float:
    if row.dtype == "int16" and row.operator == "Activation":
        node = typed.producers[row.name]
        if isinstance(node.op, Activation) and node.op.function == "clip":  # the device's table cuts its corners
            x, y = (typed.types[name].quant for name in (node.inputs[0], node.output))
            assert x is not None and y is not None
            return 1 + (1 << SEGMENT_BITS) / 4 * x.per_tensor_scale / y.per_tensor_scale
    if row.operator in ONE_STEP or row.operator in ACCUMULATING:
        return 1
    return BOUNDS.get((row.operator, row.dtype), 0)


@pytest.mark.parametrize("runtime", ["litert", "micro"])
@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("name", [*OPERATOR_CASES, *(n for n in graphs.CASES if n != "wide_sums")])
def test_every_operator_gives_what_it_means(name: str, base: str, runtime: str) -> None:
    graph, typed, samples, data, _ = written(name, base)
    for row in compare_tflite(data, typed, samples, runtime):  # type: ignore[arg-type]
        if base == "float32":
            assert row.worst <= 3e-5, row
        else:
            assert row.worst <= bound(row, typed), row
    truth, found = run_float(graph, samples), run_tflite(data, samples, runtime=runtime)  # type: ignore[arg-type]
    for output in graph.outputs:
        assert found[output].shape == truth[output].shape
        least = {"float32": 80.0, "int8": 20.0, "int16": 40.0}[base]
        assert (sqnr_db(truth[output], found[output]) or 200.0) >= least


@pytest.mark.slow
def test_tensorflows_reference_kernels_agree() -> None:
    """A second opinion, in a process of its own: TensorFlow and torch do not share one well."""
    code = "import test_backend_tflite as tests; print(tests.second_opinion())"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    place = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=place)
    assert done.returncode == 0, done.stderr[-2000:]
    compared, within = map(int, done.stdout.split()[-2:])
    assert compared == within > 3000


def second_opinion() -> str:
    """How many rows there are, and how many of them are within their bound, under TensorFlow's reference kernels."""
    within = []
    cases = ("prenorm_encoder_valid_length", "postnorm_tokens", "movement", "activations", "windows")
    for name in (*OPERATOR_CASES, *cases):
        for base in TYPES:
            _, typed, samples, data, program = written(name, base)
            if any(step.operator == "ELU" for step in program.steps):  # which its resolver of plain kernels leaves out
                continue
            rows = compare_tflite(data, typed, samples, "tensorflow-reference")
            within += [row.worst <= (3e-5 if row.dtype == "float32" else bound(row, typed)) for row in rows]
    return f"{len(within)} {sum(within)}"


@pytest.mark.parametrize("base", ["int8", "int16"])
def test_whole_models_are_as_good_as_our_integers(base: str) -> None:
    """The file loses no more to the float model than the same grids under our own definitions do."""
    graph, typed, samples, data, _ = written("prenorm_encoder", base)
    (output,) = graph.outputs
    quant = typed.types[output].quant
    assert quant is not None
    ours = dequantize(run_integer(lower_graph(typed), samples)[output], quant)
    theirs, truth = run_tflite(data, samples)[output], run_float(graph, samples)[output]
    assert (sqnr_db(truth, theirs) or 0) >= (sqnr_db(truth, ours) or 0) - 3
    assert (theirs.argmax(-1) == truth.argmax(-1)).mean() >= 0.9


def test_every_operator_stands_in_the_table() -> None:
    assert set(EMITTERS) == set(OPERATORS.values())
    assert all(entry.reason for entry in EMITTERS.values() if isinstance(entry, Unsupported))


def test_an_operator_without_an_emitter_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder("experts")
    graph = b.graph(b.node(TopExperts(2), b.input("x", 3, 4), name="y"))
    with pytest.raises(UnsupportedError, match=r"node 'node_y' \(TopExperts\) cannot be written as TFLite: .*TOPK_V2"):
        tflite_program(graph)
    monkeypatch.delitem(emitters.EMITTERS, TopExperts)
    with pytest.raises(UnsupportedError, match="it has no emitter"):
        tflite_program(graph)


# -- GELU --------------------------------------------------------------------------------------------------------------


def _gelu(function: str, base: str, form: str, any_operator: bool = False) -> tuple[Array, Array]:
    """(what the file gives, what the function is) over −9 … 9."""
    b = Builder("gelu")
    graph = b.graph(b.node(Activation(function), b.input("x", 601), name="y"))  # type: ignore[arg-type]
    samples = {"x": np.linspace(-9, 9, 601, dtype=np.float32)[None]}
    typed = graph if base == "float32" else quantized(graph, samples, base)
    program = tflite_program(typed, runs(graph, samples), form, any_operator)  # type: ignore[arg-type]
    runtime = "litert" if any_operator else "micro"
    found = run_tflite(program_bytes(program, {}), samples, runtime=runtime)["y"]  # type: ignore[arg-type]
    quant = typed.types["x"].quant
    if quant is not None:
        from picoformer.ops.fixedpoint import quantize_real

        samples = {"x": dequantize(quantize_real(samples["x"], quant, typed.types["x"].dtype), quant)}
    return found, Activation(function).compute(samples["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "base", "form", "any_operator", "most"),
    [
        ("gelu", "float32", "decomposed", False, 2.7e-5),
        ("gelu_tanh", "float32", "decomposed", False, 2e-6),
        ("silu", "float32", "decomposed", False, 2e-6),
        ("gelu", "float32", "operator", True, 2e-6),
        ("gelu_tanh", "float32", "operator", True, 2e-6),
        ("gelu", "int8", "table", False, 0.51 * 9.2 / 255),
        ("gelu", "int8", "operator", True, 0.51 * 9.2 / 255),
        ("gelu", "int8", "decomposed", False, 0.7 * 9.2 / 255),
        ("silu", "int8", "table", False, 0.51 * 9.3 / 255),
        ("gelu", "int16", "decomposed", False, 3e-3),
        ("silu", "int16", "decomposed", False, 3e-3),
    ],
)
def test_gelu_in_every_form(function: str, base: str, form: str, any_operator: bool, most: float) -> None:
    found, exact = _gelu(function, base, form, any_operator)
    assert np.abs(found - exact).max() <= most


def test_what_gelu_cannot_be() -> None:
    for base, form, said in (
        ("float32", "operator", "TFLite Micro has no GELU for float32"),
        ("int8", "operator", "TFLite Micro has no GELU for int8"),
        ("int16", "operator", "TFLite's GELU takes no int16"),
        ("int16", "table", "a table of every int16 is too large"),
        ("float32", "table", "a table of every float32 is too large"),
    ):
        with pytest.raises(UnsupportedError, match=rf"node 'node_y' \(Activation\) .*{said}"):
            _gelu("gelu", base, form)


def test_micro_has_no_gelu() -> None:
    """What the table of operators says of TFLite Micro's lack is so."""
    b = Builder("gelu")
    graph = b.graph(b.node(Activation("gelu"), b.input("x", 4), name="y"))
    data = program_bytes(tflite_program(graph, gelu="operator", any_operator=True), {})
    assert run_tflite(data, {"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 4)
    with pytest.raises(ModelError, match="micro cannot load"):
        run_tflite(data, {"x": np.ones((1, 4), np.float32)}, runtime="micro")


# -- The file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", TYPES)
def test_the_file_reads_back_and_is_the_same_every_time(base: str) -> None:
    _, typed, _, data, program = written("prenorm_encoder_valid_length", base)
    found, metadata = read_program(data)
    assert found.inputs == ("frames", "valid_length") and found.outputs == ("logits",)
    assert [(s.operator, s.inputs, s.output) for s in found.steps] == [
        (s.operator, s.inputs, s.output) for s in program.steps
    ]
    for name, tensor in program.tensors.items():
        other = found.tensors[name]
        assert (other.shape, other.dtype, other.grid) == (tensor.shape, tensor.dtype, tensor.grid)
        assert tensor.data is None or np.array_equal(other.data, tensor.data)
    assert metadata == {"source": "prenorm_encoder_valid_length", "min_runtime_version": program.runtime}
    written.cache_clear()
    assert written("prenorm_encoder_valid_length", base)[3] == data
    assert {node.output for node in typed.nodes} <= set(found.tensors)


def test_signature_versions_and_alignment() -> None:
    """Read with the schema's own code and LiteRT's, none of ours."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    versions = {}
    for base in TYPES:
        data = written("prenorm_encoder_valid_length", base)[3]
        model = schema.Model.GetRootAsModel(data, 0)
        for index in range(model.BuffersLength()):
            content = model.Buffers(index)
            if content.DataLength():
                assert content._tab.Vector(content._tab.Offset(4)) % 16 == 0
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
        codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
        versions[base] = {
            name: sorted(code.Version() for code in codes if names[code.BuiltinCode()] == name)
            for name in ("FULLY_CONNECTED", "SOFTMAX", "BATCH_MATMUL", "ADD", "MUL")
        }
        assert model.Description().startswith(b"picoformer ")
        signatures = Interpreter(model_content=data).get_signature_list()
        assert signatures == {"serving_default": {"inputs": ["frames", "valid_length"], "outputs": ["logits"]}}
    # ADD 1 is that of indices.
    # What is 16 bits wide inside an int8 model, as masked scores are, asks for the versions of int16.
    assert versions == {
        "float32": {"FULLY_CONNECTED": [5], "SOFTMAX": [1], "BATCH_MATMUL": [1], "ADD": [1], "MUL": [1]},
        "int8": {"FULLY_CONNECTED": [5], "SOFTMAX": [3], "BATCH_MATMUL": [2, 3], "ADD": [1, 2, 3], "MUL": [4]},
        "int16": {"FULLY_CONNECTED": [7], "SOFTMAX": [3], "BATCH_MATMUL": [3], "ADD": [3], "MUL": [4]},
    }


@pytest.mark.parametrize(("base", "wide"), [("int8", "int32"), ("int16", "int64")])
def test_biases_are_on_the_grid_of_the_products(base: str, wide: str) -> None:
    program = written("prenorm_encoder", base)[4]
    found = 0
    for step in program.steps:
        if step.operator == "FULLY_CONNECTED":
            x, weight, bias = (program.tensors[name] for name in step.inputs)
            assert bias.dtype == wide and weight.dtype == "int8"
            assert bias.grid is not None and weight.grid is not None and x.grid is not None
            expected = np.float64(x.grid.per_tensor_scale) * np.asarray(weight.grid.scale)
            assert np.allclose(bias.grid.scale, expected, rtol=1e-6) and bias.grid.axis == -1
            found += 1
    assert found == 8


def test_what_the_table_says_of_micro_has_run_on_it() -> None:
    """`test_every_operator_gives_what_it_means` runs all of these on TFLite Micro; EQUAL is in decoders' steps."""
    has_run = set()
    for name in (*OPERATOR_CASES, *(n for n in graphs.CASES if n != "wide_sums")):
        for base in TYPES:
            program = written(name, base)[4]
            has_run |= {(step.operator, program.types(step)[0]) for step in program.steps}
    said = {(operator, first) for operator, builtin in BUILTINS.items() for first in builtin.micro}
    assert said - has_run == {("EQUAL", "int32")} and has_run <= said


def test_every_operator_has_a_version_for_every_type() -> None:
    for name, builtin in BUILTINS.items():
        for first in ("float32", "int8", "int16", "int32", "bool"):
            for options in ({}, {"keepNumDims": True}):
                assert builtin.version([first, first, first], options, True) in builtin.since or first not in (
                    "float32", "int8", "int16"), (name, first)  # fmt: skip


def test_grids_are_those_that_the_kernels_write() -> None:
    b = Builder("fixed")
    x = b.input("x", 4, 8)
    names = [b.node(Softmax(), x, name="softmax")]
    names += [b.node(Activation(f), x, name=f) for f in ("tanh", "sigmoid")]  # type: ignore[arg-type]
    graph = b.graph(*names)
    samples = graphs._samples(b, 4)
    for base, expected in (
        ("int8", {"softmax": (2.0**-8, -128), "sigmoid": (2.0**-8, -128), "tanh": (2.0**-7, 0)}),
        ("int16", {"softmax": (2.0**-15, 0), "sigmoid": (2.0**-15, 0), "tanh": (2.0**-15, 0)}),
    ):
        typed = quantized(graph, samples, base)
        for name, (scale, zero) in expected.items():
            assert typed.types[name].quant == QuantParams((scale,), zero)


@pytest.mark.parametrize("base", ["int8", "int16"])
def test_a_uniform_graph_has_one_type_and_one_scale_a_value(base: str) -> None:
    typed = written("postnorm_tokens", base)[1]
    for node in typed.nodes:
        type_ = typed.types[node.output]
        assert type_.dtype is DType[base.upper()] and type_.quant is not None and type_.quant.axis is None
    sums = [typed.types[n.output].quant for n in typed.nodes if isinstance(n.op, Add)]
    assert len(set(sums)) == len(sums)  # what is added has a grid of its own
    with pytest.raises(ConfigError, match="budget"):
        uniform_settings(QuantizeSettings(budget=1000))
