"""A language model's step under onnxruntime, caches carried along: what generation wants of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.raspberry_pi.manifest import Decoding
from picoformer.raspberry_pi.onnx_session import Array, OnnxSession, Port

TOKENS, POSITION, COUNT, LOGITS = "tokens", "position", "count", "logits"
MOST_BEAMS = 64


class StepSession:
    """One text, or the beams of one search, in slots of their own; see generation.Session. Not for several threads."""

    slots = MOST_BEAMS

    def __init__(self, session: OnnxSession, decoding: Decoding) -> None:
        self.context, self.vocabulary = decoding.context, decoding.vocabulary
        self._scale, self._session, self._pairs = decoding.logits_scale, session.session, decoding.states
        inputs = {port.name: port for port in session.inputs}
        outputs = {port.name: port for port in session.outputs}
        self._caches = {before: _zeros(inputs[before]) for before, _ in self._pairs}
        self._small = {name: _value(_zeros(inputs[name])) for name in (TOKENS, POSITION)}
        if COUNT in inputs:
            self._small[COUNT] = _value(np.ones([axis or 1 for axis in inputs[COUNT].shape], inputs[COUNT].dtype))
        self._kinds = {name: _zeros(inputs[name]) for name in (TOKENS, POSITION)}
        self._logits = _value(_zeros(outputs[LOGITS]))
        self._slots: dict[int, _Slot] = {}

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        """See generation.Session. Raises DataError for tokens that have no place."""
        if not tokens or position + len(tokens) > self.context:
            raise DataError(
                f"{position + len(tokens)} tokens are more than the context of {self.context}: shorten the prompt, or "
                "generate fewer"
            )
        state = self._slots.get(slot)
        if state is None:
            state = self._slots[slot] = self._new(self._caches)
        try:
            for index, token in enumerate(tokens):
                self._small[TOKENS].update_inplace(np.full_like(self._kinds[TOKENS], token))
                self._small[POSITION].update_inplace(np.full_like(self._kinds[POSITION], position + index))
                self._session.run_with_iobinding(state.next_binding())
        except Exception as error:
            raise DataError(f"the model fails at a token ({(str(error).splitlines() or [''])[0][:300]})") from None
        return self._integers(np.array(self._logits.numpy()).reshape(-1))

    def copy_state(self, source: int, target: int) -> None:
        """The text of one slot goes on in another as well."""
        state = self._slots.get(source)
        self._slots[target] = self._new(self._caches if state is None else state.arrays())

    def _new(self, caches: Mapping[str, Array]) -> _Slot:
        """A slot with these caches, and room for those that the next step writes: it goes from one to the other."""
        both = [{name: _value(array) for name, array in caches.items()} for _ in range(2)]
        bindings = []
        for here, there in (both, both[::-1]):
            binding = self._session.io_binding()
            for name, value in {**self._small, **here}.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(LOGITS, self._logits)
            for before, after in self._pairs:
                binding.bind_ortvalue_output(after, there[before])
            bindings.append(binding)
        return _Slot(both, bindings)

    def _integers(self, logits: Array) -> Array:
        """Logits as the sampler takes them: those of a quantized model as the integers that they stand for."""
        if self._scale is None:
            return np.asarray(logits, np.float32)
        limits = np.iinfo(np.int16)
        steps: Array = np.clip(np.rint(logits.astype(np.float64) / self._scale), limits.min, limits.max)
        return steps.astype(np.int16)


class _Slot:
    """Two sets of caches; a step reads one and writes the other, so that nothing is made or copied between steps."""

    def __init__(self, caches: list[dict[str, Any]], bindings: list[Any]) -> None:
        self._caches, self._bindings, self._now = caches, bindings, 0

    def next_binding(self) -> Any:
        """That of the next step, which is taken to happen."""
        binding = self._bindings[self._now]
        self._now = 1 - self._now
        return binding

    def arrays(self) -> dict[str, Array]:
        """Copies of the caches as they are now."""
        return {name: np.array(value.numpy()) for name, value in self._caches[self._now].items()}


def _zeros(port: Port) -> Array:
    return np.zeros([axis or 1 for axis in port.shape], port.dtype)


def _value(array: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array))


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
    if inputs[TOKENS].size != 1 or inputs[POSITION].size != 1:
        raise ModelError("the model's step is not of one token; pack again")
    if outputs[LOGITS].size != decoding.vocabulary or outputs[LOGITS].dtype != "float32":
        raise ModelError(f"the model has logits {outputs[LOGITS].shape}, not {decoding.vocabulary}; pack again")
