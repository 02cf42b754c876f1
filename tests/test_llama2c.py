"""llama2.c checkpoints of all three versions, written here: logits against transformers, and damaged files."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.imported_module import build_module
from picoformer.models.importers import load_decoder
from picoformer.models.weights import weight_shapes

torch.set_num_threads(1)

Weights = dict[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The header of a file."""

    dim: int = 18
    hidden: int = 27
    layers: int = 2
    heads: int = 3
    kv_heads: int = 1
    vocabulary: int = 48
    sequence: int = 64
    tied: bool = True
    group: int = 9

    @property
    def head(self) -> int:
        return self.dim // self.heads


SHAPES = {
    "one_kv_head": Shape(),
    "untied": Shape(tied=False, kv_heads=3),
    "grouped": Shape(dim=24, hidden=40, heads=6, kv_heads=2, layers=3, group=8),
}


def random_weights(shape: Shape) -> Weights:
    """Of llama2.c's names; matrices (outputs, inputs)."""
    rng, layers, kv = np.random.default_rng(0), shape.layers, shape.kv_heads * shape.head
    sizes: dict[str, tuple[int, ...]] = {
        "tok": (shape.vocabulary, shape.dim), "att": (layers, shape.dim), "wq": (layers, shape.dim, shape.dim),
        "wk": (layers, kv, shape.dim), "wv": (layers, kv, shape.dim), "wo": (layers, shape.dim, shape.dim),
        "ffn": (layers, shape.dim), "w1": (layers, shape.hidden, shape.dim), "w2": (layers, shape.dim, shape.hidden),
        "w3": (layers, shape.hidden, shape.dim), "norm": (shape.dim,), "cls": (shape.vocabulary, shape.dim),
    }  # fmt: skip
    found = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    for name in found:
        found[name] = 1 + found[name] * np.float32(0.2) if name in ("att", "ffn", "norm") else found[name] / 3
    return found


def quantize(matrix: NDArray[np.float32], group: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Q8_0: groups of int8 with a float32 scale."""
    parts = matrix.reshape(-1, group)
    scales = np.abs(parts).max(axis=1) / np.float32(127)
    return np.round(parts / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def dequantized(weights: Weights, shape: Shape) -> Weights:
    found = dict(weights)
    for name in ("tok", "wq", "wk", "wv", "wo", "w1", "w2", "w3", "cls"):
        numbers, scales = quantize(weights[name], shape.group)
        found[name] = (numbers * scales[:, None]).astype(np.float32).reshape(weights[name].shape)
    return found


def write(path: Path, shape: Shape, weights: Weights, version: int) -> bytes:
    """The bytes of a file of `version`, which are written to `path` too."""
    signed = shape.vocabulary if shape.tied or version else -shape.vocabulary
    sizes = (shape.dim, shape.hidden, shape.layers, shape.heads, shape.kv_heads, signed, shape.sequence)
    header = struct.pack("<7i", *sizes)
    if version:
        header = struct.pack("<Ii", 0x616B3432, version) + header + struct.pack("<B", int(shape.tied))
        header += struct.pack("<i", shape.group) if version == 2 else b""
        header = header.ljust(256, b"\0")
    matrices = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    last = [] if shape.tied else ["cls"]
    if version == 0:
        order = ["tok", "att", "wq", "wk", "wv", "wo", "ffn", "w1", "w2", "w3", "norm"]
        data = b"".join(weights[name].tobytes() for name in order)
        data += np.full(shape.sequence * shape.head, np.nan, np.float32).tobytes()  # its tables are not read
        data += b"".join(weights[name].tobytes() for name in last)
    else:
        data = b"".join(weights[name].tobytes() for name in ("att", "ffn", "norm"))
        for name in ("tok", *matrices, *last):
            if version == 1:
                data += weights[name].tobytes()
                continue
            for matrix in weights[name] if name in matrices else [weights[name]]:
                numbers, scales = quantize(matrix, shape.group)
                data += numbers.tobytes() + scales.tobytes()
    path.write_bytes(header + data)
    return header + data


def llama(shape: Shape, weights: Weights) -> Any:
    """The same model in transformers, whose rotary pairs are halves of a head where llama2.c's are neighbours."""
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.dim, intermediate_size=shape.hidden, rms_norm_eps=1e-5,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.sequence, tie_word_embeddings=shape.tied,
    )  # fmt: skip

    def halves(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        pairs = matrix.reshape(-1, shape.head // 2, 2, shape.dim)
        return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(matrix.shape)

    state = {"model.embed_tokens.weight": weights["tok"], "model.norm.weight": weights["norm"]}
    state["lm_head.weight"] = weights["tok" if shape.tied else "cls"]
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        state |= {
            f"{name}.input_layernorm.weight": weights["att"][layer],
            f"{name}.post_attention_layernorm.weight": weights["ffn"][layer],
            f"{name}.self_attn.q_proj.weight": halves(weights["wq"][layer]),
            f"{name}.self_attn.k_proj.weight": halves(weights["wk"][layer]),
            f"{name}.self_attn.v_proj.weight": weights["wv"][layer],
            f"{name}.self_attn.o_proj.weight": weights["wo"][layer],
            f"{name}.mlp.gate_proj.weight": weights["w1"][layer],
            f"{name}.mlp.down_proj.weight": weights["w2"][layer],
            f"{name}.mlp.up_proj.weight": weights["w3"][layer],
        }
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return model


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_transformers(shape: Shape, version: int, tmp_path: Path) -> None:
    weights, path = random_weights(shape), tmp_path / "model.bin"
    write(path, shape, weights, version)
    imported = load_decoder(path)
    assert imported.config.tied_head == shape.tied and imported.config.rotary_interleaved
    assert {name: value.shape for name, value in imported.weights.items()} == weight_shapes(imported.config)
    assert (imported.family, imported.bos, imported.eos) == ("llama2.c", 1, (1,))
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, shape.vocabulary, (2, 64)))
    with torch.no_grad():
        wanted = llama(shape, dequantized(weights, shape) if version == 2 else weights)(ids).logits
        found = build_module(imported)(ids)
    assert float(wanted.std()) > 0.5
    assert float((found - wanted).abs().max()) <= 1e-4  # float32 sums in another order


