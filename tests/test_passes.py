"""The passes: each keeps the meaning, both dialects of a model end as the same graph, what is left over is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from graphs import Builder
from onnx_models import EncoderOptions as Options
from onnx_models import exported, run_onnxruntime, sample_inputs, save_model
from onnx_spelling import GELU_FORMS, NORM_FORMS, TANH_FORMS, spell_out
from picoformer.errors import UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import DType, Graph, verify
from picoformer.ops import Activation, Attention, LayerNorm, Linear, ReduceMean, Slice
from picoformer.passes import ORDER, canonical, differences, optimize
from picoformer.passes.norm import fold_norm_gain
from picoformer.reference import run_float

COVERED = {
    "Linear", "Attention", "LayerNorm", "Activation", "Add", "Mul", "Embedding", "ReduceMean", "Softmax", "Reshape",
    "Transpose", "Slice", "Concat",
}  # fmt: skip

# name → (options, opset of today's exporter, kinds of operator the optimized graph consists of and how often)
ENCODERS: dict[str, tuple[Options, int]] = {
    "pre-norm gelu": (Options(), 20),
    "post-norm tanh tokens sinusoidal, two layers": (
        Options(
            norm="post", activation="gelu_tanh", inputs="tokens", positions="sinusoidal", scale_embedding=True, layers=2
        ),
        20,
    ),
    "patches, cls, silu, packed, split scale": (
        Options(inputs="image", pooling="cls", activation="silu", attention="packed"),
        20,
    ),
    "no pooling, relu, scaled query": (Options(pooling="none", activation="relu", scale="query"), 18),
    "scaled key, one head": (Options(heads=1, scale="key"), 20),
    "scale on both": (Options(scale="both", positions="none"), 18),
    "sdpa node": (Options(attention="sdpa"), 23),
    "sdpa spelled, tanh": (Options(attention="sdpa", activation="gelu_tanh"), 18),
    "multihead attention": (Options(attention="mha", norm="post"), 20),
    "multihead attention at 23": (Options(attention="mha"), 23),
    "transformer encoder layer": (Options(attention="layer"), 18),
    "valid length by where": (Options(valid_length=True), 20),
    "valid length by addition": (Options(valid_length=True, mask="add"), 18),
    "causal by a buffer": (Options(causal="buffer", pooling="none"), 20),
    "causal by masked_fill, tokens": (Options(causal="fill", pooling="none", inputs="tokens"), 18),
    "causal by where, with a valid length": (Options(causal="where", valid_length=True, mask="add"), 20),
    "keys interleaved": (Options(heads=4, kv_heads=2), 20),
    "keys expanded, causal": (Options(heads=4, kv_heads=2, repeat="expand", causal="buffer"), 18),
    "one key head, broadcast by the product": (Options(heads=4, kv_heads=1, repeat="broadcast", causal="fill"), 20),
    "keys shared by sdpa, causal": (
        Options(heads=4, kv_heads=2, repeat="gqa", causal="sdpa", attention="sdpa"),
        20,
    ),
    "keys shared by sdpa at 23, causal": (
        Options(heads=4, kv_heads=2, repeat="gqa", causal="sdpa", attention="sdpa"),
        23,
    ),
}
LEGACY: dict[str, tuple[Options, int]] = {
    "pre-norm gelu": (Options(), 11),
    "scale on both": (Options(scale="both", positions="none"), 12),
    "multihead attention": (Options(attention="mha", norm="post"), 14),
    "patches, cls, silu, packed, split scale": (
        Options(inputs="image", pooling="cls", activation="silu", attention="packed"),
        13,
    ),
    "transformer encoder layer": (Options(attention="layer"), 17),
    "valid length by where": (Options(valid_length=True), 13),
    "valid length by addition": (Options(valid_length=True, mask="add"), 11),
    "causal by a buffer": (Options(causal="buffer", pooling="none"), 14),
    "keys expanded, causal": (Options(heads=4, kv_heads=2, repeat="expand", causal="buffer"), 14),
    "keys interleaved": (Options(heads=4, kv_heads=2), 17),
}


def samples_of(graph: Graph) -> dict[str, np.ndarray]:
    return sample_inputs({name: graph.types[name] for name in graph.inputs})


def close(graph: Graph, samples: dict[str, np.ndarray], expected: np.ndarray) -> None:
    np.testing.assert_allclose(run_float(graph, samples)[graph.outputs[0]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_pass_keeps_the_meaning(name: str) -> None:
    path = exported(*ENCODERS[name])
    graph = load_onnx(path)
    samples = samples_of(graph)
    expected = run_onnxruntime(path, samples)
    close(graph, samples, expected)
    for step in ORDER:
        graph = verify(step.run(graph))
        close(graph, samples, expected)
    assert {node.op.kind for node in graph.nodes} <= COVERED
    assert graph.outputs == ("y",) and graph.inputs == tuple(samples)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_as_few_operators_as_it_can_be(name: str) -> None:
    options, opset = ENCODERS[name]
    graph = optimize(load_onnx(exported(options, opset)))
    kinds = [node.op.kind for node in graph.nodes]
    assert kinds.count("Attention") == options.layers
    assert kinds.count("Activation") == options.layers
    assert kinds.count("LayerNorm") == 2 * options.layers + 1
    embeds = 0 if options.inputs == "tokens" else 1
    assert kinds.count("Linear") == 6 * options.layers + 1 + embeds
    assert kinds.count("Embedding") == (options.inputs == "tokens")
    assert kinds.count("Add") == 2 * options.layers + (options.positions != "none")
    assert kinds.count("ReduceMean") == (options.pooling == "mean")
    assert kinds.count("Concat") == kinds.count("Slice") == (options.pooling == "cls")
    assert kinds.count("Mul") == 0
    assert kinds.count("Reshape") + kinds.count("Transpose") == (3 if options.inputs == "image" else 0)
    width = options.d_model // options.heads
    for node in graph.nodes:
        if isinstance(node.op, Attention):
            assert node.op.heads == options.heads
            assert node.op.kv_heads == (options.kv_heads or options.heads)
            assert node.op.causal == bool(options.causal)
            assert node.op.scale == pytest.approx(width**-0.5, rel=1e-6)
            assert ("valid_length" in node.inputs) == options.valid_length
        if isinstance(node.op, ReduceMean):
            assert ("valid_length" in node.inputs) == options.valid_length


@pytest.mark.parametrize("name", ENCODERS)
def test_a_spelled_out_file_ends_as_the_same_graph(name: str, tmp_path: Path) -> None:
    path = exported(*ENCODERS[name])
    old_path = spell_out(path, tmp_path / "old.onnx")
    old = load_onnx(old_path)
    assert not {"LayerNorm", "Attention"} & {node.op.kind for node in old.nodes}
    samples = samples_of(old)
    expected = run_onnxruntime(path, samples)
    close(old, samples, expected)
    for step in ORDER:
        old = verify(step.run(old))
        close(old, samples, expected)
    assert differences(canonical(optimize(load_onnx(path))), canonical(old)) == []


@pytest.mark.parametrize("name", LEGACY)
def test_the_older_exporter_ends_as_the_same_graph(name: str) -> None:
    options, opset = LEGACY[name]
    path = exported(options, opset, legacy=True)
    graph = load_onnx(path)
    samples = samples_of(graph)
    optimized = optimize(graph)
    close(optimized, samples, run_onnxruntime(path, samples))
    today = optimize(load_onnx(exported(*ENCODERS[name])))
    assert differences(canonical(today), canonical(optimized)) == []


@pytest.mark.parametrize("form", NORM_FORMS)
def test_every_spelling_of_layer_norm(form: str, tmp_path: Path) -> None:
    path = exported(Options(), 20)
    old = optimize(load_onnx(spell_out(path, tmp_path / "old.onnx", norm=form)))
    assert differences(canonical(optimize(load_onnx(path))), canonical(old)) == []


@pytest.mark.parametrize("form", GELU_FORMS)
def test_every_spelling_of_gelu(form: str, tmp_path: Path) -> None:
    path = exported(Options(), 20)
    old = optimize(load_onnx(spell_out(path, tmp_path / "old.onnx", gelu=form)))
    assert differences(canonical(optimize(load_onnx(path))), canonical(old)) == []


@pytest.mark.parametrize("form", TANH_FORMS)
def test_every_spelling_of_gelu_by_tanh(form: str, tmp_path: Path) -> None:
    path = exported(Options(attention="sdpa", activation="gelu_tanh"), 20)
    old = optimize(load_onnx(spell_out(path, tmp_path / "old.onnx", tanh=form)))
    assert differences(canonical(optimize(load_onnx(path))), canonical(old)) == []


def test_differences_are_seen() -> None:
    a = optimize(load_onnx(exported(Options(), 20)))
    other_scale = [
        dataclasses.replace(node, op=Attention(2, 0.3)) if isinstance(node.op, Attention) else node for node in a.nodes
    ]
    name = next(node.inputs[1] for node in a.nodes if isinstance(node.op, Linear))
    moved = {**a.constants, name: a.constants[name] + np.float32(0.01)}
    assert differences(canonical(a), canonical(a)) == []
    assert any("Attention" in text for text in differences(canonical(a), canonical(a.replace(nodes=other_scale))))
    assert any("constant" in text for text in differences(canonical(a), canonical(a.replace(constants=moved))))


def test_norm_gain_goes_into_the_linears_behind_it() -> None:
    pre = optimize(load_onnx(exported(Options(), 20)))
    norms = [node for node in pre.nodes if isinstance(node.op, LayerNorm)]
    assert [len(node.inputs) for node in norms] == [1, 1, 1]  # the last through the mean
    assert all(node.output.endswith("_normalized") for node in norms)
    post = optimize(load_onnx(exported(*ENCODERS["multihead attention"])))
    inner = [len(n.inputs) for n in post.nodes if isinstance(n.op, LayerNorm)]
    assert inner and set(inner[:-1]) == {3} and inner[-1] == 1, inner  # the residual reads all but the last one too


@pytest.mark.parametrize(
    "moved,valid_length,bias,folds",
    [
        ("mean", False, True, True),
        ("mean", True, False, True),
        ("mean", True, True, False),  # the mean of no rows is zero, and not the bias
        ("first row", False, True, True),
        ("columns", False, True, False),
    ],
)
def test_norm_gain_goes_past_what_takes_whole_rows(moved: str, valid_length: bool, bias: bool, folds: bool) -> None:
    b = Builder(moved)
    x = b.input("x", 6, 8)
    length = [b.input("valid_length", dtype=DType.INT32)] if valid_length else []
    shift = b.constant("shift", shape=(8,)) if bias else b.constant("shift", np.zeros(8, np.float32))
    y = b.node(LayerNorm(1e-5), x, b.constant("gain", shape=(8,)), shift, name="norm")
    if moved == "mean":
        y = b.node(ReduceMean(-2, False), y, *length, name="pooled")
    else:
        y = b.node(Slice(-2, 0, 1, 1, False) if moved == "first row" else Slice(-1, 2, 7, 1, True), y, name="chosen")
    graph = b.graph(b.linear(y, 3, "out"))
    folded = fold_norm_gain(graph)
    (norm,) = (node for node in folded.nodes if isinstance(node.op, LayerNorm))
    assert len(norm.inputs) == (1 if folds else 3)
    data = {"x": np.random.default_rng(0).normal(0, 2, (4, 6, 8)).astype(np.float32)}
    data |= {"valid_length": np.array([0, 1, 5, 6], np.int32)} if valid_length else {}
    np.testing.assert_allclose(run_float(folded, data)["out"], run_float(graph, data)["out"], rtol=1e-4, atol=1e-5)


def test_values_that_survive_keep_their_names() -> None:
    graph = load_onnx(exported(Options(), 20))
    optimized = optimize(graph)
    made = {node.output for node in optimized.nodes} - set(graph.types)
    assert all(name.endswith("_normalized") for name in made)


def hand(tmp_path: Path, nodes: list[object], shape: tuple[int, ...], **constants: np.ndarray) -> Path:
    return save_model(tmp_path / "m.onnx", nodes, {"x": shape}, constants)  # type: ignore[arg-type]


def optimized_equals(path: Path) -> list[str]:
    """Kinds of operator after `optimize`, once the result is seen to be onnxruntime's."""
    graph = optimize(load_onnx(path))
    samples = samples_of(graph)
    close(graph, samples, run_onnxruntime(path, samples))
    return [node.op.kind for node in graph.nodes]


