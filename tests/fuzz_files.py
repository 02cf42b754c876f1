"""What tests/fuzz.py reads: good files of every kind that comes from outside, and what may be done to them."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper

from onnx_forms import FORMS
from picoformer.backends.c import draft_c
from picoformer.config import load_pipeline
from picoformer.frontends.onnx import load_onnx
from picoformer.frontends.onnx_fix import fix_inputs
from picoformer.frontends.onnx_nodes import CONVERTERS
from picoformer.ops.graph_file import load_graph, save_graph
from picoformer.passes import optimize
from picoformer.targets import load_target, resource_root

Read = Callable[[], object]
ROOT = resource_root("targets").parent
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 1 << 16, 1 << 26, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1,
           -(1 << 63))  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, 1e-38, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "y", "w", "none", "NOTSET", "a\nb", "\x1b[31m", "../x", "/etc/passwd", "é", "a" * 5000, "...,ij->i",
         "%s")  # fmt: skip
PLACES = (
    "../outside/secret.bin", "/etc/hostname", "..", ".", "", "case.onnx", "x/../../outside/secret.bin", "link.bin",
    "missing.bin", "weights.bin", "C:\\x", "a\0b", "//etc/hostname", "weights.bin/..",
)  # fmt: skip
BOMBS = {
    "Add": 2, "BitShift": 2, "CenterCropPad": 2, "Col2Im": 3, "Compress": 2, "Concat": 2, "Constant": 0,
    "ConstantOfShape": 1, "Conv": 2, "ConvTranspose": 2, "CumSum": 2, "DFT": 1, "DepthToSpace": 1, "Einsum": 2,
    "Expand": 2, "EyeLike": 1, "Gather": 2, "GridSample": 2, "HannWindow": 1, "Identity": 1, "If": 1, "Loop": 2,
    "MatMul": 2, "MaxPool": 1, "MelWeightMatrix": 5, "Mod": 2, "NonZero": 1, "OneHot": 3, "Pad": 2, "Pow": 2,
    "RandomNormal": 0, "Range": 3, "Reshape": 2, "Resize": 3, "Scan": 1, "SequenceConstruct": 2, "Slice": 4,
    "SpaceToDepth": 1, "StringSplit": 1, "Tile": 2, "TopK": 2, "Trilu": 2, "Unique": 1, "Upsample": 2, "Where": 3,
}  # fmt: skip
"""Operators whose results may be far larger than their operands, with their number of operands."""


@cache
def _models() -> tuple[bytes, ...]:
    """Small models of every operator that files are read with."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return tuple(form.save(Path(folder) / "m.onnx").read_bytes() for form in FORMS.values())


def make(generator: random.Random, folder: Path) -> Read:
    """Write a mutated file into `folder`; what reads it as a command would."""
    kind = generator.choices((_onnx, _pipeline, _target, _graph), (7, 1, 1, 1))[0]
    return kind(generator, folder)


def flipped(generator: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them changed, cut off, doubled or moved."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        at = generator.randrange(len(changed)) if changed else 0
        what = generator.randrange(6)
        if what == 0 and changed:
            changed[at] ^= 1 << generator.randrange(8)
        elif what == 1 and changed:
            changed[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22))
        elif what == 2 and generator.random() < 0.3:
            del changed[at:]
        elif what == 3:
            del changed[at : at + generator.randrange(1, 9)]
        elif what == 4:
            changed[at:at] = generator.randbytes(generator.randrange(1, 9))
        elif what == 5:
            changed[at:at] = changed[at : at + generator.randrange(1, 64)]
    return bytes(changed)


