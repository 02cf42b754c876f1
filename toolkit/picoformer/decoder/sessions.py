"""Decoding in any form of a model: tokens in, the logits of the last one out, wherever the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from picoformer.decoder.graph import COUNT, LOGITS, POSITION, TOKENS
from picoformer.errors import DataError, ModelError
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.link.device import Device
from picoformer.ops import KvAppend
from picoformer.parity import little_endian
from picoformer.reference.session import StateSession


def check_tokens(graph: Graph, tokens: Sequence[int], position: int) -> None:
    """Raise DataError unless tokens are of the vocabulary and have a place in the context."""
    vocabulary, context = graph.types[LOGITS].shape[-1], context_of(graph)
    if not tokens:
        raise DataError("there is no token to decode; give a prompt")
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise DataError(f"token {wrong} is outside the vocabulary of {vocabulary}")
    if position < 0 or position + len(tokens) > context:
        raise DataError(
            f"{position + len(tokens)} tokens are more than the context of {context}: shorten the prompt, generate "
            "fewer, or build with a larger --context"
        )


def context_of(graph: Graph) -> int:
    """How many positions a decoder's caches hold; raises ModelError for states that are no caches."""
    for _, after in graph.states:
        op = graph.producers[after].op
        if isinstance(op, KvAppend):
            return graph.types[after].shape[op.axis]
    raise ModelError(f"model '{graph.name}': none of its states is a cache of keys or values; build again")


def block_inputs(tokens: Sequence[int], position: int) -> dict[str, Array]:
    """The inputs of a run that reads these tokens."""
    return {TOKENS: np.asarray(tokens, np.int32), POSITION: np.int32(position), COUNT: np.int32(len(tokens))}  # type: ignore[dict-item]


class ReferenceSession:
    """A graph run in numpy, float or integer."""

    def __init__(self, session: StateSession, slots: int = 64) -> None:
        self.graph, self._session = session.graph, session
        self.slots, self.context = slots, context_of(session.graph)
        self.vocabulary = session.graph.types[LOGITS].shape[-1]
        self._block = self.graph.types[TOKENS].shape[0]
        self._empty = session.states
        self._slots: dict[int, dict[str, Array]] = {}

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        """See generation.Session. Raises DataError for tokens that have no place."""
        check_tokens(self.graph, tokens, position)
        self._session.states = self._slots.get(slot, self._empty)
        for start in range(0, len(tokens), self._block):
            part = tokens[start : start + self._block]
            outputs = self._session.run(block_inputs(part, position + start))
        self._slots[slot] = self._session.states
        logits: Array = outputs[LOGITS][-1]
        return logits

    def copy_state(self, source: int, target: int) -> None:
        """The text of one slot goes on in another as well."""
        self._slots[target] = self._slots.get(source, self._empty)


class DeviceSession:
    """Firmware that decodes: each block is one run over the wire. It has one slot."""

    slots = 1

    def __init__(self, device: Device, graph: Graph) -> None:
        self.graph, self._device = graph, device
        self.context, self.vocabulary = context_of(graph), graph.types[LOGITS].shape[-1]
        self._block = graph.types[TOKENS].shape[0]
        self.prologue = 0
        """How many steps come before those of a block and have runs of their own."""

    def write(self, tokens: Sequence[int], position: int) -> None:
        """The inputs of a run that reads these tokens, at most a block of them."""
        self.write_inputs(self.inputs_of(tokens, position))

    def inputs_of(self, tokens: Sequence[int], position: int) -> dict[str, Array]:
        """What a run that reads these tokens is given, filled up to a block."""
        given = block_inputs([*tokens, *[0] * (self._block - len(tokens))], position)
        given[COUNT] = np.int32(len(tokens))  # type: ignore[assignment]
        return given

    def write_inputs(self, given: Mapping[str, Array]) -> None:
        """All inputs, by name: a device takes no run without."""
        for index, name in enumerate(self.graph.ports[0]):
            self._device.write_input(index, little_endian(np.asarray(given[name], np.int32)))

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        """See generation.Session. Raises DataError for tokens that have no place."""
        if slot:
            raise DataError("this device keeps one text at a time")
        check_tokens(self.graph, tokens, position)
        for start in range(0, len(tokens), self._block):
            self.write(tokens[start : start + self._block], position + start)
            outputs = self._device.run(outputs=True, part=self.steps).outputs
        assert outputs is not None
        return self.logits(outputs[0])

    @property
    def steps(self) -> range:
        """The device's steps that a block has."""
        return range(self.prologue, self._device.hello().step_count)

    def logits(self, data: bytes) -> Array:
        """The bytes of the logits as an array (vocabulary,)."""
        type_ = self.graph.types[LOGITS]
        values: Array = np.frombuffer(data, type_.dtype.numpy.newbyteorder("<"))
        return values

    def copy_state(self, source: int, target: int) -> None:
        """Not here."""
        raise DataError("this device keeps one text at a time")


def real_logits(graph: Graph, logits: Array) -> Array:
    """Logits as the real numbers that they stand for."""
    quant: Any = graph.types[LOGITS].quant
    return logits if quant is None else (logits.astype(np.float64) * quant.per_tensor_scale).astype(np.float32)