def test_int8_weights_are_exact(tmp_path: Path) -> None:
    shape = SHAPES["grouped"]
    weights = random_weights(shape)
    write(tmp_path / "model.bin", shape, weights, 2)
    found, wanted = load_decoder(tmp_path / "model.bin").weights, dequantized(weights, shape)
    assert (found["embedding.token.weight"] == wanted["tok"]).all()
    for layer in range(shape.layers):
        assert (found[f"layers.{layer}.feed_forward.down.weight"] == wanted["w2"][layer]).all()
        assert (found[f"layers.{layer}.attention_norm.weight"] == weights["att"][layer]).all()


def refuse(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        load_decoder(path)
    assert reason in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_files_of_a_wrong_length(version: int, tmp_path: Path) -> None:
    data = write(tmp_path / "model.bin", Shape(), random_weights(Shape()), version)
    refuse(tmp_path / "model.bin", data[:-4], "the file is cut off")
    refuse(tmp_path / "model.bin", data + b"\0\0\0\0", "the file is too long")
    refuse(tmp_path / "model.bin", data[:27], "27 bytes are no llama2.c checkpoint")
    refuse(tmp_path / "model.bin", b"", "0 bytes are no llama2.c checkpoint")
    if version:
        refuse(tmp_path / "model.bin", data[:200], "200 bytes, shorter than its header")


@pytest.mark.parametrize(
    ("version", "offset", "value", "reason"),
    [
        (0, 0, 0, "dim = 0 in its header"),
        (0, 0, -18, "dim = -18 in its header"),
        (0, 8, 1 << 30, "n_layers = 1073741824 in its header"),
        (0, 8, 1 << 20, "1048576 layers; 256 are the most"),
        (0, 8, 3, "the file is cut off"),
        (0, 12, 4, "dim = 18 with 4 heads gives no even head size"),
        (0, 12, 18, "dim = 18 with 18 heads gives no even head size"),
        (0, 16, 2, "kv_heads[0] = 2 does not divide heads[0] = 3"),
        (0, 20, -48, "the file is cut off"),
        (0, 20, 0, "vocab_size = 0 in its header"),
        (0, 20, -(1 << 31), "vocab_size = 2147483648 in its header"),
        (0, 24, 1 << 20, "the file is cut off"),
        (1, 4, 3, "llama2.c version 3 is not covered"),
        (1, 4, 2, "group_size = 0 in its header"),
        (1, 28, -48, "vocab_size = -48 in its header"),
        (2, 37, 7, "does not divide into groups of 7"),
        (2, 37, 3, "the file is cut off"),
        (2, 37, -9, "group_size = -9 in its header"),
    ],
)
def test_a_header_that_lies(version: int, offset: int, value: int, reason: str, tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "model.bin", Shape(), random_weights(Shape()), version))
    struct.pack_into("<i", data, offset, value)
    refuse(tmp_path / "model.bin", bytes(data), reason)


def test_bad_numbers(tmp_path: Path) -> None:
    shape, path = Shape(), tmp_path / "model.bin"
    weights = random_weights(shape)
    data = bytearray(write(path, shape, weights, 1))
    struct.pack_into("<f", data, 256, float("inf"))
    refuse(path, bytes(data), "'layers.0.attention_norm.weight' holds 1 NaN or infinite values")
    data = bytearray(write(path, shape, weights, 2))
    first = 256 + 4 * (2 * shape.layers + 1) * shape.dim + shape.vocabulary * shape.dim
    struct.pack_into("<f", data, first, float("nan"))
    refuse(path, bytes(data), "'embedding.token.weight (its scales)' holds 1 NaN or infinite values")
    struct.pack_into("<f", data, first, -1.0)
    refuse(path, bytes(data), "'embedding.token.weight' has scales below 0")
    data[36] = 2
    refuse(path, bytes(data), "its mark of a shared classifier is 2")