def _onnx(generator: random.Random, folder: Path) -> Read:
    data = generator.choice(_models())
    if generator.random() < 0.75:
        model = onnx.ModelProto.FromString(data)
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            # What it would change may have been taken away before, or point elsewhere.
            with contextlib.suppress(IndexError, ValueError, KeyError, onnx.checker.ValidationError):
                generator.choice(MUTATIONS)(generator, model)
        data = model.SerializeToString()
    if generator.random() < 0.3:
        data = flipped(generator, data)
    path = folder / "case.onnx"
    path.write_bytes(data)
    (folder / "weights.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("../outside/secret.bin")
    shapes = {"x": (generator.choice(NUMBERS[:8]), 4, 8)} if generator.random() < 0.1 else None
    if generator.random() < 0.1:
        numbers = [generator.choice(FLOATS[:6]) for _ in range(generator.choice((1, 1, 4)))]
        return lambda: fix_inputs(path, {generator.choice(("x", "q", "m")): numbers}, shapes or {})

    def read() -> object:
        return draft_c(optimize(load_onnx(path, shapes)), ["generic"], "model", tile="none")

    return read


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*names, *(t.name for t in graph.initializer), *(v.name for v in graph.input), "", "nowhere"]


def _rename(generator: random.Random, model: onnx.ModelProto) -> None:
    """A name for another: cycles, values that are made twice or never."""
    node = generator.choice(model.graph.node)
    names = generator.choice((node.input, node.output))
    if names:
        names[generator.randrange(len(names))] = generator.choice(_names(model))


def _operator(generator: random.Random, model: onnx.ModelProto) -> None:
    node = generator.choice(model.graph.node)
    full = generator.choice([*CONVERTERS, *BOMBS])
    node.domain, _, node.op_type = full.rpartition(".")


def _arity(generator: random.Random, model: onnx.ModelProto) -> None:
    node = generator.choice(model.graph.node)
    names = generator.choice((node.input, node.output))
    if generator.random() < 0.5 and len(names):
        del names[-1]
    else:
        names.append(generator.choice(_names(model)))


def _attribute(generator: random.Random, model: onnx.ModelProto) -> None:
    """An absurd value for an attribute, or one that no one asked for."""
    node = generator.choice(model.graph.node)
    known = [attribute.name for attribute in node.attribute]
    name = generator.choice([*known, "axis", "axes", "perm", "num_heads", "to", "epsilon", "equation", "shape", "value",
                             "keepdims", "scale", "split", "blocksize", "q_num_heads", "kv_num_heads"])  # fmt: skip
    for index, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[index]
            break
    count = generator.choice((0, 1, 2, 4, 9))
    value: Any = generator.choice((
        generator.choice(NUMBERS), generator.choice(FLOATS), generator.choice(TEXTS),
        [generator.choice(NUMBERS) for _ in range(count)], [generator.choice(FLOATS) for _ in range(count)],
        onnx.numpy_helper.from_array(np.zeros(generator.choice(((), (0,), (3,), (2, 2)))), "t"), model.graph,
    ))  # fmt: skip
    try:
        node.attribute.append(onnx.helper.make_attribute(name, value))
    except ValueError:  # an empty list has no type
        node.attribute.add(name=name)


def _dimension(generator: random.Random, model: onnx.ModelProto) -> None:
    values = [*model.graph.input, *model.graph.output]
    shape = generator.choice(values).type.tensor_type.shape
    if shape.dim and generator.random() < 0.8:
        dimension = generator.choice(shape.dim)
        if generator.random() < 0.8:
            dimension.dim_value = generator.choice(NUMBERS)
        else:
            dimension.dim_param = generator.choice(TEXTS[1:])
    elif generator.random() < 0.5:
        shape.dim.add().dim_value = generator.choice(NUMBERS)
    else:
        shape.ClearField("dim")


