"""The OpenAPI 3.1 document of a served bundle: its own inputs, outputs and limits, and nothing that it does not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import picoformer
from picoformer.generation.settings import LENGTH_PENALTIES, MOST_BEAMS, PENALTIES, TEMPERATURES
from picoformer.raspberry_pi import Runner
from picoformer.raspberry_pi.onnx_session import Port

Schema = dict[str, Any]
_ERRORS = {
    "400": "The request is broken or does not fit the model.",
    "403": "The request comes from a page of another origin.",
    "408": "The request took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is not application/json, or compressed.",
    "421": "The Host field names another machine.",
    "500": "The model or this program failed.",
    "503": "Every place in the queue is taken.",
    "504": "The answer took too long.",
}
_SAY = {
    "run": "Outputs of the model for one sample",
    "classify": "The likeliest classes of one sample",
    "embed": "The vector of one sample",
    "generate": "Text that the model writes",
}


def describe(runner: Runner, tasks: Sequence[str], body_bytes: int, max_tokens: int) -> Schema:
    """The document of what is served under /v1/<task>, /health and /openapi.json."""
    bundle = runner.bundle
    requests = {"generate": lambda: _generation(runner, max_tokens)}
    answers = {"run": _outputs, "classify": _classes, "embed": _vector, "generate": _written}
    schemas: Schema = {"Error": _error(), "Health": _health()}
    paths: Schema = {}
    for task in tasks:
        name = task.capitalize()
        schemas[f"{name}Request"] = requests.get(task, lambda task=task: _sample(runner, task))()
        schemas[f"{name}Answer"] = answers[task](runner)
        paths[f"/v1/{task}"] = {"post": _operation(task, name, body_bytes)}
    if "generate" in tasks:
        schemas["GeneratePiece"] = _piece(schemas["GenerateAnswer"], bundle.tokenizer is not None)
    paths["/health"] = {"get": _get("health", "Whether the server answers, and with what", "Health")}
    paths["/openapi.json"] = {"get": _get("openapi", "This document", None)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": bundle.name, "version": picoformer.__version__,
            "description": f"A model behind HTTP: {bundle.task}, {bundle.manifest.scheme}. "
            f"A body has at most {body_bytes} bytes.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "responses": _responses()},
    }  # fmt: skip


def _operation(task: str, name: str, body_bytes: int) -> Schema:
    content = {"application/json": {"schema": _to(f"{name}Answer")}}
    if task == "generate":
        content |= {media: {"schema": _to("GeneratePiece")} for media in ("application/x-ndjson", "text/event-stream")}
    return {
        "operationId": task,
        "summary": _SAY[task],
        "requestBody": {
            "required": True,
            "description": f"At most {body_bytes} bytes.",
            "content": {"application/json": {"schema": _to(f"{name}Request")}},
        },
        "responses": {
            "200": {"description": _SAY[task], "content": content},
            **{status: {"$ref": f"#/components/responses/Error{status}"} for status in _ERRORS},
        },
    }


def _get(name: str, says: str, schema: str | None) -> Schema:
    content = {"application/json": {"schema": _to(schema) if schema else {"type": "object"}}}
    return {"operationId": name, "summary": says, "responses": {"200": {"description": says, "content": content}}}


def _responses() -> Schema:
    found: Schema = {}
    for status, says in _ERRORS.items():
        found[f"Error{status}"] = {
            "description": says, "content": {"application/json": {"schema": _to("Error")}}
        }  # fmt: skip
    found["Error503"]["headers"] = {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
    }
    return found


def _to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, required: Sequence[str] | None = None) -> Schema:
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _error() -> Schema:
    return _object({"error": _object({"code": {"type": "string"}, "message": {"type": "string"}})})


def _health() -> Schema:
    word = {"type": "string"}
    return _object({"status": {"const": "ok"}, "name": word, "task": word, "scheme": word})


def _array(port: Port, is_input: bool) -> Schema:
    """A port's values as nested lists."""
    dtype = np.dtype(port.dtype)
    schema: Schema = {"type": "number"}
    if dtype.kind == "b":
        schema = {"type": "boolean"}
    elif dtype.kind in "iu":
        schema = {"type": "integer"}
        if is_input:
            schema |= {"minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    elif is_input:
        schema |= {"minimum": float(np.finfo(dtype).min), "maximum": float(np.finfo(dtype).max)}
    for axis in reversed(port.shape):
        schema = {"type": "array", "items": schema}
        schema |= {"minItems": 1} if axis is None else {"minItems": axis, "maxItems": axis}
    return schema


def _sample(runner: Runner, task: str) -> Schema:
    more: Schema = {}
    if task == "classify":
        more = {"top": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5, "description": "How many."}}
    inputs = _object({port.name: _array(port, True) for port in runner.inputs})
    forms = [_object({"inputs": inputs, **more}, ["inputs"])]
    if runner.takes_text:
        forms.insert(0, _object({"text": {"type": "string", "minLength": 1}, **more}, ["text"]))
    return forms[0] if len(forms) == 1 else {"oneOf": forms}


