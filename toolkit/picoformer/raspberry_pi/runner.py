"""A loaded bundle: run, classify, embed and generate, from Python values or from JSON; for several threads at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.generation import IntegerBeam
from picoformer.generation.loop import generate
from picoformer.generation.request import ENDS, TextRequest, TextWriter, text_behind
from picoformer.raspberry_pi.answers import Classification, Embedded, classified, cut_json, embedded, probabilities
from picoformer.raspberry_pi.bundle import Bundle
from picoformer.raspberry_pi.decoding import StepSession, check_step
from picoformer.raspberry_pi.manifest import Decoding
from picoformer.raspberry_pi.onnx_session import Array, OnnxSession, Port
from picoformer.raspberry_pi.requests import read_request
from picoformer.raspberry_pi.texts import Encoded, TextEncoder

__all__ = ["Classification", "Embedded", "Generation", "Runner", "open_runner"]

Given = str | Mapping[str, Any]
"""What a model is asked about: a text, or inputs by name (numbers, nested lists of them, arrays)."""


@dataclass(frozen=True)
class Generation:
    """What was written: the new tokens and, with a tokenizer, their text; of a search all its texts, the best first.

    `end` says why the text ends ("" of a search). Seconds from the first token read to the first one chosen, and from
    there to the last.
    """

    text: str | None
    tokens: tuple[int, ...]
    end: str
    prompt_tokens: int
    prompt_seconds: float
    seconds: float
    texts: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `pi generate --json` says."""
        later = len(self.tokens) - 1
        speed = later / self.seconds if self.seconds > 0 and later > 0 and not self.texts else None
        record: dict[str, Any] = {"text": self.text, "tokens": list(self.tokens), "end": self.end or None,
                                  "prompt_tokens": self.prompt_tokens, "tokens_per_second": speed}  # fmt: skip
        return {**record, "texts": list(self.texts)} if self.texts else record