def _element_type(generator: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer and generator.random() < 0.5:
        generator.choice(model.graph.initializer).data_type = generator.randrange(0, 27)
    else:
        generator.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = generator.randrange(27)


def _initializer(generator: random.Random, model: onnx.ModelProto) -> None:
    """Sizes, data and numbers of a stored tensor that do not fit, or are none."""
    if not model.graph.initializer:
        return
    tensor = generator.choice(model.graph.initializer)
    what = generator.randrange(4)
    if what == 0:
        tensor.dims.append(generator.choice(NUMBERS))
    elif what == 1 and tensor.dims:
        tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(NUMBERS)
    elif what == 2:
        tensor.raw_data = tensor.raw_data[: generator.randrange(len(tensor.raw_data) + 1)]
    else:
        array = np.array(onnx.numpy_helper.to_array(tensor))
        if array.size:
            place = generator.randrange(array.size)
            array.reshape(-1)[place] = generator.choice(FLOATS if array.dtype.kind == "f" else (0, 1, -1, 9, 127))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _external(generator: random.Random, model: onnx.ModelProto) -> None:
    """Data that lies elsewhere, or is said to."""
    if not model.graph.initializer:
        return
    tensor = generator.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", generator.choice(PLACES)),
        ("offset", str(generator.choice(NUMBERS))), ("length", str(generator.choice(NUMBERS))),
    ):  # fmt: skip
        if generator.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _bomb(generator: random.Random, model: onnx.ModelProto) -> None:
    """Constant arithmetic in front of the model that may grow without bound."""
    kind, count = generator.choice(list(BOMBS.items()))
    names = []
    for index in range(count):
        name = f"bomb_{index}_{len(model.graph.initializer)}"
        numbers = [generator.choice(NUMBERS) for _ in range(generator.choice((1, 1, 2, 4, 8)))]
        array = np.array(numbers[0] if generator.random() < 0.3 else numbers, np.int64)
        array = array.astype(np.float32) if generator.random() < 0.3 else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        names.append(name)
    node = onnx.helper.make_node(kind, names, [f"bombed_{len(model.graph.initializer)}"])
    if kind == "ConstantOfShape":
        node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.ones(1, np.float32))))
    if kind in ("Constant", "RandomNormal", "Trilu", "Einsum", "HannWindow"):
        name = {"Constant": "value_ints", "Einsum": "equation"}.get(kind, "shape")
        node.attribute.append(onnx.helper.make_attribute(name, "i,j->ij" if kind == "Einsum" else [1 << 40, 1 << 20]))
    reader = generator.choice(model.graph.node)
    if reader.input and generator.random() < 0.7:
        reader.input[generator.randrange(len(reader.input))] = node.output[0]
    model.graph.node.insert(0, node)
    if generator.random() < 0.3:  # grown again, and again
        for _ in range(generator.choice((1, 8, 40))):
            last = model.graph.node[0].output[0] + "_again"
            again = onnx.helper.make_node("Concat", [model.graph.node[0].output[0]] * 8, [last], axis=0)
            model.graph.node.insert(0, again)
            model.graph.node[0].input[:] = [model.graph.node[1].output[0]] * 8


def _function(generator: random.Random, model: onnx.ModelProto) -> None:
    """A function that calls others, or itself."""
    for index in range(generator.choice((1, 3))):
        callee = f"f{generator.randrange(3)}"
        nodes = [onnx.helper.make_node(callee, ["a"], [f"b{i}"], domain="own") for i in range(generator.choice((1, 4)))]
        model.functions.append(
            onnx.helper.make_function("own", f"f{index}", ["a"], ["b0"], nodes, [onnx.helper.make_opsetid("", 20)])
        )
    node = generator.choice(model.graph.node)
    node.op_type, node.domain = "f0", "own"
    del node.input[1:], node.output[1:]
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))


def _version(generator: random.Random, model: onnx.ModelProto) -> None:
    if generator.random() < 0.7:
        generator.choice(model.opset_import).version = generator.choice((*NUMBERS, 7, 10, 11, 13, 18, 24, 25, 28))
    else:
        model.ir_version = generator.choice(NUMBERS)


