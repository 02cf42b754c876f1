"""What a bundle does, as paths and methods: JSON bodies to the runner's calls, its answers and refusals to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picoformer.errors import ConfigError, DataError, PicoformerError
from picoformer.raspberry_pi import Runner
from picoformer.raspberry_pi.json_fields import parse_json
from picoformer.serving.http import Head, HttpError
from picoformer.serving.openapi import describe
from picoformer.serving.server import Route
from picoformer.serving.work import Job

LEAST_BODY, TEXT_BODY, ANY_BODY = 1 << 16, 1 << 18, 1 << 20
"""Bytes of a body that are always allowed, where texts go in, and where an axis has any length."""
NUMBER_BYTES = 32
"""Most characters that a number of a fixed shape takes, its brackets and commas among them."""
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"
MOST_TOP = 1000


def default_body_bytes(runner: Runner) -> int:
    """A limit on bodies that every input of the model fits."""
    if runner.bundle.task == "generate":
        return TEXT_BODY
    sizes = [port.size for port in runner.inputs]
    least = TEXT_BODY if runner.takes_text else ANY_BODY if None in sizes else LEAST_BODY
    return max(least, NUMBER_BYTES * sum(size or 0 for size in sizes) + 4096)


@dataclass
class ModelApp:
    """A runner's routes: /v1/<task> for what its bundle can do, /health, /openapi.json.

    max_tokens   of one answer of a language model, times the beams of a search
    """

    runner: Runner
    body_bytes: int
    max_tokens: int = 512
    routes: Mapping[str, Mapping[str, Route]] = field(init=False)

    def __post_init__(self) -> None:
        manifest = self.runner.bundle.manifest
        works = {"generate": self._generate}
        if manifest.generate is None:
            works = {"run": self._run}
            if manifest.classify is not None:
                works["classify"] = self._classify
            if manifest.embed is not None:
                works["embed"] = self._embed
        self.tasks = tuple(works)
        document = describe(self.runner, self.tasks, self.body_bytes, self.max_tokens)
        self.routes = {
            **{f"/v1/{task}": {"POST": Route(work=work)} for task, work in works.items()},
            "/health": {"GET": Route(fixed=self._health)},
            "/openapi.json": {"GET": Route(fixed=lambda: document)},
        }

    def _health(self) -> dict[str, Any]:
        bundle = self.runner.bundle
        return {"status": "ok", "name": bundle.name, "task": bundle.task, "scheme": bundle.manifest.scheme}

    def _run(self, head: Head, body: bytes, job: Job) -> Any:
        given = _given(_fields(body, {"text", "inputs"}))
        encoded = _asked(self.runner.encode, given)
        outputs = _asked(self.runner.session.run, encoded.inputs)
        found = {"outputs": {name: value.tolist() for name, value in outputs.items()}}
        return {**found, "truncated": True} if encoded.is_cut else found

    def _classify(self, head: Head, body: bytes, job: Job) -> Any:
        fields = _fields(body, {"text", "inputs", "top"})
        top = fields.pop("top", 5)
        if type(top) is not int or not 1 <= top <= MOST_TOP:
            raise HttpError(400, "bad_input", f"'top' is no whole number from 1 to {MOST_TOP}")
        return _asked(self.runner.classify, _given(fields), top).to_json()

    def _embed(self, head: Head, body: bytes, job: Job) -> Any:
        return _asked(self.runner.embed, _given(_fields(body, {"text", "inputs"}))).to_json()

    def _generate(self, head: Head, body: bytes, job: Job) -> Any:
        fields = _fields(body, None)
        stream = fields.pop("stream", False)
        if type(stream) is not bool:
            raise HttpError(400, "bad_input", "'stream' is neither true nor false")
        request = _asked(self.runner.request, **fields)
        if "tokens" not in fields and request.tokens * request.beams > self.max_tokens:
            request = _asked(self.runner.request, **fields, tokens=max(1, self.max_tokens // request.beams))
        if request.tokens * request.beams > self.max_tokens:
            raise HttpError(400, "too_long", f"'tokens' times 'beams' is more than this server's {self.max_tokens}")
        if stream and request.beams > 1:
            raise HttpError(400, "bad_input", "a beam search knows its texts at the end; leave 'stream' out")
        media = EVENTS if EVENTS in head.fields.get("accept", "") else NDJSON
        prompt = len(request.prompt or "")
        has_text = self.runner.bundle.tokenizer is not None

        def heard(text: str) -> bool:
            nonlocal prompt
            text, prompt = text[prompt:], 0
            if stream and text:
                job.piece({"text": text} if has_text else {"token": int(text)}, media)
            return job.is_over.is_set()

        found = _asked(self.runner.generate, request, heard).to_json()
        if stream:
            job.piece({"done": True, **found}, media)
            return None
        return found


def _fields(body: bytes, known: set[str] | None) -> dict[str, Any]:
    """The object that a body is, its keys among `known`; raises HttpError 400."""
    try:
        value = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise HttpError(400, "bad_json", "the body is not UTF-8") from None
    except ValueError as error:
        raise HttpError(400, "bad_json", f"the body is no JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise HttpError(400, "bad_input", "the body is no JSON object")
    if b"\\ud" in body.lower():
        _refuse_half_characters(value)
    if known is not None and (unknown := next((key for key in value if key not in known), None)) is not None:
        raise HttpError(400, "bad_input", f"'{unknown[:80]}' is not known; known is {', '.join(sorted(known))}")
    return value


def _refuse_half_characters(value: Any) -> None:
    """Half a surrogate pair is no character, though JSON can write it."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
            raise HttpError(400, "bad_json", "a text has half of a surrogate pair in it")


def _given(fields: Mapping[str, Any]) -> Any:
    """The text or the inputs; raises HttpError 400 unless it is exactly one of them."""
    if len(fields) != 1:
        raise HttpError(400, "bad_input", "give either 'text' or 'inputs'")
    text, inputs = fields.get("text"), fields.get("inputs")
    if "text" in fields and not isinstance(text, str):
        raise HttpError(400, "bad_input", "'text' is no text")
    if "inputs" in fields and not isinstance(inputs, dict):
        raise HttpError(400, "bad_input", "'inputs' is no object of the model's inputs")
    return text if "text" in fields else inputs


def _asked(call: Any, *words: Any, **named: Any) -> Any:
    """A call of the runner; what is the request's fault becomes 400, what is the bundle's 500."""
    try:
        return call(*words, **named)
    except (DataError, ConfigError) as error:
        raise HttpError(400, "bad_input", " ".join(str(error).split())[:500]) from None
    except PicoformerError as error:
        raise HttpError(500, "model", " ".join(str(error).split())[:500]) from None
