"""Checkpoints of llama2.c (https://github.com/karpathy/llama2.c): `.bin` of version 0 and 1 in float32, 2 in int8.

Version 0 begins with seven int32, without a name for itself: d_model, feed-forward width, layers, heads, heads of keys,
vocabulary, longest text; a negative vocabulary says that the head is a matrix of its own. Versions 1 and 2 begin with
"ak42" read as a little-endian number and a version, and take 256 bytes. In version 2 matrices are groups of int8 with a
float32 scale each.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers.folder import file_digest, find_tokenizer
from picoformer.models.importers.huggingface import check_weights
from picoformer.models.importers.imported import ImportedModel, Weights, check_finite, language_model

MAGIC = 0x616B3432
HEADER_BYTES = 256
VERSIONS = {0: "version 0, float32", 1: "version 1, float32", 2: "version 2, int8"}
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
BOUNDARY = 1
"""The token between two texts: the models were trained to write it, and llama2.c stops there."""


@dataclass(frozen=True)
class _Header:
    """What a file says of itself."""

    version: int
    sizes: dict[str, int]
    tied: bool
    group: int  # numbers that share a scale; 0 in float files
    end: int  # its length in bytes


def load_llama2c(path: Path) -> ImportedModel:
    """The model of a `.bin`. Raises ModelError for a file that is cut off, too long or lies about its sizes."""
    header = _read_header(path)
    sizes = header.sizes
    if sizes["dim"] % sizes["n_heads"] or sizes["dim"] // sizes["n_heads"] % 2:
        raise ModelError(
            f"{path}: dim = {sizes['dim']} with {sizes['n_heads']} heads gives no even head size; "
            "it is no llama2.c checkpoint, or damaged"
        )
    config = language_model(
        path,
        layers=sizes["n_layers"],
        d_model=sizes["dim"],
        heads=sizes["n_heads"],
        kv_heads=sizes["n_kv_heads"],
        head_dim=sizes["dim"] // sizes["n_heads"],
        d_ff=sizes["hidden_dim"],
        vocab_size=sizes["vocab_size"],
        sequence=sizes["max_seq_len"],
        norm="rms",
        norm_epsilon=1e-5,
        positions="rotary",
        rotary_interleaved=True,
        activation="silu",
        gated=True,
        attention_bias=False,
        out_bias=False,
        feed_forward_bias=False,
        tied_head=header.tied,
    )
    parts = list(_parts(config, header.version))
    expected = header.end
    for part in parts:
        count = math.prod(part.shape)
        if part.quantized and count % header.group:
            raise ModelError(f"{path}: '{part.name}' of {count} numbers does not divide into groups of {header.group}")
        expected += count + 4 * (count // header.group) if part.quantized else 4 * count
    size = path.stat().st_size
    if size != expected:
        raise ModelError(
            f"{path}: {size} bytes, but its header tells of {expected} ({VERSIONS[header.version]}); the file is "
            f"{'cut off' if size < expected else 'too long'} or its header is damaged, get it again"
        )
    weights = _read_parts(path, header.group, header.end, parts)
    check_weights(path, config, weights)
    shown = f"llama2.c from {path.name}: {config.layers} layers of {config.d_model}, {VERSIONS[header.version]}"
    eos = tuple(token for token in (BOUNDARY,) if token < config.vocab_size)
    bos = eos[0] if eos else None
    return ImportedModel(config, weights, "llama2.c", shown, file_digest(path), find_tokenizer(path.parent), bos, eos)


@dataclass(frozen=True)
class _Part:
    """One tensor of the file; without a name it is left out."""

    name: str
    shape: tuple[int, ...]
    quantized: bool = False


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as stream:
            text = stream.read(HEADER_BYTES)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give a checkpoint") from error
    if len(text) < 28:
        raise ModelError(f"{path}: {len(text)} bytes are no llama2.c checkpoint; get it again")
    version, group, end = 0, 0, 28
    if struct.unpack_from("<I", text)[0] == MAGIC:
        version = struct.unpack_from("<i", text, 4)[0]
        if version not in (1, 2):
            raise ModelError(f"{path}: llama2.c version {version} is not covered; export it as version 0, 1 or 2")
        if len(text) < HEADER_BYTES:
            raise ModelError(f"{path}: {len(text)} bytes, shorter than its header; get it again")
        end = HEADER_BYTES
    values = struct.unpack_from("<7i", text, 8 if version else 0)
    sizes = dict(zip(FIELDS, values, strict=True))
    tied = sizes["vocab_size"] > 0
    if version == 0:
        sizes["vocab_size"] = abs(sizes["vocab_size"])
    else:
        if text[36] > 1:
            raise ModelError(f"{path}: its mark of a shared classifier is {text[36]}, not 0 or 1; get it again")
        tied = bool(text[36])
    if version == 2:
        group = struct.unpack_from("<i", text, 37)[0]
    for name, value in (*sizes.items(), *([("group_size", group)] if version == 2 else [])):
        if not 1 <= value <= 1 << 20:
            raise ModelError(f"{path}: {name} = {value} in its header; it is no llama2.c checkpoint, or damaged")
    return _Header(version, sizes, tied, group, end)


def _parts(config: TransformerConfig, version: int) -> Iterator[_Part]:
    """Everything behind the header, in order."""
    layers, d, small = range(config.layers), config.d_model, version == 2

    def matrices(*names: str) -> Iterator[_Part]:
        for name in names:
            for layer in layers:  # each is quantized on its own
                inputs, outputs = config.projection_shape(layer, name.rpartition(".")[2])
                yield _Part(f"layers.{layer}.{name}.weight", (outputs, inputs), small)

    attention = ("attention.query", "attention.key", "attention.value", "attention.out")
    feed_forward = ("feed_forward.gate", "feed_forward.down", "feed_forward.up")
    first, second = (
        [_Part(f"layers.{layer}.{name}_norm.weight", (d,)) for layer in layers]
        for name in ("attention", "feed_forward")
    )
    last, table = _Part("final_norm.weight", (d,)), _Part("embedding.token.weight", (config.vocab_size, d), small)
    if version == 0:
        yield from (table, *first, *matrices(*attention), *second, *matrices(*feed_forward), last)
        # Cosine and sine of the positions, which follow from the sizes.
        yield _Part("", (2, config.sequence, config.head_dim // 2))
    else:
        yield from (*first, *second, last, table, *matrices(*attention), *matrices(*feed_forward))
    if not config.tied_head:
        yield _Part("head.weight", (config.vocab_size, d), small)


def _read_parts(path: Path, group: int, end: int, parts: list[_Part]) -> Weights:
    weights = Weights()
    with path.open("rb") as stream:
        stream.seek(end)
        for part in parts:
            count = math.prod(part.shape)
            if not part.name:
                stream.seek(4 * count, os.SEEK_CUR)
                continue
            if part.quantized:
                numbers = np.fromfile(stream, np.int8, count).reshape(-1, group)
                scales = np.fromfile(stream, "<f4", count // group)
                check_finite(path, f"{part.name} (its scales)", scales)
                if (scales < 0).any():
                    raise ModelError(
                        f"{path}: '{part.name}' has scales below 0; export it with a llama2.c that writes the scales "
                        "of each matrix behind it"
                    )
                values = numbers.astype(np.float32) * scales[:, None].astype(np.float32)
            else:
                values = np.fromfile(stream, "<f4", count).astype(np.float32, copy=False)
            weights[part.name] = values.reshape(part.shape)
            check_finite(path, part.name, values)
    return weights
