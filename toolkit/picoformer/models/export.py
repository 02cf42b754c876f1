"""A Transformer to an ONNX file: static shapes, and names that say where in the model a value is made."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from picoformer.errors import ConfigError, DataError
from picoformer.files import atomic_write_bytes
from picoformer.models.transformer import Transformer

OPSETS = range(18, 24)
VALID_LENGTH, SEGMENTS = "valid_length", "segments"

# What a constant is to the operator that reads it: (operator, input position) -> last part of its name.
CONSTANT_ROLES = {
    ("MatMul", 1): "weight",
    ("Gemm", 1): "weight",
    ("Mul", 1): "scale",
    ("Reshape", 1): "shape",
    ("Unsqueeze", 1): "axes",
    ("ReduceMean", 1): "axes",
    ("ReduceSum", 1): "axes",
}


def export_onnx(
    model: Transformer,
    path: Path,
    opset: int = 20,
    example: Tensor | None = None,
    input_name: str = "x",
    output_name: str = "logits",
    valid_length: bool = False,
) -> None:
    """Write `model` to `path` (atomically) as ONNX with batch 1 and static shapes; weights stay inside the
    file.

    `example` (1, *input) fixes the shape; by default the configuration's longest input. With `valid_length`
    the file has a second input of that name, int64, shape (1,), and of a model that knows segments an input `segments`
    like the ids. The same model gives the same bytes. Raises
    ConfigError for an opset or a name that cannot be used and for a mixture of experts, DataError for an example
    that does not fit.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset = {opset}; choose one from {OPSETS.start} to {OPSETS.stop - 1}")
    if model.config.experts:
        raise ConfigError(
            f"experts = {model.config.experts}: which of them run depends on the input, which no static file says; "
            "export a dense model"
        )
    more = [*([VALID_LENGTH] if valid_length else []), *([SEGMENTS] if model.config.segments else [])]
    names = [input_name, *more, output_name]
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"input and output names {names}; give each its own, non-empty name")
    if example is None:
        shape = (1, *model.config.input_shape)
        example = torch.zeros(shape, dtype=torch.int64 if model.config.vocab_size else torch.float32)
    if example.shape[0] != 1:
        raise DataError(f"example has shape {tuple(example.shape)}; give one sample, batch 1")
    model.embedding.check(example)
    arguments: tuple[Tensor | None, ...] = (example,)
    if valid_length:
        rows = model.config.sequence if model.config.image else example.shape[1]
        arguments += (torch.tensor([rows]),)
    if model.config.segments:
        arguments = (*arguments, *(() if valid_length else (None,)), torch.zeros_like(example))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                model,
                arguments,
                dynamo=True,
                opset_version=opset,
                input_names=names[:-1],
                output_names=names[-1:],
                verbose=False,
                external_data=False,
            )
    finally:
        model.train(training)
    assert program is not None  # with dynamo=True a program is always returned
    proto = program.model_proto
    _name_values(proto.graph, fixed=set(names))
    _strip_metadata(proto)
    atomic_write_bytes(Path(path), proto.SerializeToString(deterministic=True))


def _name_values(graph: Any, fixed: set[str]) -> None:
    """Rename `val_7` and `linear_3` to module path and operator: `layers.0.attention.query.matmul`."""
    initializers = {tensor.name for tensor in graph.initializer}
    kept = {tensor.name for tensor in graph.initializer if "." in tensor.name}
    taken = fixed | kept
    renamed: dict[str, str] = {}

    def rename(old: str, wanted: str) -> None:
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        renamed[old] = name

    for node in graph.node:
        scope = _scope(node)
        for position, name in enumerate(node.input):
            if name in initializers and name not in renamed and name not in kept:
                rename(name, f"{scope}{CONSTANT_ROLES.get((node.op_type, position), 'constant')}")
        for name in node.output:
            if name not in fixed:
                rename(name, f"{scope}{node.op_type.lower()}")
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.get(name, name)
        node.name = node.output[0]
    for value in (*graph.initializer, *graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _scope(node: Any) -> str:
    """The path of the module whose forward made the node, with a closing dot; empty for the model itself."""
    for item in node.metadata_props:
        if item.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(item.value)
            modules = [scope for scope in scopes[:-1] if scope]
            return f"{modules[-1]}." if modules else ""
    return ""


def _strip_metadata(proto: Any) -> None:
    """Drop stack traces and other notes: they name local folders, so that equal models would differ."""
    graph = proto.graph
    for item in (
        proto,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        del item.metadata_props[:]
        item.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's own progress lines, warnings and log records; errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