_CUT = {"truncated": {"const": True, "description": "Only there where the model has not seen the text's end."}}


def _outputs(runner: Runner) -> Schema:
    outputs = _object({port.name: _array(port, False) for port in runner.outputs})
    return _object({"outputs": outputs, **_CUT}, ["outputs"])


def _classes(runner: Runner) -> Schema:
    one = {
        "label": {"type": "string"}, "index": {"type": "integer", "minimum": 0},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    }  # fmt: skip
    if runner.bundle.labels:
        one["label"] = {"enum": list(dict.fromkeys(runner.bundle.labels))}
    return _object({**one, "top": {"type": "array", "minItems": 1, "items": _object(one)}, **_CUT}, [*one, "top"])


def _vector(runner: Runner) -> Schema:
    vector = {"type": "array", "minItems": 1, "items": {"type": "number"}}
    return _object({"embedding": vector, **_CUT}, ["embedding"])


def _generation(runner: Runner, max_tokens: int) -> Schema:
    decoding = runner.bundle.manifest.generate
    assert decoding is not None
    token = {"type": "integer", "minimum": 0, "maximum": decoding.vocabulary - 1}
    properties: Schema = {
        "prompt_ids": {"type": "array", "items": token, "minItems": 1, "maxItems": decoding.context},
        "tokens": {"type": "integer", "minimum": 1, "maximum": max_tokens, "description": "Most tokens to write."},
        "greedy": {"type": "boolean"},
        "temperature": {"type": "number", "minimum": TEMPERATURES[0], "maximum": TEMPERATURES[1]},
        "top_k": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "repetition_penalty": {"type": "number", "minimum": PENALTIES[0], "maximum": PENALTIES[1]},
        "seed": {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
        "beams": {"type": "integer", "minimum": 1, "maximum": min(MOST_BEAMS, max_tokens)},
        "length_penalty": {"type": "number", "minimum": LENGTH_PENALTIES[0], "maximum": LENGTH_PENALTIES[1]},
        "early_stopping": {"enum": [True, False, "never"]},
        "stop_ids": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}},
        "stream": {"type": "boolean", "default": False, "description": "Pieces as they are written."},
    }
    if runner.bundle.tokenizer is not None:
        properties["prompt"] = {"type": "string"}
        properties["stops"] = {"type": "array", "items": {"type": "string", "minLength": 1}}
    ways = [{"required": [name]} for name in ("prompt", "prompt_ids") if name in properties]
    needs: Schema = {"oneOf": ways} if decoding.bos is None else {"not": {"required": ["prompt", "prompt_ids"]}}
    return {**_object(properties, []), **needs}


def _written(runner: Runner) -> Schema:
    word: Schema = {"type": ["string", "null"]}
    tokens: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    speed: Schema = {"type": ["number", "null"], "minimum": 0}
    text = _object({"tokens": tokens, "text": word, "log_probability": {"type": "number"}})
    found = {"text": word, "tokens": tokens, "end": word, "prompt_tokens": {"type": "integer"},
             "tokens_per_second": speed, "texts": {"type": "array", "items": text}}  # fmt: skip
    return _object(found, [name for name in found if name != "texts"])


def _piece(answer: Schema, has_text: bool) -> Schema:
    """A line of a stream: a piece, the answer as a whole, or an error."""
    piece = {"text": {"type": "string"}} if has_text else {"token": {"type": "integer", "minimum": 0}}
    last = _object({"done": {"const": True}, **answer["properties"]}, ["done", *answer["required"]])
    return {"oneOf": [_object(piece), last, _to("Error")]}
