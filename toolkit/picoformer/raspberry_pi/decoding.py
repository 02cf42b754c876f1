"""A language model's step under onnxruntime, caches carried along: what generation wants of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.raspberry_pi.manifest import Decoding
from picoformer.raspberry_pi.onnx_session import Array, OnnxSession

TOKENS, POSITION, COUNT, LOGITS = "tokens", "position", "count", "logits"
MOST_BEAMS = 64


class StepSession:
    """One text, or the beams of one search, in slots of their own; see generation.Session. Not for several threads."""

    slots = MOST_BEAMS

    def __init__(self, session: OnnxSession, decoding: Decoding) -> None:
        self.context, self.vocabulary = decoding.context, decoding.vocabulary
        self._scale, self._session = decoding.logits_scale, session.session
        self._pairs = decoding.states
        self._names = [LOGITS, *(after for _, after in self._pairs)]
        self._has_count = any(port.name == COUNT for port in session.inputs)
        ports = {port.name: port for port in session.inputs}
        self._empty = {
            before: _cache(np.zeros([axis or 1 for axis in ports[before].shape], ports[before].dtype))
            for before, _ in self._pairs
        }
        self._slots: dict[int, dict[str, Any]] = {}

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        """See generation.Session. Raises DataError for tokens that have no place."""
        if not tokens or position + len(tokens) > self.context:
            raise DataError(
                f"{position + len(tokens)} tokens are more than the context of {self.context}: shorten the prompt, or "
                "generate fewer"
            )
        caches = self._slots.get(slot, self._empty)
        for index, token in enumerate(tokens):
            feeds = {
                TOKENS: np.array([token], np.int64), POSITION: np.array(position + index, np.int64),
                **({COUNT: np.array(1, np.int64)} if self._has_count else {}),
            }  # fmt: skip
            logits, caches = self._step(feeds, caches)
        self._slots[slot] = caches
        return self._integers(logits.reshape(-1))

    def copy_state(self, source: int, target: int) -> None:
        """The text of one slot goes on in another as well; a step writes new caches, so that both may share these."""
        self._slots[target] = self._slots.get(source, self._empty)

    def _step(self, feeds: dict[str, Array], caches: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
        values = {**{name: _cache(value) for name, value in feeds.items()}, **caches}
        try:
            logits, *after = self._session.run_with_ort_values(self._names, values)
        except Exception as error:
            raise DataError(f"the model fails at a token ({(str(error).splitlines() or [''])[0][:300]})") from None
        return logits.numpy(), {before: value for (before, _), value in zip(self._pairs, after, strict=True)}

    def _integers(self, logits: Array) -> Array:
        """Logits as the sampler takes them: those of a quantized model as the integers that they stand for."""
        if self._scale is None:
            return np.asarray(logits, np.float32)
        limits = np.iinfo(np.int16)
        steps: Array = np.clip(np.rint(logits.astype(np.float64) / self._scale), limits.min, limits.max)
        return steps.astype(np.int16)


def _cache(array: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def check_step(session: OnnxSession, decoding: Decoding) -> None:
    """Raise ModelError unless a model is the step that a bundle says it is."""
    inputs = {port.name: port for port in session.inputs}
    outputs = {port.name: port for port in session.outputs}
    for name in (TOKENS, POSITION, *(before for before, _ in decoding.states)):
        if name not in inputs:
            raise ModelError(f"the model has no input '{name[:80]}', which its bundle says it has; pack again")
    for name in (LOGITS, *(after for _, after in decoding.states)):
        if name not in outputs:
            raise ModelError(f"the model has no output '{name[:80]}', which its bundle says it has; pack again")
    more = set(inputs) - {TOKENS, POSITION, COUNT} - {before for before, _ in decoding.states}
    if more:
        raise ModelError(f"the model has an input '{min(more)}' that its bundle says nothing of; pack again")
    for before, after in decoding.states:
        there = inputs[before]
        if there.shape != outputs[after].shape or there.dtype != outputs[after].dtype or there.size is None:
            raise ModelError(f"the model's '{before}' and '{after}' are no state that goes round; pack again")
    if outputs[LOGITS].size != decoding.vocabulary:
        raise ModelError(f"the model has logits {outputs[LOGITS].shape}, not {decoding.vocabulary}; pack again")