NUMBERS = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)


def test_scalars_go_into_weights(tmp_path: Path) -> None:
    nodes = [
        make_node("Mul", ["x", "two"], ["a"]),
        make_node("MatMul", ["a", "w"], ["b"]),
        make_node("Div", ["b", "two"], ["c"]),
        make_node("Mul", ["c", "g"], ["y"]),
    ]
    path = hand(tmp_path, nodes, (4, 5), two=np.float32(2.5), w=NUMBERS[:5, :3], g=NUMBERS[7, :3])
    assert optimized_equals(path) == ["Linear"]


def test_a_scalar_that_others_read_stays(tmp_path: Path) -> None:
    nodes = [
        make_node("MatMul", ["x", "w"], ["a"]),
        make_node("Mul", ["a", "two"], ["b"]),
        make_node("Add", ["a", "b"], ["y"]),
    ]
    path = hand(tmp_path, nodes, (4, 5), two=np.float32(2.5), w=NUMBERS[:5, :3])
    assert optimized_equals(path) == ["Linear", "Mul", "Add"]


def test_spelled_sigmoid_and_silu(tmp_path: Path) -> None:
    nodes = [
        make_node("Neg", ["x"], ["a"]),
        make_node("Exp", ["a"], ["b"]),
        make_node("Add", ["one", "b"], ["c"]),
        make_node("Div", ["x", "c"], ["y"]),
    ]
    path = hand(tmp_path, nodes, (4, 5), one=np.float32(1))
    assert optimized_equals(path) == ["Activation"]
    assert optimize(load_onnx(path)).nodes[0].op == Activation("silu")


