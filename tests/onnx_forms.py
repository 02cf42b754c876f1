"""Nodes that real transformer files hold, as onnxruntime can run them: forms for test_onnx_nodes.py."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.helper import make_node

from onnx_form import Form, contrib, int32, ints, numbers, tables

QKV = {"q": (1, 4, 8), "k": (1, 4, 8), "v": (1, 4, 8)}
HEADS = {"q": (1, 2, 4, 8), "k": (1, 2, 4, 8), "v": (1, 2, 4, 8)}
CAUSAL = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)
PADDED = np.array([[True, True, True, False]])
PAST = {"pk": (1, 2, 3, 4), "pv": (1, 2, 3, 4)}
PRESENT = {"y": 3, "nk": 4, "nv": 4}
TABLES = dict(zip(("cos", "sin"), tables(9, 2), strict=True))

ATTENTION = {
    "three axes": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)], QKV, opset=23
    ),
    "four axes, scaled": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], scale=0.3)], HEADS, outputs={"y": 4}, opset=23
    ),
    "causal": Form([make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)], HEADS, outputs={"y": 4}, opset=23),
    "causal, fewer rows than keys": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)],
        {**HEADS, "q": (1, 2, 3, 8)}, outputs={"y": 4}, opset=23,
    ),
    "causal, more rows than keys": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)],
        {**HEADS, "q": (1, 2, 6, 8)}, outputs={"y": 4}, opset=23,
    ),
    "grouped heads": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=2)],
        {"q": (1, 4, 16), "k": (1, 4, 8), "v": (1, 4, 8)}, opset=23,
    ),
    "grouped heads, four axes": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)], {**HEADS, "q": (1, 4, 4, 8)}, outputs={"y": 4},
        opset=23,
    ),
    "values of another width": Form(
        [make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)],
        {**QKV, "v": (1, 4, 12)}, opset=23,
    ),
    "a causal mask": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])], HEADS, {"m": CAUSAL}, {"y": 4}, 23
    ),
    "a mask of padding": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        HEADS, {"m": np.broadcast_to(PADDED, (4, 4))}, {"y": 4}, 23,
    ),
    "a mask of nothing": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])], HEADS, {"m": np.ones((4, 4), bool)}, {"y": 4}, 23
    ),
    "a window": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        HEADS, {"m": np.tri(4, k=1, dtype=bool) & ~np.tri(4, k=-2, dtype=bool)}, {"y": 4}, 23,
    ),
    "a mask of its own for each head": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        HEADS, {"m": np.stack([np.tri(4, dtype=bool), np.ones((4, 4), bool)])[None]}, {"y": 4}, 23,
    ),
    "rows that see nothing": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        HEADS, {"m": np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], bool)}, {"y": 4}, 23,
        only_fused=True,
    ),
    "two samples padded differently": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        {name: (2, *shape[1:]) for name, shape in HEADS.items()},
        {"m": np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)[:, None, None].repeat(4, -2)}, {"y": 4}, 23,
    ),
    "a bias of scores": Form(
        [make_node("Attention", ["q", "k", "v", "m"], ["y"])],
        HEADS, {"m": numbers(4, 4)}, {"y": 4}, 23, refused="neither causal nor",
    ),
    "past and present": Form(
        [make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"], q_num_heads=2, kv_num_heads=2,
                   is_causal=1)],
        {**QKV, **PAST}, outputs=PRESENT, opset=23,
    ),
    "past, one row": Form(
        [make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"], q_num_heads=2, kv_num_heads=2)],
        dict.fromkeys("qkv", (1, 1, 8)) | PAST, outputs=PRESENT, opset=23,
    ),
    "packed weights": Form(
        [contrib("Attention", ["x", "w", "b"], ["y"], num_heads=2)],
        {"x": (1, 4, 6)}, {"w": numbers(6, 24), "b": numbers(24)},
    ),
    "packed weights, causal, scaled": Form(
        [contrib("Attention", ["x", "w", "b"], ["y"], num_heads=2, unidirectional=1, scale=0.2)],
        {"x": (1, 4, 6)}, {"w": numbers(6, 24), "b": numbers(24)},
    ),
    "packed weights of other sizes": Form(
        [contrib("Attention", ["x", "w", "b"], ["y"], num_heads=2, qkv_hidden_sizes=[8, 8, 12])],
        {"x": (1, 4, 6)}, {"w": numbers(6, 28), "b": numbers(28)},
    ),
    "packed weights, the length an input": Form(
        [contrib("Attention", ["x", "w", "b", "m"], ["y"], num_heads=2)],
        {"x": (1, 4, 6), "m": (1,)}, {"w": numbers(6, 24), "b": numbers(24)},
        integers={"m": (1, 5)}, integer_type=onnx.TensorProto.INT32,
    ),
    "packed weights, a fixed mask": Form(
        [contrib("Attention", ["x", "w", "b", "m"], ["y"], num_heads=2)],
        {"x": (1, 4, 6)}, {"w": numbers(6, 24), "b": numbers(24), "m": int32(1, 1, 1, 0)[None]},
    ),
    "multi-head": Form([contrib("MultiHeadAttention", ["q", "k", "v"], ["y"], num_heads=2)], QKV),
    "multi-head with a bias": Form(
        [contrib("MultiHeadAttention", ["q", "k", "v", "b"], ["y"], num_heads=2)], QKV, {"b": numbers(24)}
    ),
    "multi-head, keys and values apart": Form(
        [contrib("MultiHeadAttention", ["q", "k", "v"], ["y"], num_heads=2)],
        {"q": (1, 4, 8), "k": (1, 2, 5, 4), "v": (1, 2, 5, 4)},
    ),
    "multi-head, causal": Form(
        [contrib("MultiHeadAttention", ["q", "k", "v"], ["y"], num_heads=2, unidirectional=1)], QKV
    ),
    "multi-head, past": Form(
        [contrib("MultiHeadAttention", ["q", "k", "v", "", "", "", "pk", "pv"], ["y", "nk", "nv"], num_heads=2)],
        dict.fromkeys("qkv", (1, 1, 8)) | PAST, outputs=PRESENT,
    ),
    "multi-head, a fixed mask": Form(
        [contrib("MultiHeadAttention", ["q", "k", "v", "", "m"], ["y"], num_heads=2)],
        QKV, {"m": int32(1, 1, 0, 0)[None]},
    ),
    "grouped": Form(
        [contrib("GroupQueryAttention", ["q", "k", "v", "", "", "s", "t"], ["y", "nk", "nv"], num_heads=4,
                 kv_num_heads=2)],
        {"q": (1, 4, 32), "k": (1, 4, 16), "v": (1, 4, 16)}, {"s": int32(3), "t": int32(4)}, PRESENT,
    ),
    "grouped, turned inside": Form(
        [contrib("GroupQueryAttention", ["q", "k", "v", "", "", "s", "t", "cos", "sin"], ["y", "nk", "nv"], num_heads=4,
                 kv_num_heads=2, do_rotary=1)],
        {"q": (1, 4, 64), "k": (1, 4, 32), "v": (1, 4, 32)},
        {"s": int32(3), "t": int32(4), **dict(zip(("cos", "sin"), tables(9, 8), strict=True))}, PRESENT,
    ),
    "grouped, packed, past": Form(
        [contrib("GroupQueryAttention", ["x", "", "", "pk", "pv", "s", "t"], ["y", "nk", "nv"], num_heads=4,
                 kv_num_heads=2)],
        {"x": (1, 1, 64), "pk": (1, 2, 3, 8), "pv": (1, 2, 3, 8)}, {"s": int32(3), "t": int32(4)}, PRESENT,
    ),
}  # fmt: skip

ROTARY = {
    "three axes": Form(
        [make_node("RotaryEmbedding", ["x", "cos", "sin", "p"], ["y"], num_heads=2)],
        {"x": (1, 4, 8)}, {**TABLES, "p": ints(0, 1, 2, 3)[None]}, opset=23,
    ),
    "four axes": Form(
        [make_node("RotaryEmbedding", ["x", "cos", "sin", "p"], ["y"])],
        {"x": (1, 2, 4, 4)}, {**TABLES, "p": ints(3, 1, 2, 5)[None]}, {"y": 4}, 23,
    ),
    "interleaved": Form(
        [make_node("RotaryEmbedding", ["x", "cos", "sin", "p"], ["y"], num_heads=2, interleaved=1)],
        {"x": (1, 4, 8)}, {**TABLES, "p": ints(0, 1, 2, 3)[None]}, opset=23,
    ),
    "a part of each head": Form(
        [make_node("RotaryEmbedding", ["x", "cos", "sin", "p"], ["y"], num_heads=2, rotary_embedding_dim=4)],
        {"x": (1, 4, 16)}, {**TABLES, "p": ints(0, 1, 2, 3)[None]}, opset=23,
    ),
    "two samples, a table each": Form(
        [make_node("RotaryEmbedding", ["x", "c", "s"], ["y"], num_heads=2)],
        {"x": (2, 3, 8)}, {"c": TABLES["cos"][:6].reshape(2, 3, 2), "s": TABLES["sin"][:6].reshape(2, 3, 2)}, opset=23,
    ),
    "onnxruntime's": Form(
        [contrib("RotaryEmbedding", ["x", "p", "cos", "sin"], ["y"])],
        {"x": (1, 2, 4, 4)}, {**TABLES, "p": ints(2)}, {"y": 4},
    ),
}  # fmt: skip

NORMS = {
    "rms": Form([make_node("RMSNormalization", ["x", "g"], ["y"])], {"x": (1, 4, 8)}, {"g": numbers(8)}, opset=23),
    "rms over two axes": Form(
        [make_node("RMSNormalization", ["x", "g"], ["y"], axis=-2, epsilon=0.01)],
        {"x": (2, 4, 8)}, {"g": numbers(4, 8)}, opset=23,
    ),
    "simplified": Form(
        [make_node("SimplifiedLayerNormalization", ["x", "g"], ["y"], axis=-1, epsilon=1e-6)],
        {"x": (1, 4, 8)}, {"g": numbers(8)},
    ),
    "skip": Form(
        [contrib("SkipLayerNormalization", ["x", "s", "g", "b"], ["y"], epsilon=1e-5)],
        {"x": (1, 4, 8), "s": (1, 4, 8)}, {"g": numbers(8), "b": numbers(8)},
    ),
    "skip with a bias, and its sum": Form(
        [contrib("SkipLayerNormalization", ["x", "s", "g", "b", "c"], ["y", "", "", "t"], epsilon=1e-5)],
        {"x": (1, 4, 8), "s": (1, 4, 8)}, {"g": numbers(8), "b": numbers(8), "c": numbers(8)}, {"y": 3, "t": 3},
    ),
    "skip without a mean": Form(
        [contrib("SkipSimplifiedLayerNormalization", ["x", "s", "g", "c"], ["y", "", "", "t"], epsilon=1e-5)],
        {"x": (1, 4, 8), "s": (1, 4, 8)}, {"g": numbers(8), "c": numbers(8)}, {"y": 3, "t": 3},
    ),
    "embeddings": Form(
        [contrib("EmbedLayerNormalization", ["i", "s", "w", "p", "t", "g", "b"], ["y", "m"])],
        {"i": (1, 4), "s": (1, 4)},
        {"w": numbers(9, 8), "p": numbers(6, 8), "t": numbers(2, 8), "g": numbers(8), "b": numbers(8)},
        integers={"i": (0, 9), "s": (0, 2)}, integer_type=onnx.TensorProto.INT32,
    ),
    "layer norm and a mean that nothing reads": Form(
        [make_node("LayerNormalization", ["x", "g", "b"], ["y", "mean", "deviation"])],
        {"x": (1, 4, 8)}, {"g": numbers(8), "b": numbers(8)},
    ),
    "layer norm and its mean": Form(
        [make_node("LayerNormalization", ["x", "g"], ["y", "mean"])],
        {"x": (1, 4, 8)}, {"g": numbers(8)}, {"y": 3, "mean": 3},
    ),
    "layer norm and its deviation": Form(
        [make_node("LayerNormalization", ["x", "g"], ["y", "", "deviation"])],
        {"x": (1, 4, 8)}, {"g": numbers(8)}, {"y": 3, "deviation": 3},
    ),
    "instance": Form(
        [make_node("InstanceNormalization", ["x", "g", "b"], ["y"])],
        {"x": (1, 4, 8)}, {"g": numbers(4), "b": numbers(4)},
    ),
    "group": Form(
        [make_node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=2)],
        {"x": (1, 4, 8)}, {"g": numbers(4), "b": numbers(4)},
    ),
}  # fmt: skip

HALVES = {"one": ints(1), "zero": ints(0), "half": ints(2), "whole": ints(4), "last": ints(-1)}
COSINES, SINES = (np.concatenate([table[None, None, :4]] * 2, axis=-1) for table in tables(9, 2))
SPELLED = {
    "rms": Form(
        [make_node("Pow", ["x", "two"], ["a"]), make_node("ReduceMean", ["a"], ["b"], axes=[-1]),
         make_node("Add", ["b", "epsilon"], ["c"]), make_node("Sqrt", ["c"], ["d"]),
         make_node("Div", ["one", "d"], ["e"]), make_node("Mul", ["x", "e"], ["f"]),
         make_node("Mul", ["g", "f"], ["y"])],
        {"x": (1, 4, 8)},
        {"two": np.float32(2), "one": np.float32(1), "epsilon": np.float32(1e-5), "g": numbers(8)}, opset=13,
    ),
    "rms by division": Form(
        [make_node("Mul", ["x", "x"], ["a"]), make_node("ReduceMean", ["a"], ["b"], axes=[-1]),
         make_node("Add", ["b", "epsilon"], ["c"]), make_node("Sqrt", ["c"], ["d"]),
         make_node("Div", ["x", "d"], ["y"])],
        {"x": (1, 4, 8)}, {"epsilon": np.float32(1e-5)}, opset=13,
    ),
    "rope": Form(
        [make_node("Mul", ["x", "cos"], ["a"]), make_node("Slice", ["x", "zero", "half", "last"], ["b"]),
         make_node("Slice", ["x", "half", "whole", "last"], ["c"]), make_node("Neg", ["c"], ["d"]),
         make_node("Concat", ["d", "b"], ["e"], axis=-1), make_node("Mul", ["e", "sin"], ["f"]),
         make_node("Add", ["a", "f"], ["y"])],
        {"x": (1, 2, 4, 4)}, {"cos": COSINES, "sin": SINES, **HALVES}, {"y": 4},
    ),
    "rope of rows before heads": Form(
        [make_node("Mul", ["x", "cos"], ["a"]), make_node("Slice", ["x", "zero", "half", "last"], ["b"]),
         make_node("Slice", ["x", "half", "whole", "last"], ["c"]), make_node("Neg", ["c"], ["d"]),
         make_node("Concat", ["d", "b"], ["e"], axis=-1), make_node("Mul", ["e", "sin"], ["f"]),
         make_node("Add", ["f", "a"], ["y"])],
        {"x": (2, 4, 3, 4)},
        {"cos": COSINES.transpose(0, 2, 1, 3), "sin": SINES.transpose(0, 2, 1, 3), **HALVES}, {"y": 4},
    ),
    "no rope: the other half is negated": Form(
        [make_node("Mul", ["x", "cos"], ["a"]), make_node("Slice", ["x", "zero", "half", "last"], ["b"]),
         make_node("Slice", ["x", "half", "whole", "last"], ["c"]), make_node("Neg", ["b"], ["d"]),
         make_node("Concat", ["c", "d"], ["e"], axis=-1), make_node("Mul", ["e", "sin"], ["f"]),
         make_node("Add", ["a", "f"], ["y"])],
        {"x": (1, 2, 4, 4)}, {"cos": COSINES, "sin": SINES, **HALVES}, {"y": 4},
    ),
}  # fmt: skip

ACTIVATIONS = {
    "gelu": Form([contrib("Gelu", ["x"], ["y"])], {"x": (1, 4, 8)}),
    "biased gelu": Form([contrib("BiasGelu", ["x", "b"], ["y"])], {"x": (1, 4, 8)}, {"b": numbers(8)}),
    "fast gelu": Form([contrib("FastGelu", ["x", "b"], ["y"])], {"x": (1, 4, 8)}, {"b": numbers(8)}),
    "quick gelu": Form([contrib("QuickGelu", ["x"], ["y"], alpha=1.702)], {"x": (1, 4, 8)}),
    "silu": Form([contrib("QuickGelu", ["x"], ["y"], alpha=1.0)], {"x": (1, 4, 8)}),
    "fused matmul": Form(
        [contrib("FusedMatMul", ["x", "w"], ["y"], transB=1, alpha=0.5)], {"x": (1, 4, 8)}, {"w": numbers(5, 8)}
    ),
    "fused matmul, the other way": Form(
        [contrib("FusedMatMul", ["x", "w"], ["y"], transA=1)], {"x": (1, 4, 8)}, {"w": numbers(4, 5)}
    ),
}

EINSUM = {
    "a linear layer": Form([make_node("Einsum", ["x", "w"], ["y"], equation="bsd,nd->bsn")], {"x": (1, 4, 8)},
                           {"w": numbers(5, 8)}),
    "a linear layer into heads": Form(
        [make_node("Einsum", ["x", "w"], ["y"], equation="bsd,dhk->bhsk")], {"x": (1, 4, 8)}, {"w": numbers(8, 2, 5)},
        {"y": 4},
    ),
    "heads into a linear layer": Form(
        [make_node("Einsum", ["x", "w"], ["y"], equation="bhsk,hkd->bsd")], {"x": (1, 2, 4, 5)},
        {"w": numbers(2, 5, 8)},
    ),
    "an attention": Form(
        [make_node("Einsum", ["q", "k"], ["s"], equation="bhid,bhjd->bhij"), make_node("Softmax", ["s"], ["w"]),
         make_node("Einsum", ["w", "v"], ["y"], equation="bhij, bhjd -> bihd")],
        HEADS, outputs={"y": 4},
    ),
    "an ellipsis": Form(
        [make_node("Einsum", ["x", "w"], ["y"], equation="...d,nd->...n")], {"x": (1, 4, 8)}, {"w": numbers(5, 8)}
    ),
    "a transpose": Form([make_node("Einsum", ["x"], ["y"], equation="abc->cab")], {"x": (2, 4, 8)}),
    "a sum": Form([make_node("Einsum", ["x"], ["y"], equation="abc->ac")], {"x": (2, 4, 8)}, outputs={"y": 2}),
    "no result said": Form([make_node("Einsum", ["x", "w"], ["y"], equation="abc,cd")], {"x": (2, 4, 8)},
                           {"w": numbers(8, 3)}),
    "a sum on one side": Form(
        [make_node("Einsum", ["x", "w"], ["y"], equation="abc,db->ad")], {"x": (2, 4, 8)}, {"w": numbers(3, 4)},
        {"y": 2},
    ),
}  # fmt: skip

ARITHMETIC = {
    "sum": Form([make_node("Sum", ["x", "z", "c"], ["y"])], {"x": (1, 4, 8), "z": (1, 4, 8)}, {"c": numbers(8)}),
    "mean": Form([make_node("Mean", ["x", "z"], ["y"])], {"x": (1, 4, 8), "z": (1, 1, 8)}),
    "difference": Form([make_node("Sub", ["x", "z"], ["y"])], {"x": (1, 4, 8), "z": (1, 4, 1)}),
    "sum of squares": Form(
        [make_node("ReduceSumSquare", ["x", "a"], ["y"], keepdims=0)], {"x": (2, 4, 8)}, {"a": ints(1)}, {"y": 2}
    ),
    "a piece of nothing": Form(
        [make_node("Split", ["x", "s"], ["a", "b"], axis=2), make_node("Concat", ["b", "a"], ["y"], axis=2)],
        {"x": (1, 4, 8)}, {"s": ints(8, 0)},
    ),
    "cast like": Form(
        [make_node("CastLike", ["i", "c"], ["a"]), make_node("Mul", ["x", "a"], ["y"])],
        {"x": (1, 4, 8)}, {"i": np.array(3), "c": np.float32(1)},
    ),
}  # fmt: skip

MOVES = {
    "gather in another order": Form(
        [make_node("Gather", ["x", "i"], ["y"], axis=1)], {"x": (1, 6, 4)}, {"i": ints(5, 0, 1, 2, -2)}
    ),
    "gather into two axes": Form(
        [make_node("Gather", ["x", "i"], ["y"], axis=1)], {"x": (1, 6, 4)}, {"i": ints(5, 0, 1, 2).reshape(2, 2)},
        {"y": 4},
    ),
    "gather elements": Form(
        [make_node("GatherElements", ["x", "i"], ["y"], axis=1)], {"x": (1, 6, 4)},
        {"i": np.broadcast_to(ints(4, 1, 2)[None, :, None], (1, 3, 3))},
    ),
    "scatter elements": Form(
        [make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=1)], {"x": (1, 6, 4), "u": (1, 2, 4)},
        {"i": np.broadcast_to(ints(2, 3)[None, :, None], (1, 2, 4))},
    ),
    "scatter rows of a cache": Form(
        [make_node("ScatterND", ["x", "i", "u"], ["y"])], {"x": (6, 4), "u": (2, 4)}, {"i": ints(2, 3)[:, None]},
        {"y": 2},
    ),
    "scatter rows behind a batch": Form(
        [make_node("ScatterND", ["x", "i", "u"], ["y"])], {"x": (2, 6, 4), "u": (2, 2, 4)},
        {"i": np.array([[[b, r] for r in (4, 1)] for b in range(2)])},
    ),
    "upper triangle": Form([make_node("Trilu", ["x", "k"], ["y"])], {"x": (2, 4, 5)}, {"k": ints(1)}),
    "lower triangle": Form([make_node("Trilu", ["x"], ["y"], upper=0)], {"x": (2, 4, 5)}),
    "depth to space": Form(
        [make_node("DepthToSpace", ["x"], ["y"], blocksize=2)], {"x": (1, 8, 2, 3)}, outputs={"y": 4}
    ),
    "depth to space by columns": Form(
        [make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], {"x": (1, 8, 2, 3)}, outputs={"y": 4}
    ),
    "space to depth": Form(
        [make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)], {"x": (1, 2, 4, 6)}, outputs={"y": 4}
    ),
}  # fmt: skip

FORMS = {
    f"{group}: {name}": form
    for group, forms in (
        ("attention", ATTENTION), ("rotary", ROTARY), ("norm", NORMS), ("spelled", SPELLED),
        ("activation", ACTIVATIONS),
        ("einsum", EINSUM), ("arithmetic", ARITHMETIC), ("moves", MOVES),
    )
    for name, form in forms.items()
}  # fmt: skip
