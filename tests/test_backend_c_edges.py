"""Generated C at its edges: what is refused and by which name, awkward names, shapes turned into strides."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from c_host import FIRMWARE, GENERIC, STRICT, run
from graphs import CASES, Builder, Case, prenorm_encoder, quantize_by_range, tiny_classifier
from picoformer.backends.c import emit_c
from picoformer.backends.c.isa import layout_of
from picoformer.backends.c.literals import float_literal
from picoformer.backends.c.movement import merge_axes
from picoformer.backends.c.names import LONGEST, Names, identifier, string
from picoformer.backends.c.shapes import broadcast_pattern
from picoformer.errors import ConfigError, UnsupportedError
from picoformer.ir import DType, Graph, QuantParams, TensorType
from picoformer.ops import Add, Attention, Embedding, Linear, MatMul, Reshape, Slice

# What has no C.


def matmul() -> Graph:
    b = Builder("matmul")
    x = b.input("x", 3, 4)
    y = b.input("y", 4, 5)
    return b.graph(b.node(MatMul(), x, y, name="product"))


def odd_broadcast() -> Graph:
    b = Builder("odd")
    x = b.input("x", 2, 3, 4)
    return b.graph(b.node(Add(), x, b.constant("c", shape=(2, 1, 4)), name="odd_sum"))


def crossed_broadcast() -> Graph:
    b = Builder("crossed")
    x = b.input("x", 3, 1)
    y = b.input("y", 4)
    return b.graph(b.node(Add(), x, y, name="crossed_sum"))


def computed_weight() -> Graph:
    b = Builder("computed")
    x = b.input("x", 3, 4)
    w = b.input("w", 5, 4)
    return b.graph(b.node(Linear(), x, w, name="product"))


def constant_output() -> Graph:
    b = Builder("constant")
    x = b.input("x", 4)
    b.node(Add(), x, b.constant("c", shape=(4,)), name="sum")
    return b.graph("sum", "c")


def nothing() -> Graph:
    b = Builder("nothing")
    return b.graph(b.node(Reshape((2, 2)), b.input("x", 4), name="y"))


def length_read_twice() -> Graph:
    b = Builder("length")
    x = b.input("x", 4, 4)
    length = b.input("n", 1, dtype=DType.INT32)
    mixed = b.node(Attention(1, 0.5), x, x, x, length, name="mixed")
    row = b.node(Embedding(), length, b.constant("table", shape=(5, 4)), name="row")
    return b.graph(b.node(Add(), mixed, row, name="sum"))


def mixed_grids() -> Graph:
    made = Builder("mixed grids")
    x = made.input("x", 4)
    graph = made.graph(made.node(Slice(-1, 0, 2), x, name="half"))
    types = {
        "x": TensorType((4,), DType.INT8, QuantParams((0.1,))),
        "half": TensorType((2,), DType.INT8, QuantParams((0.2,))),
    }
    return graph.replace(types=types)


@pytest.mark.parametrize(
    ("graph", "culprit"),
    [
        (matmul, "node_product"),
        (odd_broadcast, "node_odd_sum"),
        (crossed_broadcast, "node_crossed_sum"),
        (computed_weight, "node_product"),
        (constant_output, "'c'"),
        (nothing, "'nothing'"),
        (length_read_twice, "'n'"),
        (mixed_grids, "node_half"),
    ],
)
def test_what_has_no_c_is_refused_by_name(graph: Callable[[], Graph], culprit: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=culprit) as refusal:
        emit_c(graph(), GENERIC, "model", tmp_path)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "Model", "2d", "pf_net", "main", "weights", "a-b", "x" * 40])
def test_a_prefix_that_is_no_identifier_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        emit_c(tiny_classifier().quantized(), GENERIC, prefix, tmp_path)


def test_an_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    for isa in (["sse9", "generic"], []):
        with pytest.raises(ConfigError, match="instruction set"):
            emit_c(tiny_classifier().quantized(), isa, "model", tmp_path)


def test_the_generic_layout_is_row_by_row() -> None:
    weight = np.arange(12, dtype=np.int8).reshape(3, 4)
    assert layout_of(GENERIC).linear(DType.INT8).pack_weight(weight).tolist() == list(range(12))


def test_the_dsp_layout_takes_rows_in_pairs_and_fills_up() -> None:
    weight = np.arange(1, 16, dtype=np.int8).reshape(3, 5)
    layout = layout_of(["dsp", "generic"])
    packed = layout.linear(DType.INT8).pack_weight(weight).tolist()
    assert packed[:16] == [1, 2, 3, 4, 6, 7, 8, 9, 5, 0, 0, 0, 10, 0, 0, 0]
    assert packed[16:] == [11, 12, 13, 14, 0, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0]
    halfwords = [1 + 256 * 6, 2 + 256 * 7, 3 + 256 * 8, 4 + 256 * 9, 5 + 256 * 10, 0, 0, 0, *range(11, 16), 0, 0, 0]
    single = layout_of(["dsp", "generic"], single_rows=True)
    for order in (layout.linear(DType.INT16), *(single.linear(DType.INT16, wide=wide) for wide in (False, True))):
        assert order.pack_weight(weight).view("<i2").tolist() == halfwords
    assert layout.linear(DType.INT16, wide=True) is layout_of(["generic"]).linear(DType.INT16, wide=True)
    minus = layout.linear(DType.INT16).pack_weight(np.array([[-1], [2]], np.int8)).view("<i2").tolist()
    assert minus == [-1 + 256 * 2, 0, 0, 0]


@pytest.mark.parametrize(
    "isa,wide,expected",
    [
        (GENERIC, ("pooled",), {"pf_linear_s16_s16"}),
        (["dsp", "generic"], ("pooled",), {"pf_linear_wide_s16_s16"}),
        (["dsp", "generic"], ("pooled", "gelu"), {"pf_linear_s16_s16"}),
    ],
)
def test_single_rows_of_int16_do_not_bring_the_kernel_for_many(
    isa: list[str], wide: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    case = prenorm_encoder()
    graph = quantize_by_range(case.graph, case.samples, lambda name: case.wide(name) or name in wide)
    called = emit_c(graph, isa, "model", tmp_path).functions
    assert {name for name in called if name.startswith(("pf_linear_s16", "pf_linear_wide"))} == expected


# Small pieces.


def test_broadcast_patterns_read_what_numpy_broadcasts() -> None:
    fulls = [(6,), (2, 3), (2, 3, 4), (1, 3, 4), (2, 1, 4)]
    for full in fulls:
        for mask in range(1 << len(full)):
            part = tuple(n if mask >> i & 1 else 1 for i, n in enumerate(full))
            for cut in range(len(part) + 1):
                if cut and part[cut - 1] != 1:
                    break
                values = np.arange(int(np.prod(part[cut:]))).reshape(part[cut:])
                expected = np.broadcast_to(values, full).reshape(-1)
                pattern = broadcast_pattern(full, part[cut:])
                if pattern is None:
                    assert full == (2, 3, 4) and part == (2, 1, 4)
                    continue
                period, inner = pattern
                assert [values.reshape(-1)[(i // inner) % period] for i in range(len(expected))] == expected.tolist()


def test_axes_that_lie_together_are_merged() -> None:
    assert merge_axes([(2, 12), (3, 4), (4, 1)]) == [(24, 1)]
    assert merge_axes([(4, 1), (1, 99), (6, 4)]) == [(4, 1), (6, 4)]


def test_float_literals_read_back_as_the_same_number() -> None:
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 5000).astype(np.uint32)
    values = [0.0, 1.0, -0.1, 1e-45, 16777216.0, 3.4028235e38, 1e-5, *bits.view(np.float32)]
    for value in values:
        literal = float_literal(value)
        assert re.fullmatch(r"-?\d+\.\d*(e[+-]\d+)?f", literal), literal
        assert np.float32(literal[:-1]) == np.float32(value)


def test_a_valid_length_keeps_its_place_to_the_end(tmp_path: Path) -> None:
    plan = emit_c(CASES["postnorm_tokens"]().quantized(), GENERIC, "model", tmp_path).plan
    assert plan.place("valid_length").last == len(plan.steps)


def test_identifiers_are_readable_unique_and_legal() -> None:
    assert identifier("/encoder/layers.0/linear1/MatMul_output_0") == "encoder_layers_0_linear1_matmul"
    assert identifier("0") == "v_0"
    assert identifier("pf_linear") == "v_pf_linear"
    assert identifier("→") == "value"
    long = identifier("/a/very/long/path/through/a/model/that/nobody/reads/layers.11/attention/query/Add")
    assert len(long) <= LONGEST and long.endswith("layers_11_attention_query_add")
    names = Names()
    assert [names.unique(w) for w in ("x", "x", "x_2", "int", "x")] == ["x", "x_2", "x_2_2", "int_2", "x_3"]
    assert string('a"\\?é\n') == '"a\\042\\134\\077\\303\\251\\012"'


def test_awkward_value_names_still_compile(tmp_path: Path) -> None:
    b = Builder("*/ int main; /*")
    x = b.input("int", 4, 4)
    for name in (
        "pf_linear",
        "*/ oops",
        "sub",
        "12",
        "S8",
        "s8",
        "exp",
        'quote"\\',
        "model_t",
        "ünï",
        "model_init",
    ):
        x = b.linear(x, 4, name)
    made = Case(b.graph(x), {"int": b.random.normal(0, 1, (2, 4, 4)).astype(np.float32)})
    for kind, graph in (("integer", made.quantized()), ("float", made.graph)):
        emit_c(graph, GENERIC, "model", tmp_path / kind)
        files = sorted((tmp_path / kind).glob("*.c"))
        for compiler in ("gcc", "clang"):
            run(compiler, *STRICT, "-DMODEL_STEP_NAMES", "-fsyntax-only", f"-I{FIRMWARE / 'include'}", *files)