class Runner:
    """A bundle's model in memory. All methods may be called by several threads at once; they share its weights."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle, self.threads = bundle, threads
        manifest = bundle.manifest
        self.session = OnnxSession(bundle.model, threads)
        self._encoder: TextEncoder | None = None
        if manifest.text is not None and bundle.tokenizer is not None:
            self._encoder = TextEncoder(manifest.text, bundle.tokenizer, self.session)
        if manifest.generate is not None:
            check_step(self.session, manifest.generate)
            if bundle.tokenizer is not None:
                try:
                    bundle.tokenizer.check_vocabulary(manifest.generate.vocabulary)
                except DataError as error:
                    raise ModelError(str(error)) from None
            self.request().sampler()
        classes = manifest.classify
        if classes is not None and bundle.labels:
            port = next((port for port in self.outputs if port.name == classes.output), None)
            if port is not None and port.shape and port.shape[-1] not in (None, len(bundle.labels)):
                raise ModelError(
                    f"{bundle.folder}: {len(bundle.labels)} labels for {port.shape[-1]} classes; pack again"
                )

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What the model takes."""
        return self.session.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What the model gives."""
        return self.session.outputs

    @property
    def takes_text(self) -> bool:
        """Whether `run`, `classify` and `embed` may be given a text."""
        return self._encoder is not None

    def encode(self, given: Given) -> Encoded:
        """The model's inputs. Raises DataError naming the input, or the text, that is wrong."""
        if isinstance(given, str):
            if self._encoder is None:
                names = ", ".join(f"'{port.name}'" for port in self.inputs)
                raise DataError(f"this model takes no text; give its inputs: {names}")
            return self._encoder.encode(given)
        return Encoded(self.session.fit(given), 0, False)

    def run(self, given: Given) -> dict[str, Array]:
        """Output name → array, for one sample. Raises DataError naming the input that is wrong."""
        self._refuse_step("run")
        return self.session.run(self.encode(given).inputs)

    def classify(self, given: Given, top: int = 5) -> Classification:
        """The likeliest classes of one sample. Raises DataError; ConfigError where the bundle classifies nothing."""
        classes = self.bundle.manifest.classify
        if classes is None:
            raise self._other_task("classify")
        encoded = self.encode(given)
        row = probabilities(classes, self.session.run(encoded.inputs))
        return classified(row, self.bundle.labels, top, encoded.is_cut)

    def embed(self, given: Given) -> Embedded:
        """The vector of one sample. Raises DataError; ConfigError where the bundle embeds nothing."""
        embedding = self.bundle.manifest.embed
        if embedding is None:
            raise self._other_task("embed")
        encoded = self.encode(given)
        return embedded(embedding, self.session.run(encoded.inputs), self._mask(encoded), encoded.is_cut)

    def _mask(self, encoded: Encoded) -> Array | None:
        """Which rows are tokens, bool (rows,); None for all of them."""
        text = self.bundle.manifest.text
        if text is not None and text.mask is not None and text.mask in encoded.inputs:
            return np.asarray(encoded.inputs[text.mask].reshape(-1), np.bool_)
        if text is not None and encoded.tokens:
            return np.arange(encoded.inputs[text.ids].size) < encoded.tokens
        return None

    def request(self, **asked: Any) -> TextRequest:
        """What to generate: the bundle's own settings, and over them what is asked, under the names of `TextRequest`.

        Raises ConfigError naming a key that there is not or a value of the wrong kind.
        """
        decoding = self._decoding()
        try:
            own = read_request(decoding.sampling)
        except ConfigError as error:
            raise ModelError(
                f"{self.bundle.folder}: the bundle's sampling cannot be used ({error}); pack again"
            ) from None
        found = read_request(asked)
        if found.get("greedy") or found.get("beams", 1) > 1:  # which ask for no drawing, whatever is usual
            own = {name: value for name, value in own.items() if name in ("tokens", "repetition_penalty")}
            if found.get("beams", 1) > 1:
                own.pop("repetition_penalty", None)
        elif any(name in found for name in ("temperature", "top_k", "top_p", "min_p")):
            own.pop("greedy", None)
        return TextRequest(**{**own, **found, "given": frozenset(found)})

    def generate(self, request: TextRequest, on_text: Callable[[str], bool | None] | None = None) -> Generation:
        """Write text. `on_text` gets it as it comes, the prompt in front; by answering true it ends the text.

        The same request gives the same text every time. Raises ConfigError or DataError naming what is wrong with it.
        """
        decoding, tokenizer = self._decoding(), self.bundle.tokenizer
        request.check()
        sampler, stop_tokens = request.sampler(), request.stop_tokens(decoding.eos)
        if request.prompt and request.prompt_ids is None and tokenizer is None:
            raise ConfigError("this bundle has no tokenizer; give --prompt-ids, or pack it with --tokenizer")
        ids = request.ids(decoding.bos, tokenizer)
        step = StepSession(self.session, decoding)
        if request.beams > 1:
            return self._search(step, request, ids, stop_tokens, on_text)
        if request.stops and tokenizer is None:
            raise ConfigError("--stop needs a tokenizer, and this bundle has none; stop at token ids with --stop-ids")
        writer = TextWriter(request, ids, tokenizer, on_text)
        begun = time.perf_counter()
        first = 0.0

        def emit(token: int) -> bool:
            nonlocal first
            first = first or time.perf_counter()
            return writer.emit(token)

        written = generate(
            step, ids, sampler, decoding.logits_scale, request.stopping(stop_tokens), bytes_of=writer.bytes_of,
            emit=emit, take=writer.take,
        )  # fmt: skip
        last = time.perf_counter()
        writer.finish()
        text = None if tokenizer is None else written.text.decode("utf-8", "replace")
        return Generation(text, written.tokens, ENDS[written.end], len(ids), first - begun, last - first)

    def _search(
        self, step: StepSession, request: TextRequest, ids: list[int], stop_tokens: tuple[int, ...],
        on_text: Callable[[str], bool | None] | None,
    ) -> Generation:  # fmt: skip
        decoding, tokenizer = self._decoding(), self.bundle.tokenizer
        begun = time.perf_counter()
        found = IntegerBeam.from_settings(request.search(stop_tokens), decoding.logits_scale).search(step, ids)
        seconds = time.perf_counter() - begun
        texts: list[dict[str, Any]] = [
            {
                "tokens": list(text.tokens),
                "text": None if tokenizer is None else text_behind(tokenizer, ids, text.tokens, stop_tokens),
                "log_probability": text.log_probability,
            }
            for text in found
        ]
        if on_text is not None:
            for text in texts:
                words = text["text"] if text["text"] is not None else " ".join(map(str, text["tokens"]))
                on_text(f"{text['log_probability']:9.4f}  {words}\n")
        best = texts[0]
        return Generation(best["text"], tuple(best["tokens"]), "", len(ids), 0.0, seconds, tuple(texts))

    def answer(self, asked: Any, top: int = 5, task: str | None = None) -> dict[str, Any]:
        """JSON in, JSON out, by the bundle's task or another that it can do: what a pipe and a server want.

        `asked`: a text; {"text": …}; {"inputs": {name: numbers}} or the names themselves; of a model with one input the
        numbers alone; for generation {"prompt": …} and what `request` takes. Raises a PicoformerError that says what is
        wrong.
        """
        task = task or self.bundle.task
        if task == "generate":
            found = {"prompt": asked} if isinstance(asked, str) else asked
            if not isinstance(found, dict):
                raise DataError('a request is a text or an object: {"prompt": …, "tokens": 64}')
            return self.generate(self.request(**found)).to_json()
        given, top = self._given(asked, top)
        if task == "classify":
            return self.classify(given, top).to_json()
        if task == "embed":
            return self.embed(given).to_json()
        self._refuse_step("run")
        encoded = self.encode(given)
        outputs = self.session.run(encoded.inputs)
        return {"outputs": {name: value.tolist() for name, value in outputs.items()}, **cut_json(encoded.is_cut)}

    def _given(self, asked: Any, top: int) -> tuple[Given, int]:
        if isinstance(asked, str):
            return asked, top
        if isinstance(asked, list) and len(self.inputs) == 1:
            return {self.inputs[0].name: asked}, top
        if not isinstance(asked, dict):
            raise DataError('a request is a text, or an object with "text", or with "inputs": {name: numbers}')
        asked = dict(asked)
        if "top" in asked and "top" not in {port.name for port in self.inputs}:
            top = asked.pop("top")
            if type(top) is not int or not 1 <= top <= 1 << 20:
                raise DataError('"top" is no whole number above 0')
        if set(asked) == {"text"} and (self._encoder is not None or not self._is_input("text")):
            if not isinstance(asked["text"], str):
                raise DataError('"text" is no text')
            return asked["text"], top
        if set(asked) == {"inputs"} and isinstance(asked["inputs"], dict) and not self._is_input("inputs"):
            asked = asked["inputs"]
        return asked, top

    def _is_input(self, name: str) -> bool:
        return any(port.name == name for port in self.inputs)

    def _decoding(self) -> Decoding:
        decoding = self.bundle.manifest.generate
        if decoding is None:
            raise self._other_task("generate")
        return decoding

    def _refuse_step(self, task: str) -> None:
        if self.bundle.manifest.generate is not None:
            raise self._other_task(task)

    def _other_task(self, task: str) -> ConfigError:
        own = self.bundle.task
        return ConfigError(
            f"{self.bundle.folder}: was packed for {own}, not for {task}; use `pi {own}`, or pack it with --task {task}"
        )


def open_runner(bundle: Bundle, threads: int | None = None) -> Runner:
    """Load a bundle's model. `threads`: how many one run may use; None for as many as there are cores.

    Raises ModelError for a model that cannot be loaded or is not what its bundle says.
    """
    return Runner(bundle, threads)
