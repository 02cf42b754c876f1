"""The samples that a bundle is checked by: given ones, texts, or made-up numbers; with the source model's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.bundling.options import BundleOptions
from picoformer.bundling.sources import Source
from picoformer.datasets import ARRAYS
from picoformer.errors import DataError
from picoformer.ir import DType
from picoformer.ops import Embedding
from picoformer.raspberry_pi.onnx_session import Array, OnnxSession, Port
from picoformer.raspberry_pi.texts import TextEncoder
from picoformer.samples import load_samples, split_labels

COUNT = 4
CANDIDATES = 24
"""Of which those are kept whose answers are clearest."""
TEXTS = (
    "Once upon a time there was a little board.",
    "How warm is it outside, and will it rain tomorrow?",
    "Nothing works; I want my money back!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
)


@dataclass(frozen=True)
class Sample:
    """Inputs as the ONNX file takes them, the answers to them, and the text that they are of, if they are of one."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    text: str | None = None


def parity_samples(
    source: Source, session: OnnxSession, encoder: TextEncoder | None, options: BundleOptions, scores: str | None
) -> list[Sample]:
    """Up to COUNT samples. `scores`: the output whose clearest answers are chosen, so that no label hangs on a hair.

    Raises DataError for given samples that do not fit.
    """
    given: list[tuple[dict[str, Array], str | None]]
    place = options.inputs or (options.calibration if options.calibration and encoder is None else None)
    if place is not None:
        given = [(inputs, None) for inputs in _of_file(place, session)]
    elif encoder is not None:
        given = [(encoder.encode(text).inputs, text) for text in TEXTS]
    else:
        given = [(_made_up(source, session.inputs, seed), None) for seed in range(CANDIDATES)]
    found = [Sample(inputs, source.answers(inputs), text) for inputs, text in given]
    if scores is not None and len(found) > COUNT and scores in found[0].outputs:
        found = sorted(found, key=lambda sample: -_margin(sample.outputs[scores]))
    return found[:COUNT]


def _margin(scores: Array) -> float:
    row = np.sort(scores.reshape(-1).astype(np.float64))
    return float(row[-1] - row[-2]) if row.size > 1 else 0.0


def _of_file(path: object, session: OnnxSession) -> list[dict[str, Array]]:
    from pathlib import Path

    place = Path(str(path))
    arrays, _ = split_labels(load_samples(place, "test", CANDIDATES), place)
    counts = {len(value) if value.ndim else 0 for value in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"{place}: arrays differ in their number of samples; give samples along axis 0")
    names = [port.name for port in session.inputs]
    unknown = next((name for name in arrays if name not in names), None)
    if unknown is not None and set(arrays) != set(ARRAYS):
        raise DataError(f"{place}: array '{unknown}' is no input of the model; its inputs are {', '.join(names)}")
    samples = [{name: value[at] for name, value in arrays.items()} for at in range(min(CANDIDATES, counts.pop()))]
    full = {port.name: port for port in session.inputs if port.name == "valid_length" and port.name not in arrays}
    try:
        return [session.fit({**sample, **_full_length(full, sample)}) for sample in samples]
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


def _full_length(ports: Mapping[str, Port], sample: Mapping[str, Array]) -> dict[str, Array]:
    rows = next(iter(sample.values())).shape
    return {name: np.full([1] * len(port.shape), rows[0] if rows else 1) for name, port in ports.items()}


def _made_up(source: Source, inputs: Sequence[Port], seed: int) -> dict[str, Array]:
    """One sample of numbers that say nothing: normal ones, and token ids that the model has."""
    random = np.random.default_rng(seed)
    return {port.name: _numbers(source, port, random) for port in inputs}


def _numbers(source: Source, port: Port, random: np.random.Generator) -> Array:
    shape = [axis or (1 if at == 0 else 8) for at, axis in enumerate(port.shape)]
    if port.dtype.startswith("float"):
        return random.normal(size=shape).astype(port.dtype)
    if port.dtype == "bool":
        return np.ones(shape, np.bool_)
    if "mask" in port.name:
        return np.ones(shape, port.dtype)
    if port.name == "valid_length":
        return np.full(shape, max(1, _longest(source) // 2), port.dtype)
    return random.integers(0, _rows(source, port.name), shape).astype(port.dtype)


def _rows(source: Source, name: str) -> int:
    """How many rows the table has that an input chooses from; 2 where nobody knows."""
    graph = source.graph
    if graph is None or name not in graph.inputs or graph.types[name].dtype is not DType.INT32:
        return 2
    tables = [node.inputs[1] for node in graph.consumers.get(name, ()) if isinstance(node.op, Embedding)]
    return min((graph.types[table].shape[0] for table in tables), default=2)


def _longest(source: Source) -> int:
    from picoformer.build_folder import full_length

    return 1 if source.graph is None else full_length(source.graph)
