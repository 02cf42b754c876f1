"""Tiny models that bundles are made of: a text classifier and an embedder of a few nodes; numpy is their oracle."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from command_line import succeeds

WORDS = ("good", "bad", "day", "movie", "what", "a", "the", "was", "very", "not")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
WIDTH, CLASSES = 6, ("fine", "poor", "odd")
DYNAMIC: tuple[int | str, int | str] = ("batch", "length")


def write_tokenizer(path: Path, longest: int = 0) -> Path:
    """A tokenizer.json of whole words, [CLS] … [SEP] around a text, and a truncation where `longest` is given."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = {name: at for at, name in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", names["[CLS]"]), ("[SEP]", names["[SEP]"])]
    )
    if longest:
        tokenizer.enable_truncation(longest)
    tokenizer.save(str(path))
    return path


def ids_of(text: str) -> list[int]:
    """What the tokenizer gives, by hand."""
    words = [TOKENS.index(word) if word in TOKENS else 1 for word in text.split()]
    return [2, *words, 3]


@dataclass(frozen=True)
class Weights:
    table: np.ndarray
    head: np.ndarray
    bias: np.ndarray


@functools.cache
def weights() -> Weights:
    random = np.random.default_rng(5)
    numbers = [random.normal(size=shape).astype(np.float32) for shape in ((len(TOKENS), WIDTH), (WIDTH, len(CLASSES)))]
    return Weights(numbers[0], numbers[1] * 3, np.array([0.1, -0.2, 0.3], np.float32))


def scores_of(text: str, longest: int = 512) -> np.ndarray:
    """Logits of the classifier: the head on the mean of the tokens' rows."""
    ids = ids_of(text)
    ids = ids if len(ids) <= longest else [*ids[: longest - 1], 3]
    w = weights()
    return w.table[ids].mean(axis=0) @ w.head + w.bias


def vector_of(text: str) -> np.ndarray:
    """What the embedder's rows have for a mean, of length 1."""
    vector = np.tanh(weights().table[ids_of(text)]).mean(axis=0)
    return vector / np.linalg.norm(vector)


def write_classifier(path: Path, shape: Sequence[int | str] = DYNAMIC) -> Path:
    """input_ids, attention_mask → logits (batch, classes); padding takes no part."""
    w = weights()
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["float_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    constants = {"table": w.table, "head": w.head, "bias": w.bias, "last": np.array([-1]), "middle": np.array([1])}
    ports = dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, shape))
    return _write(path, nodes, constants, ports, {"logits": (TensorProto.FLOAT, (shape[0], len(CLASSES)))})


def write_embedder(path: Path, shape: Sequence[int | str] = DYNAMIC, masked: bool = True) -> Path:
    """input_ids (and attention_mask, token_type_ids) → last_hidden_state (batch, length, width)."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Tanh", ["rows"], ["bent" if masked else "last_hidden_state"]),
    ]
    names = ["input_ids"]
    if masked:
        names += ["attention_mask", "token_type_ids"]
        nodes += [
            helper.make_node("Mul", ["attention_mask", "token_type_ids"], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["zero", "last"], ["column"]),
            helper.make_node("Add", ["bent", "column"], ["last_hidden_state"]),
        ]
    constants = {"table": weights().table, "last": np.array([-1])}
    ports = dict.fromkeys(names, (TensorProto.INT64, shape))
    return _write(path, nodes, constants, ports, {"last_hidden_state": (TensorProto.FLOAT, (*shape, WIDTH))})


def _write(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], inputs: Any, outputs: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, *port) for name, port in inputs.items()],
        [helper.make_tensor_value_info(name, *port) for name, port in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True)
class Bundles:
    """Bundles of the tiny models, each packed once by the command."""

    folder: Path

    def text_classifier(self) -> Path:
        """Three classes with names, any length of text."""
        return self._packed(
            "classifier", write_classifier, "--classes", ",".join(CLASSES), "--tokenizer", self.tokenizer()
        )

    def embedder(self) -> Path:
        """Mean of rows, of length 1."""
        return self._packed("embedder", write_embedder, "--tokenizer", self.tokenizer())

    def tokenizer(self) -> Path:
        path = self.folder / "tokenizer.json"
        return path if path.is_file() else write_tokenizer(path)

    def _packed(self, name: str, write: Any, *more: str | Path) -> Path:
        out = self.folder / name
        if not out.is_dir():
            succeeds("pi", "package", write(self.folder / f"{name}.onnx"), "-o", out, *more)
        return out


@functools.cache
def open_bundles(folder: Path) -> Bundles:
    """Where they lie."""
    return Bundles(folder)


def description(bundle: Path) -> Any:
    """bundle.json."""
    return json.loads((bundle / "bundle.json").read_text())
