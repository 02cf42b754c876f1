"""Bundles made here, run by the wheels that a Raspberry Pi gets: aarch64's onnxruntime in an emulated Arm process.

How long it takes is the emulator's business; what comes out is the board's: the same instructions on the same data."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aarch64_machine
import pi_bundles
from aarch64_machine import Machine, MachineError, open_machine
from digits_student import trained
from http_talk import Line
from picoformer.deployment.pins import PINS
from picoformer.raspberry_pi import open_bundle, open_runner

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
CLOSE = 1e-4
"""Of the largest value: float sums in another order, and another exp."""
TEXTS = ("what a fine day, it said", "an argument of the class")
PROMPT = "The function"
MAY_LOAD = {"picoformer", "click", "numpy", "onnxruntime", "tokenizers"}
ROOMS = {"errors", "files", "generation", "ir", "ops", "raspberry_pi", "tokenizers"}
"""Of picoformer, besides the command line."""


@dataclass(frozen=True)
class Seen:
    """What the commands printed there, by name, and what was imported."""

    answers: dict[str, Any]
    modules: list[str]
    machine: str


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bundles")
    return {
        "digits": pi_bundles.digits(place, "float32"),
        "digits-int8": pi_bundles.digits(place, "int8"),
        "classify": pi_bundles.texts(place, "classify"),
        "embed": pi_bundles.texts(place, "embed"),
        "language": pi_bundles.language(place),
        "language-int8": pi_bundles.language(place, "int8"),
    }


@pytest.fixture(scope="module")
def seen(aarch64: Machine, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All commands on all bundles in one process of the emulator."""
    samples = tmp_path_factory.mktemp("samples") / "digits.npz"
    np.savez(samples, **trained().test)
    texts = [word for text in TEXTS for word in ("--text", text)]
    asked: dict[str, list[str | Path]] = {
        **{f"check {name}": ["check", bundle] for name, bundle in bundles.items()},
        "run": ["run", bundles["digits"], "--inputs", samples],
        "classify int8": ["classify", bundles["digits-int8"], "--inputs", samples, "--top", "1"],
        "classify": ["classify", bundles["classify"], *texts],
        "embed": ["embed", bundles["embed"], *texts],
        "greedy": ["generate", bundles["language"], "--prompt", PROMPT, "--greedy"],
        "drawn": ["generate", bundles["language"], "--prompt", PROMPT, "--seed", "7", "--temperature", "0.9"],
        "beams": ["generate", bundles["language"], "--prompt", PROMPT, "--beams", "2"],
        "greedy int8": ["generate", bundles["language-int8"], "--prompt", PROMPT, "--greedy"],
    }
    asked["bench"] = ["bench", bundles["digits-int8"], "--runs", "5"]
    words = [["pi", *map(str, command), "--threads", "1", "--json"] for command in asked.values()]
    done = subprocess.run(
        aarch64.command([TESTS / "aarch64_commands.py"]), env=aarch64.environment(), input=json.dumps(words),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    answers = {}
    for name, answer in zip(asked, found["answers"], strict=True):
        assert answer["code"] == 0, (name, answer["err"])
        answers[name] = json.loads(answer["out"])
    return Seen(answers, found["modules"], found["machine"])


def test_it_is_arm_and_the_compiler_stays_at_home(seen: Seen) -> None:
    assert seen.machine == "aarch64"
    assert {name.split(".")[0] for name in seen.modules} - MAY_LOAD <= {"__main__", "__mp_main__"}
    rooms = {name.split(".")[1] for name in seen.modules if name.startswith("picoformer.")}
    assert {room for room in rooms if not room.startswith("cli")} <= ROOMS


def test_the_machine_is_made_once(aarch64: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew when what it is made of has changed."""
    made = aarch64.folder / "made.json"
    before = made.stat()
    assert open_machine() == aarch64
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    record = json.loads(made.read_text())
    assert all(any(name.startswith(f"{pin}-") for name in record["files"]) for pin in PINS)
    monkeypatch.setitem(PINS, "click", "0.0.0")

    def no_mirror(_: Path) -> list[Path]:
        raise MachineError("no mirror")

    monkeypatch.setattr(aarch64_machine, "_debian", no_mirror)
    with pytest.raises(MachineError, match="no mirror"):
        open_machine()
    assert made.stat().st_ino == before.st_ino  # what was there stays where the new one cannot be made


@pytest.mark.parametrize("name", ["digits", "digits-int8", "classify", "embed", "language", "language-int8"])
def test_every_bundle_passes_its_check(seen: Seen, name: str) -> None:
    assert seen.answers[f"check {name}"]["passed"]


def test_float_outputs_are_those_of_this_machine(seen: Seen, bundles: dict[str, Path]) -> None:
    runner = open_runner(open_bundle(bundles["digits"]), 1)
    (name,) = trained().test
    results = seen.answers["run"]["results"]
    assert len(results) == len(trained().test[name])
    for sample, there in zip(trained().test[name], results, strict=True):
        (here,) = runner.run({name: sample}).values()
        (value,) = there.values()
        assert np.abs(here - np.array(value)).max() <= CLOSE * np.abs(here).max()


def test_an_int8_classifier_names_the_same_classes(seen: Seen, bundles: dict[str, Path]) -> None:
    runner = open_runner(open_bundle(bundles["digits-int8"]), 1)
    (name,) = trained().test
    here = [runner.classify({name: sample}).label for sample in trained().test[name]]
    assert [result["label"] for result in seen.answers["classify int8"]["results"]] == here
    assert len(set(here)) > 5


def test_texts_are_read_and_answered_alike(seen: Seen, bundles: dict[str, Path]) -> None:
    classifier, embedder = (open_runner(open_bundle(bundles[name]), 1) for name in ("classify", "embed"))
    for at, text in enumerate(TEXTS):
        there = seen.answers["classify"]["results"][at]
        here = classifier.classify(text)
        assert there["label"] == here.label and abs(there["probability"] - here.probability) < CLOSE
        vector = np.array(seen.answers["embed"]["results"][at]["embedding"])
        assert np.abs(vector - embedder.embed(text).vector).max() < CLOSE


@pytest.mark.parametrize(
    ("name", "bundle", "asked"),
    [
        ("greedy", "language", {"greedy": True}),
        ("drawn", "language", {"seed": 7, "temperature": 0.9}),
        ("beams", "language", {"beams": 2}),
        ("greedy int8", "language-int8", {"greedy": True}),
    ],
)
def test_the_same_text_is_written(
    seen: Seen, bundles: dict[str, Path], name: str, bundle: str, asked: dict[str, Any]
) -> None:
    runner = open_runner(open_bundle(bundles[bundle]), 1)
    here = runner.generate(runner.request(prompt=PROMPT, **asked))
    assert seen.answers[name]["tokens"] == list(here.tokens) and len(here.tokens) > 1
    assert seen.answers[name]["text"] == here.text


def test_a_measurement_says_that_it_is_emulated(seen: Seen) -> None:
    """And names no board that it is not."""
    board = seen.answers["bench"]["board"]
    assert board["emulator"].startswith("qemu-aarch64") and board["model"] is None and board["machine"] == "aarch64"


def test_the_server_answers_and_ends(aarch64: Machine, bundles: dict[str, Path]) -> None:
    """As a process of its own: `python -m picoformer pi serve`, a request, SIGTERM."""
    words = ["-m", "picoformer", "pi", "serve", str(bundles["digits-int8"]), "--port", "0", "--threads", "1"]
    runner = open_runner(open_bundle(bundles["digits-int8"]), 1)
    (name,) = trained().test
    process = subprocess.Popen(
        aarch64.command(words), env=aarch64.environment({"PYTHONUNBUFFERED": "1"}), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match is not None
        with Line.to(int(match[1])) as line:
            for sample in trained().test[name][:3]:
                reply = line.ask("POST", "/v1/classify", json.dumps({"inputs": {name: sample.tolist()}}).encode())
                assert reply.value["label"] == runner.classify({name: sample}).label
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors.count(" 200 ") == 3, errors
    finally:
        process.kill()
        process.communicate()
