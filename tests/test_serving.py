"""What `pi serve` answers: the runner's own results, its document's promises, and a refusal for everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

import pi_bundles
from command_line import picoformer, refuses
from digits_student import trained
from http_talk import Running, running
from picoformer.raspberry_pi import Runner, open_bundle, open_runner
from picoformer.raspberry_pi.onnx_session import Port
from picoformer.serving.model_app import ModelApp, default_body_bytes

MOST_TOKENS = 20
BUNDLES = ("digits", "classify", "embed", "language")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runner]:
    place = tmp_path_factory.mktemp("bundles")
    folders = {
        "digits": pi_bundles.digits(place, "int8"),
        "classify": pi_bundles.texts(place, "classify"),
        "embed": pi_bundles.texts(place, "embed"),
        "language": pi_bundles.language(place),
    }
    return {name: open_runner(open_bundle(folder), 1) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def servers(runners: dict[str, Runner]) -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(ModelApp(runner, default_body_bytes(runner), MOST_TOKENS)))
            for name, runner in runners.items()
        }


def post(server: Running, task: str, value: Any) -> tuple[int, Any]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with server.connect() as line:
        reply = line.ask("POST", f"/v1/{task}", body)
        return reply.status, reply.value


def sample(at: int = 0) -> Any:
    (values,) = trained().test.values()
    return values[at]


def digits_request(at: int = 0, **more: Any) -> dict[str, Any]:
    return {"inputs": {"x": sample(at).tolist()}, **more}


def test_numbers_in_numbers_out(servers: dict[str, Running], runners: dict[str, Runner]) -> None:
    for at in range(5):
        status, answer = post(servers["digits"], "run", digits_request(at))
        assert status == 200
        for name, value in runners["digits"].run({"x": sample(at)}).items():
            assert np.array_equal(np.array(answer["outputs"][name], np.float32), value)
        status, answer = post(servers["digits"], "classify", digits_request(at, top=3))
        assert (status, answer) == (200, runners["digits"].classify({"x": sample(at)}, 3).to_json())


def test_texts_in(servers: dict[str, Running], runners: dict[str, Runner]) -> None:
    for text in ("a fine day", "Größe", "a" * 500):
        classes, vector = runners["classify"].classify(text), runners["embed"].embed(text)
        assert post(servers["classify"], "classify", {"text": text}) == (200, classes.to_json())
        assert post(servers["embed"], "embed", {"text": text}) == (200, vector.to_json())
    for name, task in (("embed", "embed"), ("classify", "classify"), ("classify", "run")):
        assert post(servers[name], task, {"text": "argument " * 200})[1]["truncated"] is True
        assert "truncated" not in post(servers[name], task, {"text": "a"})[1]


def timeless(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "tokens_per_second"}


@pytest.mark.parametrize("asked", [
    {"prompt": "The class"}, {"prompt": "The class", "greedy": True, "tokens": 20}, {"prompt_ids": [3, 4], "seed": 5},
    {}, {"prompt": "a", "beams": 2, "tokens": 5}, {"prompt": "a", "temperature": 0.7, "top_k": 5, "stops": ["e"]},
])  # fmt: skip
def test_texts_are_written(servers: dict[str, Running], runners: dict[str, Runner], asked: dict[str, Any]) -> None:
    runner = runners["language"]
    wanted = runner.generate(runner.request(**asked)).to_json()
    status, answer = post(servers["language"], "generate", asked)
    assert status == 200 and timeless(answer) == timeless(wanted)
    if "beams" in asked:
        return
    for accept, kind in (("*/*", "application/x-ndjson"), ("text/event-stream", "text/event-stream")):
        with servers["language"].connect() as line:
            reply = line.ask("POST", "/v1/generate", json.dumps({**asked, "stream": True}).encode(), accept=accept)
        assert reply.fields["content-type"] == kind
        text = reply.body.decode()
        if kind == "text/event-stream":
            events = text.removesuffix("\n\n").split("\n\n")
            assert all(event.startswith("data: ") for event in events)
            lines = [event.removeprefix("data: ") for event in events]
        else:
            lines = text.splitlines()
        *pieces, last = map(json.loads, lines)
        assert timeless(last) == {"done": True, **timeless(wanted)}
        assert "".join(piece["text"] for piece in pieces) == wanted["text"]


WRONG: dict[str, tuple[str, str, Any, str, str]] = {
    "nothing": ("digits", "run", b"", "bad_json", "no JSON"),
    "no JSON": ("digits", "run", b"{'inputs'", "bad_json", "no JSON"),
    "two values": ("digits", "run", b"{} {}", "bad_json", "no JSON"),
    "no UTF-8": ("classify", "classify", b'{"text": "\xff"}', "bad_json", "not UTF-8"),
    "NaN": ("digits", "run", b'{"inputs": {"x": [NaN]}}', "bad_json", "NaN is no number"),
    "-Infinity": ("digits", "run", b'{"inputs": {"x": [-Infinity]}}', "bad_json", "-Infinity is no number"),
    "1e999": ("digits", "run", b'{"inputs": {"x": [1e999]}}', "bad_json", "1e999"),
    "many digits": ("digits", "run", b'{"inputs": {"x": ' + b"9" * 6000 + b"}}", "bad_json", "no JSON"),
    "deep": ("digits", "run", b'{"inputs": {"x": ' + b"[" * 30_000, "bad_json", "nested too deep"),
    "same key twice": ("digits", "run", b'{"inputs": {}, "inputs": {}}', "bad_json", "stands twice"),
    "half a character": ("classify", "classify", b'{"text": "\\ud800"}', "bad_json", "surrogate"),
    "half a name": ("digits", "run", b'{"inputs": {"\\uDFFF": 1}}', "bad_json", "surrogate"),
    "a list": ("digits", "run", [1], "bad_input", "no JSON object"),
    "neither": ("digits", "run", {}, "bad_input", "either"),
    "both": ("classify", "run", {"text": "a", "inputs": {}}, "bad_input", "either"),
    "unknown key": ("digits", "run", {"inputs": {}, "top": 1}, "bad_input", "'top'"),
    "text to numbers": ("digits", "run", {"text": "a"}, "bad_input", "takes no text"),
    "text of a number": ("classify", "classify", {"text": 1}, "bad_input", "no text"),
    "inputs of a list": ("digits", "run", {"inputs": [1]}, "bad_input", "no object"),
    "unknown input": ("digits", "run", {"inputs": {"z": 1}}, "bad_input", "'z'"),
    "missing input": ("digits", "run", {"inputs": {}}, "bad_input", "'x' is missing"),
    "shape": ("digits", "run", {"inputs": {"x": [[1, 2]]}}, "bad_input", "[1, 2]"),
    "too many columns": ("digits", "run", {"inputs": {"x": [[[0.0] * 9] * 8]}}, "bad_input", "[1, 8, 9]"),
    "ragged": ("digits", "run", {"inputs": {"x": [[1, 2], [3]]}}, "bad_input", "'x'"),
    "words": ("digits", "run", {"inputs": {"x": [["a"] * 8] * 8}}, "bad_input", "'x'"),
    "beyond float32": ("digits", "run", {"inputs": {"x": [[1e39] * 8] * 8}}, "bad_input", "'x'"),
    "no tokens": ("classify", "classify", {"text": ""}, "bad_input", "no token"),
    "top 0": ("digits", "classify", {"inputs": {}, "top": 0}, "bad_input", "'top'"),
    "top true": ("digits", "classify", {"inputs": {}, "top": True}, "bad_input", "'top'"),
    "unknown option": ("language", "generate", {"prompt": "a", "temprature": 1}, "bad_input", "'temprature'"),
    "option of a kind": ("language", "generate", {"prompt": "a", "tokens": "9"}, "bad_input", "'tokens'"),
    "too many tokens": ("language", "generate", {"prompt": "a", "tokens": 21}, "too_long", "20"),
    "too many beams": ("language", "generate", {"prompt": "a", "tokens": 5, "beams": 5}, "too_long", "20"),
    "stream of a search": ("language", "generate", {"prompt": "a", "beams": 2, "tokens": 2, "stream": True},
                           "bad_input", "stream"),
    "stream of a word": ("language", "generate", {"prompt": "a", "stream": "yes"}, "bad_input", "'stream'"),
    "two prompts": ("language", "generate", {"prompt": "a", "prompt_ids": [1]}, "bad_input", "prompt"),
    "a token that is none": ("language", "generate", {"prompt_ids": [1 << 30]}, "bad_input", "vocabulary"),
    "a prompt beyond the context": ("language", "generate", {"prompt_ids": [3] * 500}, "bad_input", "context"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_refused_in_one_line(servers: dict[str, Running], name: str) -> None:
    bundle, task, value, code, said = WRONG[name]
    status, answer = post(servers[bundle], task, value)
    assert (status, answer["error"]["code"]) == (400, code), answer
    assert said in answer["error"]["message"] and "\n" not in answer["error"]["message"]


def test_a_task_of_another_bundle_is_not_there(servers: dict[str, Running]) -> None:
    assert post(servers["digits"], "generate", {"prompt": "a"})[0] == 404
    assert post(servers["digits"], "embed", {"text": "a"})[0] == 404
    assert post(servers["language"], "run", {"text": "a"})[0] == 404


def document(server: Running) -> Any:
    with server.connect() as line:
        return line.ask("GET", "/openapi.json").value


def schema_of(document: Any, name: str) -> Draft202012Validator:
    return Draft202012Validator({**document["components"]["schemas"][name], "components": document["components"]})


@pytest.mark.parametrize("name", BUNDLES)
def test_the_document_is_openapi_and_of_this_bundle(servers: dict[str, Running], name: str) -> None:
    found = document(servers[name])
    validate(found)
    assert found["openapi"] == "3.1.0"
    operations = {(path, method.upper()) for path, item in found["paths"].items() for method in item}
    app = servers[name].app
    assert operations == {(path, method) for path, methods in app.routes.items() for method in methods}
    assert f"{app.body_bytes} bytes" in found["info"]["description"]


IDS = {"inputs": {"input_ids": [[5] * 24]}}
RIGHT: dict[str, list[tuple[str, Any]]] = {
    "digits": [("run", digits_request()), ("classify", digits_request(1)), ("classify", digits_request(2, top=10))],
    "classify": [("classify", {"text": "a fine day"}), ("run", {"text": "x" * 400}), ("run", IDS)],
    "embed": [("embed", {"text": "a fine day"}), ("embed", IDS)],
    "language": [("generate", {"prompt": "a", "tokens": 3}), ("generate", {}),
                 ("generate", {"prompt_ids": [5], "tokens": 20}),
                 ("generate", {"beams": 2, "tokens": 2, "early_stopping": "never", "length_penalty": -1}),
                 ("generate", {"prompt": "a", "top_p": 0.5, "min_p": 0.1, "seed": (1 << 64) - 1, "stop_ids": [2]})],
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_what_the_document_allows_is_answered_as_it_says(servers: dict[str, Running], name: str) -> None:
    found = document(servers[name])
    for task, value in RIGHT[name]:
        schema_of(found, f"{task.capitalize()}Request").validate(value)
        status, answer = post(servers[name], task, value)
        assert status == 200, answer
        schema_of(found, f"{task.capitalize()}Answer").validate(answer)
    with servers[name].connect() as line:
        schema_of(found, "Health").validate(line.ask("GET", "/health").value)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_is_not_in_the_document(servers: dict[str, Running], name: str) -> None:
    """Every body that is JSON, and wrong by its own words and not by another's length."""
    bundle, task, value, _, _ = WRONG[name]
    if isinstance(value, bytes) or name in ("too many beams", "stream of a search", "a prompt beyond the context"):
        return
    found = document(servers[bundle])
    assert not schema_of(found, f"{task.capitalize()}Request").is_valid(value)
    schema_of(found, "Error").validate(post(servers[bundle], task, value)[1])