def test_a_gelu_with_a_wrong_constant_is_not_one(tmp_path: Path) -> None:
    nodes = [
        make_node("Mul", ["x", "c"], ["a"]),
        make_node("Erf", ["a"], ["b"]),
        make_node("Add", ["b", "one"], ["d"]),
        make_node("Mul", ["x", "d"], ["e"]),
        make_node("Mul", ["e", "half"], ["y"], name="out"),
    ]
    path = hand(tmp_path, nodes, (4, 5), c=np.float32(0.71), one=np.float32(1), half=np.float32(0.5))
    kinds = optimized_equals(path)
    functions = [node.op.function for node in optimize(load_onnx(path)).nodes if isinstance(node.op, Activation)]
    assert functions == ["error_function"] and kinds.count("Mul") == 3


# nodes behind x (4, 5) from exporters that spell them out, and the one operator that they are
SPELLED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], Activation]] = {
    "hard swish by a clip": (
        [make_node("Add", ["x", "three"], ["a"]), make_node("Clip", ["a", "zero", "six"], ["b"]),
         make_node("Mul", ["x", "b"], ["c"]), make_node("Div", ["c", "six"], ["y"])],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}, Activation("hard_swish"),
    ),
    "hard swish by a hard sigmoid": (
        [make_node("HardSigmoid", ["x"], ["a"], alpha=1 / 6, beta=0.5), make_node("Mul", ["a", "x"], ["y"])],
        {}, Activation("hard_swish"),
    ),
    "swish": (
        [make_node("Mul", ["x", "rate"], ["a"]), make_node("Sigmoid", ["a"], ["b"]),
         make_node("Mul", ["x", "b"], ["y"])],
        {"rate": np.float32(1.75)}, Activation("swish", (1.75,)),
    ),
    "softsign": (
        [make_node("Abs", ["x"], ["a"]), make_node("Add", ["one", "a"], ["b"]), make_node("Div", ["x", "b"], ["y"])],
        {"one": np.float32(1)}, Activation("softsign"),
    ),
    "softplus with a threshold": (
        [make_node("Softplus", ["x"], ["a"]), make_node("Greater", ["x", "far"], ["b"]),
         make_node("Where", ["b", "x", "a"], ["y"])],
        {"far": np.float32(20)}, Activation("softplus"),
    ),
    "square root": ([make_node("Sqrt", ["x"], ["y"])], {}, Activation("square_root")),
    "exponential": ([make_node("Exp", ["x"], ["y"])], {}, Activation("exponential")),
}  # fmt: skip