def _order(generator: random.Random, model: onnx.ModelProto) -> None:
    """Nodes doubled, left out, in another order."""
    nodes = list(model.graph.node)
    what = generator.randrange(3)
    if what == 0:
        nodes.append(generator.choice(nodes))
    elif what == 1:
        nodes.pop(generator.randrange(len(nodes)))
    else:
        generator.shuffle(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _text(generator: random.Random, model: onnx.ModelProto) -> None:
    node = generator.choice(model.graph.node)
    what = generator.choice(("name", "op_type", "domain", "value"))
    if what == "value":
        generator.choice([*model.graph.input, *model.graph.output]).name = generator.choice(TEXTS)
    else:
        setattr(node, what, generator.choice(TEXTS))


MUTATIONS = (
    _arity, _attribute, _attribute, _bomb, _dimension, _element_type, _external, _function, _initializer, _operator,
    _order, _rename, _text, _version,
)  # fmt: skip

WORDS = (
    "true", "false", "-1", "0", "1e999", "nan", "inf", "99999999999999999999999", '""', '"x"', "[]", "[1, 2]", "{}",
    '"../../outside/written"', '"/etc/passwd"', "1979-05-27", '"\\u0000"', '"\\u001b[31m"', "[[[[]]]]",
    '"' + "a" * 3000 + '"',
)  # fmt: skip
LINES = (
    "[x]", "[[memory]]", "[toolchain]", "[model]", "[quantize]", "x = 1", "a.b = 2", "name" + " = [" * 900, "\0", "'''",
)  # fmt: skip
TOKENS = ("0", "1", "2", "4", "true", "null", '"Linear"', '"float32"', '"y"', '"x"')


def _mutated_text(generator: random.Random, text: str) -> bytes:
    """Lines of a TOML file with other values, twice, or not at all; and bytes flipped."""
    lines = text.splitlines()
    for _ in range(generator.choice((1, 1, 2, 4))):
        at = generator.randrange(len(lines))
        what = generator.randrange(5)
        key, equals, _ = lines[at].partition("=")
        if what <= 1 and equals:
            lines[at] = f"{key}= {generator.choice(WORDS)}"
        elif what == 2:
            lines.insert(at, generator.choice(lines))
        elif what == 3:
            lines.pop(at)
        else:
            lines.insert(at, generator.choice(LINES))
        lines = lines or ["x = 1"]
    data = "\n".join(lines).encode()
    return flipped(generator, data) if generator.random() < 0.4 else data


def _pipeline(generator: random.Random, folder: Path) -> Read:
    sources = sorted((ROOT / "examples").glob("*/*.toml"))
    path = folder / "pipeline.toml"
    path.write_bytes(_mutated_text(generator, generator.choice(sources).read_text()))
    return lambda: load_pipeline(path)


def _target(generator: random.Random, folder: Path) -> Read:
    sources = sorted((ROOT / "targets").glob("*.toml"))
    path = folder / "board.toml"
    path.write_bytes(_mutated_text(generator, generator.choice(sources).read_text()))
    return lambda: load_target(path)


@cache
def _saved_graph() -> Path:
    import atexit
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="picoformer-fuzz-graph-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = FORMS["attention: packed weights, causal, scaled"].save(folder / "m.onnx")
    save_graph(optimize(load_onnx(path)), folder / "graph")
    return folder / "graph"


def _graph(generator: random.Random, folder: Path) -> Read:
    saved = _saved_graph()
    for source in saved.iterdir():
        data = source.read_bytes()
        if generator.random() < 0.6:
            if source.suffix == ".json" and generator.random() < 0.6:
                text = data.decode()
                words = [word for word in TOKENS if word in text]
                data = text.replace(
                    generator.choice(words), generator.choice(WORDS), generator.choice((1, -1))
                ).encode()
            else:
                data = flipped(generator, data)
        (folder / source.name).write_bytes(data)
    return lambda: draft_c(load_graph(folder), ["generic"], "model", tile="none")
