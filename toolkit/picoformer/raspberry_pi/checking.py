"""`pi check`: a bundle's parity sample on this machine, held against the answers that the source model gives.

The file has, of sample i, `i/input/<name>` and `i/output/<name>`; of a language model `prompt` (n,), `logits`
(n, vocabulary) behind each of its tokens, and `tokens`, the greedy text behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.raspberry_pi.answers import cosine
from picoformer.raspberry_pi.array_files import read_arrays
from picoformer.raspberry_pi.decoding import StepSession
from picoformer.raspberry_pi.onnx_session import Array
from picoformer.raspberry_pi.runner import Runner

MOST_SAMPLES = 64


@dataclass(frozen=True)
class Checked:
    """What a check found. `worst`: the largest |difference| / max|reference| (rule close), or the least cosine."""

    rule: str
    bound: float
    samples: int
    worst: float
    worst_difference: float
    labels_equal: int | None
    tokens_equal: bool | None
    text_equal: bool | None

    @property
    def is_passed(self) -> bool:
        """Whether the bundle computes here what it computed where it was packed."""
        if self.text_equal is False:
            return False
        if self.rule == "close":
            return self.worst <= self.bound and self.tokens_equal is not False
        if self.rule == "labels":
            return self.labels_equal == self.samples
        return self.worst >= self.bound

    @property
    def says(self) -> str:
        """In one sentence."""
        verdict = "equal" if self.is_passed else "NOT equal"
        parts = {
            "close": f"outputs within {self.worst:.2g} of the largest value (bound {self.bound:.2g})",
            "labels": f"{self.labels_equal} of {self.samples} labels equal, cosine at least {self.worst:.6f}",
            "likeness": f"cosine at least {self.worst:.6f} (bound {self.bound:g})",
        }
        more = ""
        if self.tokens_equal is not None:
            more += f", greedy text {'equal' if self.tokens_equal else 'another'}"
        if self.text_equal is not None:
            more += f", tokens of the texts {'equal' if self.text_equal else 'OTHERS'}"
        return f"{verdict}: {parts[self.rule]}{more}, {self.samples} samples"

    def to_json(self) -> dict[str, Any]:
        """What `pi check --json` says."""
        return {"passed": self.is_passed, "says": self.says, **vars(self)}


def check(runner: Runner) -> Checked:
    """Run the parity sample. Raises ModelError where the bundle's sample is none."""
    parity = runner.bundle.manifest.parity
    path = runner.bundle.folder / parity.file
    arrays = read_arrays(path)
    if runner.bundle.manifest.generate is not None:
        return _check_text(runner, path, arrays)
    output = runner.bundle.manifest.classify.output if runner.bundle.manifest.classify else None
    worst, difference, labels, count = (0.0 if parity.rule == "close" else 1.0), 0.0, 0, 0
    text_equal = True if parity.texts else None
    while any(key.startswith(f"{count}/") for key in arrays) and count < MOST_SAMPLES:
        inputs = _part(arrays, f"{count}/input/")
        wanted = _part(arrays, f"{count}/output/")
        if not wanted:
            raise ModelError(f"{path}: sample {count} has no outputs; pack again")
        if count < len(parity.texts):
            own = runner.encode(parity.texts[count]).inputs
            text_equal = bool(text_equal and own.keys() == inputs.keys()) and all(
                np.array_equal(own[name], inputs[name]) for name in own
            )
        found = _outputs(runner, path, inputs, wanted)
        for name, value in wanted.items():
            here = found[name]
            if here.shape != value.shape:
                raise ModelError(f"{path}: '{name}' is {list(here.shape)} here, {list(value.shape)} there; pack again")
            difference = max(difference, float(np.abs(here - value).max(initial=0)))
            worst = _worse(parity.rule, worst, here, value)
        label = output or next(iter(wanted))
        labels += int(label in wanted and int(found[label].argmax()) == int(wanted[label].argmax()))
        count += 1
    if not count:
        raise ModelError(f"{path}: has no sample in it; pack again")
    return Checked(
        parity.rule, parity.bound, count, worst, difference, labels if output else None, None, text_equal
    )  # fmt: skip


def _worse(rule: str, worst: float, here: Array, there: Array) -> float:
    a, b = here.astype(np.float64), there.astype(np.float64)
    if rule == "close":
        distance = float(np.abs(a - b).max(initial=0) / max(float(np.abs(b).max(initial=0)), 1e-30))
        return max(worst, distance if np.isfinite(distance) else np.inf)
    likeness = 1.0 if np.array_equal(a, b) else cosine(a.reshape(-1), b.reshape(-1))
    return min(worst, likeness if np.isfinite(likeness) else -1.0)


def _check_text(runner: Runner, path: Path, arrays: Mapping[str, Array]) -> Checked:
    parity, decoding = runner.bundle.manifest.parity, runner.bundle.manifest.generate
    assert decoding is not None
    missing = next((key for key in ("prompt", "logits", "tokens") if key not in arrays), None)
    if missing is not None:
        raise ModelError(f"{path}: has no '{missing}'; pack again")
    prompt = [int(token) for token in arrays["prompt"].reshape(-1)[: decoding.context]]
    logits, tokens = arrays["logits"], [int(token) for token in arrays["tokens"].reshape(-1)]
    if logits.shape != (len(prompt), decoding.vocabulary) or not prompt or not tokens:
        raise ModelError(f"{path}: 'logits' of {list(logits.shape)} for {len(prompt)} tokens; pack again")
    step = StepSession(runner.session, decoding)
    worst, difference, labels = (0.0 if parity.rule == "close" else 1.0), 0.0, 0
    for position, token in enumerate(prompt):
        here = step.decode([token], position).astype(np.float64) * (decoding.logits_scale or 1.0)
        difference = max(difference, float(np.abs(here - logits[position]).max()))
        worst = _worse(parity.rule, worst, here, logits[position])
        labels += int(here.argmax()) == int(logits[position].argmax())
    written = runner.generate(
        runner.request(prompt_ids=prompt, greedy=True, tokens=len(tokens), stop_ids=[], repetition_penalty=1.0)
    )
    text_equal = None
    if parity.texts and runner.bundle.tokenizer is not None:
        text_equal = runner.request(prompt=parity.texts[0]).ids(decoding.bos, runner.bundle.tokenizer) == prompt
    return Checked(
        parity.rule, parity.bound, len(prompt), worst, difference, labels, list(written.tokens) == tokens, text_equal
    )


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _outputs(runner: Runner, path: Path, inputs: dict[str, Array], wanted: Mapping[str, Array]) -> dict[str, Array]:
    try:
        found = runner.run(inputs)
    except DataError as error:
        raise ModelError(f"{path}: its sample does not go with the model ({error}); pack again") from None
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise ModelError(f"{path}: the model has no output '{missing[:80]}'; pack again")
    return found