@pytest.mark.parametrize("case", SPELLED)
def test_functions_are_one_operator_each(case: str, tmp_path: Path) -> None:
    nodes, constants, op = SPELLED[case]
    graph = optimize(load_onnx(hand(tmp_path, nodes, (4, 5), **constants)))
    assert [node.op for node in graph.nodes] == [op]


def test_a_difference_is_a_sum_with_the_negative(tmp_path: Path) -> None:
    nodes = [
        make_node("MatMul", ["x", "w"], ["a"]),
        make_node("Relu", ["x"], ["r"]),
        make_node("Sub", ["r", "a"], ["y"]),
    ]
    path = hand(tmp_path, nodes, (4, 5), w=np.eye(5, dtype=np.float32) + 0.1)
    assert optimized_equals(path) == ["Activation", "Linear", "Add"]  # the sign is in the weight


def test_layouts_cancel_merge_and_vanish(tmp_path: Path) -> None:
    nodes = [
        make_node("Transpose", ["x"], ["a"], perm=[0, 2, 1]),
        make_node("Reshape", ["a", "s"], ["b"]),
        make_node("Reshape", ["b", "t"], ["c"]),
        make_node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        make_node("Relu", ["d"], ["y"]),
    ]
    constants = {"s": np.array([1, 5, 2, 2]), "t": np.array([1, 5, 4])}
    assert optimized_equals(hand(tmp_path, nodes, (1, 4, 5), **constants)) == ["Activation"]


