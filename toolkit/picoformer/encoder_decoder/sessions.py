"""Writing behind a source: what a session of a decode step needs besides, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from picoformer.decoder.graph import COUNT
from picoformer.decoder.sessions import DeviceSession, ReferenceSession, block_inputs
from picoformer.encoder_decoder.graph import SOURCE, SOURCE_LENGTH
from picoformer.errors import DataError
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.link.device import Device
from picoformer.reference import lower_graph
from picoformer.reference.session import StateSession, float_session, integer_session
from picoformer.samples import load_samples


def check_source(graph: Graph, tokens: Sequence[int]) -> None:
    """Raise DataError unless tokens are of the source's vocabulary, and not more of them than there is room for."""
    table = graph.types[graph.consumers[SOURCE][0].inputs[1]]
    vocabulary, room = table.shape[0], graph.types[SOURCE].shape[0]
    if not 1 <= len(tokens) <= room:
        raise DataError(f"a source of {len(tokens)} tokens: this model takes 1 to {room}; shorten it")
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise DataError(f"token {wrong} of the source is outside the vocabulary of {vocabulary}")


def source_inputs(graph: Graph, tokens: Sequence[int], pad: int = 0) -> dict[str, Array]:
    """The inputs of the prologue: the tokens filled up with `pad`, and how many there are. Raises DataError."""
    check_source(graph, tokens)
    filled = np.full(graph.types[SOURCE].shape, pad, np.int32)
    filled[: len(tokens)] = tokens
    return {SOURCE: filled, SOURCE_LENGTH: np.asarray(len(tokens), np.int32)}


def source_rows(path: Path, count: int) -> list[list[int]]:
    """The first `count` sources of an .npz: the array `source` of token ids (texts, tokens), each as long as
    `source_length` (texts,) says where that is there. Raises DataError for arrays that are no such."""
    arrays = load_samples(path)
    rows, lengths = arrays.get("source"), arrays.get("source_length")
    if rows is None or rows.dtype.kind not in "iu" or rows.ndim != 2 or len(rows) < count:
        raise DataError(f"{path}: has no array 'source' of token ids, (texts, tokens), one for each text; save it too")
    if lengths is None:
        lengths = np.full(len(rows), rows.shape[1])
    if lengths.dtype.kind not in "iu" or lengths.shape != (len(rows),):
        raise DataError(f"{path}: 'source_length' is not a whole number for each source; save it anew")
    return [row[: max(0, int(length))].tolist() for row, length in zip(rows[:count], lengths[:count], strict=True)]


class PairSession(ReferenceSession):
    """A graph with a prologue run in numpy, float or integer: `read_source`, then as any Session."""

    def __init__(self, session: StateSession, slots: int = 64, pad: int = 0) -> None:
        super().__init__(session, slots)
        self._pad = pad

    def read_source(self, tokens: Sequence[int]) -> None:
        """Begin anew, behind this source. Raises DataError for tokens that have no place."""
        self._session.read_source(source_inputs(self.graph, tokens, self._pad))
        self._empty, self._slots = self._session.states, {}


class PairDeviceSession(DeviceSession):
    """Firmware that reads a source, then decodes behind it: each block is one run over the wire. It has one slot.

    `prologue` is how many steps of the device read the source.
    """

    def __init__(self, device: Device, graph: Graph, prologue: int, pad: int = 0) -> None:
        super().__init__(device, graph)
        self.prologue, self._pad = prologue, pad
        self._source: dict[str, Array] = {}

    def write_source(self, tokens: Sequence[int]) -> None:
        """The inputs of the run that reads a source. Raises DataError for tokens that have no place."""
        self._source = source_inputs(self.graph, tokens, self._pad)
        given = block_inputs([0] * self._block, 0)
        given[COUNT] = np.asarray(0, np.int32)
        self.write_inputs({**given, **self._source})

    def write(self, tokens: Sequence[int], position: int) -> None:
        """The inputs of a run behind the source: those that the source is made of are written again, and not read."""
        self.write_inputs({**self.inputs_of(tokens, position), **self._source})

    def write_run(self, tokens: Sequence[int], position: int, source: Sequence[int] = ()) -> None:
        """The inputs of a run, whichever it is."""
        if source:
            self.write_source(source)
        else:
            self.write(tokens, position)

    def read_source(self, tokens: Sequence[int]) -> None:
        """Begin anew, behind this source. Raises DataError for tokens that have no place."""
        self.write_source(tokens)
        self._device.run(part=range(self.prologue))


def pair_session(graph: Graph, pad: int = 0) -> PairSession:
    """The float or the integer meaning of a graph, whichever it has."""
    is_integer = any(type_.quant is not None for type_ in graph.types.values())
    return PairSession(integer_session(lower_graph(graph)) if is_integer else float_session(graph), pad=pad)