def test_pieces_of_a_stream_are_in_the_document(servers: dict[str, Running]) -> None:
    schema = schema_of(document(servers["language"]), "GeneratePiece")
    with servers["language"].connect() as line:
        reply = line.ask("POST", "/v1/generate", b'{"prompt": "a", "stream": true}')
    for text in reply.body.splitlines():
        schema.validate(json.loads(text))


def test_a_body_has_room_for_every_input(runners: dict[str, Runner], servers: dict[str, Running]) -> None:
    """The longest way to write a float, many times over."""
    value = {"inputs": {"x": [[[-1.2345678901234567e-100] * 8] * 8]}}
    assert len(json.dumps(value)) < default_body_bytes(runners["digits"])
    assert post(servers["digits"], "run", value)[0] == 200
    text = "x" * (default_body_bytes(runners["classify"]) - 20)
    assert post(servers["classify"], "classify", {"text": text})[0] == 200


@pytest.mark.parametrize("shape", [(1, 64), (4, 5000), (100_000,)])
def test_a_limit_on_bodies_grows_with_the_input(shape: tuple[int, ...]) -> None:
    port = Port("input of a long name", "float64", shape)
    runner: Any = SimpleNamespace(inputs=(port,), takes_text=False, bundle=SimpleNamespace(task="run"))
    value = {"inputs": {port.name: np.full(shape, -1.2345678901234567e-100).tolist()}}
    assert len(json.dumps(value)) <= default_body_bytes(runner) <= 64 * np.prod(shape) + (1 << 16)


def test_errors_of_the_command(tmp_path: Path, runners: dict[str, Runner]) -> None:
    refuses(["pi", "serve", tmp_path / "no"], "no bundle")
    folder = runners["digits"].bundle.folder
    refuses(["pi", "serve", folder, "--host", "192.0.2.1"], "192.0.2.1", "--host")
    assert picoformer("pi", "serve", folder, "--port", "70000").code == 2