def test_an_output_that_equals_another_value_keeps_its_name(tmp_path: Path) -> None:
    nodes = [make_node("Relu", ["x"], ["a"]), make_node("Identity", ["a"], ["y"])]
    path = hand(tmp_path, nodes, (4, 5))
    assert optimized_equals(path) == ["Activation"]
    assert optimize(load_onnx(path)).outputs == ("y",)


def test_heads_that_stay_apart(tmp_path: Path) -> None:
    nodes = [make_node("Attention", ["x", "x", "x"], ["y"])]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 2, 6, 4)}, opset=23)
    kinds = optimized_equals(path)
    assert "Attention" in kinds and "MatMul" not in kinds


# nodes behind x (1, 6, 8), constants, what the refusal says
LEFT_OVER = {
    "two activations": (
        [make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), make_node("MatMul", ["x", "t"], ["y"], name="gram")],
        {}, r"node 'gram' \(MatMul.*multiplies two activations outside an attention",
    ),
    "where": (
        [make_node("Less", ["x", "c"], ["l"]), make_node("Where", ["l", "x", "c"], ["y"], name="pick")],
        {"c": np.float32(0)}, r"computes 'less'|chooses between",
    ),
    "scores with a bias": (
        [make_node("Attention", ["x", "x", "x", "m"], ["y"], q_num_heads=2, kv_num_heads=2, name="att")],
        {"m": np.triu(np.full((6, 6), -9, np.float32), 2)}, r"attention with a mask that is neither causal nor",
    ),
    "rows that a number hides from all": (
        [make_node("Attention", ["x", "x", "x", "m"], ["y"], q_num_heads=2, kv_num_heads=2)],
        {"m": np.where(np.eye(6, k=1), 0, -1e9).astype(np.float32)}, r"attention with a mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OVER)
def test_what_is_left_over_is_refused(case: str, tmp_path: Path) -> None:
    nodes, constants, says = LEFT_OVER[case]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 6, 8)}, constants, opset=23)
    with pytest.raises(UnsupportedError, match=says) as caught:
        optimize(load_onnx(path))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("m: ")


