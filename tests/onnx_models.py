"""ONNX models for tests: small encoders with random weights, exported, and models of a few nodes by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from onnx import TensorProto
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """What the test encoder is made of."""

    norm: str = "pre"  # pre, post
    activation: str = "gelu"  # relu, gelu, gelu_tanh, silu
    positions: str = "learned"  # learned, sinusoidal, none
    inputs: str = "frames"  # frames, tokens, image
    pooling: str = "mean"  # mean, cls, none
    attention: str = "plain"  # plain, packed, sdpa, mha, layer (nn.TransformerEncoderLayer)
    scale: str = "scores"  # scores, query, key, both (only plain)
    scale_embedding: bool = False
    valid_length: bool = False
    mask: str = "where"  # where, add (as BERT), offset (a key too many), weak, divide by more
    layers: int = 1
    causal: str = ""  # buffer (a constant added), fill (masked_fill), where, sdpa (is_causal), weak, band
    kv_heads: int = 0  # 0: as many as heads
    repeat: str = (
        "interleave"  # how keys and values reach all heads: interleave, expand, broadcast, tile, gqa (by sdpa)
    )
    heads: int = 2
    d_model: int = 16
    d_ff: int = 24
    rows: int = 6


class Attention(nn.Module):
    """Self-attention in the given spelling."""

    def __init__(self, o: EncoderOptions) -> None:
        super().__init__()
        self.o = o
        d = o.d_model
        if o.attention == "packed":
            self.qkv = nn.Linear(d, 3 * d)
        elif o.attention == "mha":
            self.mha = nn.MultiheadAttention(d, o.heads, batch_first=True)
            return
        else:
            narrow = d // o.heads * (o.kv_heads or o.heads)
            self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, narrow), nn.Linear(d, narrow)
        hidden = torch.ones(o.rows, o.rows).triu(1).bool()
        hidden = hidden | hidden.new_ones(o.rows, o.rows).tril(-3) if o.causal == "band" else hidden
        self.register_buffer("hidden", hidden, persistent=False)
        low = torch.where(hidden, -5.0 if o.causal == "weak" else -math.inf, 0.0)
        self.register_buffer("mask", low, persistent=False)
        self.out = nn.Linear(d, d)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], -1, self.o.d_model // self.o.heads).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """(B, G, T, D) as every head of the queries reads it."""
        o = self.o
        if o.kv_heads in (0, o.heads) or o.repeat in ("broadcast", "gqa"):
            return x
        times = o.heads // o.kv_heads
        if o.repeat == "interleave":
            return x.repeat_interleave(times, 1)
        if o.repeat == "tile":  # head h reads h modulo the number of key heads
            return x.repeat(1, times, 1, 1)
        return x[:, :, None].expand(-1, -1, times, -1, -1).reshape(x.shape[0], o.heads, *x.shape[2:])

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        o = self.o
        if o.attention == "mha":
            result: Tensor = self.mha(x, x, x, need_weights=False)[0]
            return result
        if o.attention == "packed":
            qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, o.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        else:
            q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
            k, v = self.repeat(k), self.repeat(v)
        if o.attention == "sdpa":
            context = nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=o.causal == "sdpa", enable_gqa=o.repeat == "gqa"
            )
        else:
            scale = 1.0 / math.sqrt(q.shape[-1])
            q = q * scale if o.scale == "query" else q * math.sqrt(scale) if o.scale == "both" else q
            k = k * scale if o.scale == "key" else k * math.sqrt(scale) if o.scale == "both" else k
            scores = q @ k.transpose(-1, -2)
            scores = scores / math.sqrt(q.shape[-1]) if o.scale == "scores" else scores
            if valid is not None and o.mask in ("add", "weak"):
                scores = scores + (1.0 - valid[:, None, None, :].to(scores.dtype)) * (-1e9 if o.mask == "add" else -5.0)
            elif valid is not None:
                scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
            if o.causal in ("buffer", "weak", "band"):
                scores = scores + self.mask
            elif o.causal == "fill":
                scores = scores.masked_fill(self.hidden, -1e9)
            elif o.causal == "where":
                scores = torch.where(self.hidden.logical_not(), scores, torch.tensor(-math.inf))
            context = torch.softmax(scores, -1) @ v
        joined: Tensor = self.out(context.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return joined


class Layer(nn.Module):
    """One encoder layer, pre- or post-norm."""

    def __init__(self, o: EncoderOptions) -> None:
        super().__init__()
        self.pre = o.norm == "pre"
        self.attention = Attention(o)
        self.norm1, self.norm2 = nn.LayerNorm(o.d_model), nn.LayerNorm(o.d_model, eps=1e-6)
        act: dict[str, Any] = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU()}
        self.ff = nn.Sequential(nn.Linear(o.d_model, o.d_ff), act[o.activation], nn.Linear(o.d_ff, o.d_model))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x), valid)
            return x + self.ff(self.norm2(x))
        x = self.norm1(self.attention(x, valid) + x)
        result: Tensor = self.norm2(x + self.ff(x))
        return result


class Encoder(nn.Module):
    """Ids, frames or patches to logits (1, 3) or (1, rows, 3)."""

    def __init__(self, o: EncoderOptions) -> None:
        super().__init__()
        self.o = o
        d = o.d_model
        if o.inputs == "tokens":
            self.embed: nn.Module = nn.Embedding(11, d)
        elif o.inputs == "image":
            self.embed = nn.Conv2d(2, d, (2, 3), stride=(2, 3))
        else:
            self.embed = nn.Linear(5, d)
        count = o.rows + int(o.pooling == "cls")
        if o.pooling == "cls":
            self.cls = nn.Parameter(torch.randn(1, 1, d))
        if o.positions == "learned":
            self.position: nn.Module | None = nn.Embedding(count + 3, d)
        self.register_buffer("ids", torch.arange(count)[None], persistent=False)
        if o.positions == "sinusoidal":
            angle = torch.arange(count)[:, None] * torch.exp(torch.arange(0, d, 2) * (-math.log(1e4) / d))
            self.register_buffer("wave", torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[None])
        if o.attention == "layer":
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    d, o.heads, o.d_ff, activation=o.activation, batch_first=True, norm_first=o.norm == "pre"
                )
                for _ in range(o.layers)
            )
        else:
            self.layers = nn.ModuleList(Layer(o) for _ in range(o.layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 3)

    def forward(self, x: Tensor, valid_length: Tensor | None = None) -> Tensor:
        o = self.o
        rows = self.embed(x)
        if o.inputs == "image":
            rows = rows.flatten(2).transpose(1, 2)
        if o.scale_embedding:
            rows = rows * math.sqrt(o.d_model)
        if o.pooling == "cls":
            rows = torch.cat((self.cls.expand(rows.shape[0], 1, o.d_model), rows), 1)
        if o.positions == "learned" and self.position is not None:
            rows = rows + self.position(self.ids)
        elif o.positions == "sinusoidal":
            rows = rows + self.wave
        valid = None
        if valid_length is not None:
            valid = self.ids < valid_length.reshape(-1, 1) + int(o.mask == "offset")
        for layer in self.layers:
            rows = layer(rows) if o.attention == "layer" else layer(rows, valid)
        rows = self.norm(rows)
        if o.pooling == "cls":
            rows = rows[:, 0]
        elif o.pooling == "mean" and valid is not None:
            weight = valid.to(rows.dtype)[:, :, None]
            rows = (rows * weight).sum(1) / (weight.sum(1) + 1 if o.mask == "divide by more" else weight.sum(1))
        elif o.pooling == "mean":
            rows = rows.mean(1)
        logits: Tensor = self.head(rows)
        return logits


def build(o: EncoderOptions) -> tuple[Encoder, tuple[Tensor, ...]]:
    """The module with random weights everywhere (biases and gains too), and example inputs."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Encoder(o).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name and "weight" in name))
        shapes = {"frames": (1, o.rows, 5), "image": (1, 2, 2 * (o.rows // 2), 6), "tokens": (1, o.rows)}
        shape = shapes[o.inputs]
        x = torch.randint(0, 11, shape) if o.inputs == "tokens" else torch.randn(shape)
    return model, (x, torch.tensor([o.rows])) if o.valid_length else (x,)


def export(o: EncoderOptions, path: Path, opset: int, legacy: bool = False, **keys: Any) -> Path:
    """Write the encoder with today's exporter, or with the one before it (`legacy`)."""
    model, inputs = build(o)
    names = ["x", "valid_length"][: len(inputs)]
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernels have no ONNX form in the older exporter
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if legacy:
            torch.onnx.export(
                model, inputs, str(path), dynamo=False, opset_version=opset, input_names=names, output_names=["y"],
                **keys,
            )  # fmt: skip
        else:
            torch.onnx.export(
                model, inputs, str(path), dynamo=True, opset_version=opset, input_names=names, output_names=["y"],
                verbose=False, external_data=False, **keys,
            )  # fmt: skip
    logging.getLogger("torch.onnx").setLevel(level)
    torch.backends.mha.set_fastpath_enabled(fast)
    return path


_FOLDER = tempfile.TemporaryDirectory(prefix="onnx-models-")


@functools.cache
def exported(o: EncoderOptions, opset: int, legacy: bool = False) -> Path:
    """`export`, once per process."""
    name = "_".join(str(value) for value in dataclasses.astuple(o))
    return export(o, Path(_FOLDER.name) / f"{name}_{opset}_{legacy}.onnx", opset, legacy)


def sample_inputs(graph_types: dict[str, Any], count: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random samples for inputs given as name → TensorType: ids below 11, lengths within 1..6."""
    generator = np.random.default_rng(seed)
    samples = {}
    for name, type_ in graph_types.items():
        shape = (count, *type_.shape)
        if name == "valid_length":
            samples[name] = np.resize(np.array([3, 6, 1]), shape).astype(np.int64)
        elif type_.dtype.is_integer:
            samples[name] = generator.integers(0, 11, shape)
        else:
            samples[name] = generator.normal(size=shape).astype(np.float32)
    return samples


def run_onnxruntime(model: Path | bytes, samples: dict[str, np.ndarray]) -> np.ndarray:
    """First output for every sample, stacked."""
    return next(iter(run_all(model, samples).values()))


def run_all(model: Path | bytes, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output for every sample, stacked."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(samples.values())))
    results = [session.run(names, {name: array[i] for name, array in samples.items()}) for i in range(count)]
    return {name: np.stack([result[i] for result in results]) for i, name in enumerate(names)}


def save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    constants: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 20,
    input_type: int = TensorProto.FLOAT,
) -> Path:
    """Write a model made of a few nodes by hand; output shapes are left to inference."""
    graph = onnx.helper.make_graph(
        nodes,
        "hand",
        [onnx.helper.make_tensor_value_info(name, input_type, list(shape)) for name, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:  # a model that is meant to be refused
        inferred = model
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        shape = found.type.tensor_type.shape
        if found.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.CopyFrom(shape)
        else:
            value.type.tensor_type.shape.dim.add()
    path.write_bytes(model.SerializeToString())
    return path
