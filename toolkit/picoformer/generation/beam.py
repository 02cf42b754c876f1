"""Beam search as transformers defines it, on integer log-probabilities: the definition of firmware/text/beam.c."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.errors import ConfigError
from picoformer.generation.logarithm import LOWEST, PENALTY_BITS, SCORE_BITS, log_of_sum, normalize
from picoformer.generation.scores import Array, Exponent, multiplier_of, scores_of, unit_of
from picoformer.generation.session import Session, check_prompt
from picoformer.generation.settings import BeamSettings, EarlyStopping
from picoformer.ops.fixedpoint import rounding_shift

EARLY_STOPPING: dict[EarlyStopping, int] = {False: 0, True: 1, "never": 2}
"""The numbers of C's pf_beam_settings."""


@dataclass(frozen=True)
class BeamText:
    """A finished text: its new tokens, the stop token included, and its score in 2^−24 nats."""

    tokens: tuple[int, ...]
    score: int

    @property
    def log_probability(self) -> float:
        """The score as transformers states it: Σ log p / length^length_penalty."""
        return self.score / 2.0**SCORE_BITS


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...]
    score: int
    slot: int


@dataclass(frozen=True)
class IntegerBeam:
    """`BeamSettings` in integers: distances to weights (at temperature 1) and to the grid of log-probabilities."""

    exponent: Exponent
    grid_multiplier: int
    grid_shift: int
    length_penalty: int
    settings: BeamSettings

    @classmethod
    def from_settings(cls, settings: BeamSettings, logits_scale: float | None) -> IntegerBeam:
        unit = unit_of(logits_scale)
        return cls(
            Exponent.of(unit, 1.0),
            *multiplier_of(unit * 2.0**SCORE_BITS, "logits scale"),
            round(settings.length_penalty * 2**PENALTY_BITS),
            settings,
        )

    def log_probabilities(self, logits: Array) -> Array:
        """int64 (V,), in 2^−24 nats."""
        scores = scores_of(logits)
        distance = scores.max() - scores
        total = int(self.exponent.weights(distance).sum())
        below = rounding_shift(distance * np.int64(self.grid_multiplier), self.grid_shift)
        return -(below + log_of_sum(total))

    def check(self, vocabulary: int) -> None:
        """ConfigError where a vocabulary is too small for the candidates of a step."""
        settings = self.settings
        if settings.candidates > vocabulary:
            raise ConfigError(
                f"{settings.beams} beams want {settings.candidates} candidates of a vocabulary of {vocabulary}:"
                " take fewer beams"
            )

    def search(self, session: Session, prompt: Sequence[int]) -> list[BeamText]:
        """All `beams` texts, the best first. The session needs as many slots; candidates with equal scores stand in the
        order of their beams, then of their tokens."""
        settings = self.settings
        check_prompt(session, prompt)
        self.check(session.vocabulary)
        if settings.beams > session.slots:
            raise ConfigError(f"{settings.beams} beams in a session of {session.slots}: build it with more slots")
        most = min(settings.max_tokens, session.context - len(prompt) + 1)
        running = [_Beam((), 0, 0)]
        logits = [session.decode(prompt, 0)]
        finished: list[BeamText] = []
        for length in range(1, most + 1):
            candidates = self._candidates(running, logits)
            going_on: list[tuple[int, int, int]] = []
            for rank, (score, parent, token) in enumerate(candidates):
                if token not in settings.stop_tokens and length < most:
                    going_on.append((score, parent, token))
                elif rank < settings.beams:
                    text = BeamText((*running[parent].tokens, token), normalize(score, length, self.length_penalty))
                    finished = sorted([*finished, text], key=lambda t: -t.score)[: settings.beams]
            if length == most or self._is_over(finished, going_on[0][0], length, most):
                break
            running = _reordered(session, running, going_on[: settings.beams])
            position = len(prompt) + length - 1
            logits = [session.decode(beam.tokens[-1:], position, beam.slot) for beam in running]
        return finished

    def _candidates(self, running: Sequence[_Beam], logits: Sequence[Array]) -> list[tuple[int, int, int]]:
        """(score, beam, token), the best first."""
        found = []
        for index, (beam, own) in enumerate(zip(running, logits, strict=True)):
            scores = np.maximum(beam.score + self.log_probabilities(own), LOWEST)
            best = np.argsort(-scores, kind="stable")[: self.settings.candidates]
            found += [(int(scores[token]), index, int(token)) for token in best]
        return sorted(found, key=lambda c: (-c[0], c[1], c[2]))[: self.settings.candidates]

    def _is_over(self, finished: Sequence[BeamText], best: int, length: int, most: int) -> bool:
        """Whether no running text is worth going on, the best of them scoring `best` after `length` tokens."""
        if len(finished) < self.settings.beams:
            return False
        if self.settings.early_stopping is True:
            return True
        is_far = self.settings.early_stopping == "never" and self.length_penalty > 0
        return normalize(best, most if is_far else length, self.length_penalty) <= finished[-1].score


def _reordered(session: Session, running: Sequence[_Beam], chosen: Sequence[tuple[int, int, int]]) -> list[_Beam]:
    """The beams that go on, each in a slot of its own: the first child of a beam keeps its slot, the others get a copy
    in the lowest free one."""
    kept = {running[parent].slot for _, parent, _ in chosen}
    free = [slot for slot in range(len(chosen)) if slot not in kept]
    taken: set[int] = set()
    result = []
    for score, parent, token in chosen:
        slot = running[parent].slot
        if parent in taken:
            source, slot = slot, free.pop(0)
            session.copy_state(source, slot)
        taken.add(parent)
        result.append(_Beam((*running[parent].tokens, token), score, slot))
    return result


def beam_search(
    session: Session, prompt: Sequence[int], settings: BeamSettings, logits_scale: float | None
) -> list[BeamText]:
    """The `settings.beams` best texts that continue `prompt`; `logits_scale` as for IntegerSampler."""
    return IntegerBeam.from_settings(settings, logits_scale).search(session, prompt)