def test_a_mask_off_by_one_is_refused() -> None:
    path = exported(Options(valid_length=True, mask="offset"), 20)
    with pytest.raises(UnsupportedError, match="mask that is neither causal nor 'the first valid_length keys'"):
        optimize(load_onnx(path))


def test_a_mask_that_only_weakens_is_refused() -> None:
    path = exported(Options(valid_length=True, mask="weak"), 20)
    with pytest.raises(UnsupportedError, match="mask that is neither causal nor 'the first valid_length keys'"):
        optimize(load_onnx(path))


def test_a_triangle_that_only_weakens_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mask that is neither causal nor"):
        optimize(load_onnx(exported(Options(causal="weak"), 20)))


def test_a_band_is_attended_to_in_pieces() -> None:
    """A causal window of three keys over six rows: three rows are a triangle, the others see three keys each."""
    path = exported(Options(causal="band"), 20)
    graph = optimize(load_onnx(path))
    attentions = [node.op for node in graph.nodes if isinstance(node.op, Attention)]
    assert [one.causal for one in attentions] == [True, False, False, False]
    samples = samples_of(graph)
    close(graph, samples, run_onnxruntime(path, samples))


MASKS = {
    "a gap": np.triu(np.full((6, 6), -1e9, np.float32), 2),
    "itself": np.eye(6, dtype=bool),
    "blocks": np.kron(np.eye(2), np.ones((3, 3))).astype(bool),
    "all but one": ~np.eye(6, dtype=bool),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_constant_mask_is_attended_to_in_pieces(case: str, tmp_path: Path) -> None:
    node = make_node("Attention", ["x", "x", "x", "m"], ["y"], q_num_heads=2, kv_num_heads=2)
    path = save_model(tmp_path / "m.onnx", [node], {"x": (1, 6, 8)}, {"m": MASKS[case]}, opset=23)
    graph = optimize(load_onnx(path))
    samples = samples_of(graph)
    close(graph, samples, run_onnxruntime(path, samples))


def test_keys_that_heads_share_in_another_order_are_repeated() -> None:
    """Query heads 0 and 2 read key head 0: no grouped-query attention, so the keys are made once per query head."""
    path = exported(Options(heads=4, kv_heads=2, repeat="tile", causal="buffer"), 20)
    graph = optimize(load_onnx(path))
    (attention,) = (node.op for node in graph.nodes if isinstance(node.op, Attention))
    assert attention.kv_heads == 4 and attention.causal
    samples = samples_of(graph)
    close(graph, samples, run_onnxruntime(path, samples))


def test_a_masked_sum_divided_by_too_much_is_no_mean() -> None:
    path = exported(Options(valid_length=True, mask="divide by more"), 20)
    with pytest.raises(UnsupportedError, match=r"valid_length|outside"):
        optimize(load_onnx(path))


def test_a_reshape_that_cuts_rows_stays_in_front_of_its_linear(tmp_path: Path) -> None:
    nodes = [
        make_node("Reshape", ["x", "s"], ["a"]),
        make_node("MatMul", ["a", "w"], ["b"]),
        make_node("Reshape", ["b", "t"], ["y"]),
    ]
    constants = {"s": np.array([8, 3]), "w": NUMBERS[:3, :2], "t": np.array([4, 4])}
    assert optimized_equals(hand(tmp_path, nodes, (4, 6), **constants)) == ["Reshape", "Linear", "Reshape"]
