"""The commands when all is well: their results on files, their JSON, the Python API's equal answers, and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

import picoformer as api
from command_line import CLASSES, SAMPLES, Workshop, open_workshop, picoformer, samples, succeeds
from onnx_models import run_onnxruntime
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.cli import main
from picoformer.ops.graph_file import graph_identity, load_graph

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("commands"))


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# Help and usage.


def test_help_of_every_command_says_what_it_does() -> None:
    for name, command in main.commands.items():
        text = succeeds(name, "--help").out
        assert command.help and command.help.rstrip().endswith((".", ")")), name
        assert name in succeeds("--help").out
        short = command.get_short_help_str(limit=200)
        assert not short.endswith("...") and len(short) <= 62, f"{name}: {short}"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in text and option.help, f"{name} {option.opts[0]} has no help"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Commands:"),
        (["build"], "Missing argument 'MODEL'"),
        (["build", "m.onnx", "-o", "x"], "Missing option '--target'"),
        (["build", "m.onnx", "--target", "host"], "Missing option '-o'"),
        (["verify", "folder"], "Missing option '--inputs'"),
        (["run"], "Missing argument 'PIPELINE_FILE'"),
        (["build", "m.onnx", "--target", "host", "-o", "x", "--scheme", "int3"], "'int3' is not one of"),
        (["biuld"], "No such command 'biuld'"),
        (["build", "--tarjet", "host"], "No such option"),
    ],
)
def test_usage(words: list[str], said: str) -> None:
    answer = picoformer(*words)
    assert answer.code == 2 and answer.out == ""
    assert said in answer.err and "Traceback" not in answer.err


# Results.


LINK = {
    "from": str, "to": str, "equal": (bool, type(None)), "max_abs": (float, type(None)),
    "cosine": (float, type(None)), "sqnr_db": (float, type(None)), "top1_agreement": (float, type(None)),
}  # fmt: skip


@pytest.mark.parametrize("target", ["host", "mps2-an386"])
@pytest.mark.parametrize("scheme", ["int8", "float32"])
def test_verify_json_has_the_promised_keys(
    shop: Workshop, target: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    if target != "host":
        request.getfixturevalue("arm_tools")
    answer = succeeds("verify", shop.build(target, "--scheme", scheme), "--inputs", shop.inputs, "--json")
    record = strict(answer.out)
    measured = target != "host"
    assert record["model"] == "model" and record["scheme"] == scheme and record["target"] == target
    assert record["samples"] == SAMPLES and type(record["macs"]) is int and record["macs"] > 0
    assert record["passed"] is True and record["failures"] == []
    for link in record["links"]:
        for key, kind in LINK.items():
            assert isinstance(link[key], kind), (key, link)
    devices = ["host", target] if measured else ["host"]
    last = "reference" if scheme == "int8" else "float graph"
    ends = [(link["from"], link["to"]) for link in record["links"]]
    for name in devices:
        assert (last, name) in ends
        if scheme == "int8":
            assert record["links"][ends.index((last, name))]["equal"] is True
        last = name
    assert ends[0] == ("float onnx", "float graph")
    assert set(record["instructions"]) == {"per_inference", "per_operator"}
    count = record["instructions"]["per_inference"]
    assert type(count) is int and count > record["macs"] if measured else count is None
    for row in record["instructions"]["per_operator"]:
        assert type(row["instructions"]) is (int if measured else type(None))
    for key, names in (
        ("ram_bytes", ("arena", "stack", "data", "total")),
        ("flash_bytes", ("model", "code", "total")),
    ):
        assert set(names) <= set(record[key])
        for name in names:
            known = measured or (key, name) == ("ram_bytes", "arena")
            assert type(record[key][name]) is (int if known else type(None)), (key, name)
        if measured:
            assert record[key]["total"] == sum(record[key][name] for name in names[:-1])
    assert set(record["accuracy"]) >= {"float onnx", target}


def test_every_json_is_json_and_nothing_else(shop: Workshop, tmp_path: Path) -> None:
    calibration = ("--calibration", shop.calibration)
    commands: dict[str, list[str | Path]] = {
        "build": shop.build_words(tmp_path / "b"),
        "verify": ["verify", tmp_path / "b", "--inputs", shop.inputs, "--samples", "2"],
        "emulate": ["emulate", tmp_path / "b", "--inputs", shop.inputs, "-o", tmp_path / "y.npz"],
        "quantize": ["quantize", shop.model, *calibration, "-o", tmp_path / "q"],
        "onnx": ["export", shop.model, *calibration, "-o", tmp_path / "q.onnx"],
        "c": ["export", shop.model, *calibration, "--format", "c", "-o", tmp_path / "c"],
        "inspect": ["inspect", shop.model],
        "targets": ["targets"],
        "dataset": ["dataset", "synthetic_signal", "-o", tmp_path / "d.npz"],
    }
    found = {name: strict(succeeds(*words, "--json").out) for name, words in commands.items()}
    assert found["build"]["arena_bytes"] >= found["build"]["arena_lower_bound_bytes"] > 0
    assert found["verify"]["samples"] == 2
    assert found["emulate"]["samples"] == SAMPLES
    assert found["quantize"]["parameter_bytes"] < found["quantize"]["float_parameter_bytes"]
    assert found["onnx"]["bytes"] == (tmp_path / "q.onnx").stat().st_size
    assert found["c"]["weights_bytes"] > 0 and (tmp_path / "c" / "src" / "model.c").is_file()
    assert [row["name"] for row in found["inspect"]["operators"]][-1] in found["inspect"]["outputs"]
    assert {"host", "mps2-an386"} <= {row["name"] for row in found["targets"]}
    assert found["dataset"]["train"] > 0
    doctor = picoformer("doctor", "--json")
    tools = {tool["name"]: tool for tool in strict(doctor.out)["tools"]}
    assert tools["gcc"]["found"] and tools["gcc"]["mend"].startswith("sudo apt-get")
    for name, words in commands.items():
        assert succeeds(*words).out.strip(), name


def test_a_process_of_its_own_says_nothing_more(shop: Workshop, tmp_path: Path) -> None:
    """C libraries and child processes write past Python's streams: look from outside."""
    succeeds(*shop.build_words(tmp_path / "b"))
    words = ["verify", tmp_path / "b", "--inputs", shop.inputs, "--json"]
    done = subprocess.run([sys.executable, "-m", "picoformer.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert strict(done.stdout)["passed"]


def test_doctor_exits_with_1_when_nothing_can_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PICOFORMER_TOOLCHAIN", "gcc")  # what zig could do does not count then
    answer = picoformer("doctor")
    assert answer.code == 1
    assert "MISSING gcc " in answer.out and "apt-get install gcc" in answer.out
    assert "\nhost: not possible: gcc is not installed; get it with: sudo apt-get install gcc libc6-dev\n" in answer.out
    record = strict(picoformer("doctor", "--json").out)
    assert not record["ready"]
    assert not {tool["name"]: tool for tool in record["tools"]}["gcc"]["found"]


def test_doctor_lists_what_flashes_and_what_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tools() -> dict[str, Any]:
        return {tool["name"]: tool for tool in strict(picoformer("doctor", "--json").out)["tools"]}

    found = tools()
    assert "esptool v" in found["esptool"]["found"] and "cmake version" in found["cmake"]["found"]
    assert found["ai-edge-litert"]["found"] and "tensorflow" in found
    (tmp_path / "bossac").write_text(
        "#!/bin/sh\necho 'Usage: bossac'\necho 'Some Application Version 1.9.1-arduino2'\n"
    )
    (tmp_path / "bossac").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = tools()
    assert found["bossac"]["found"] == "Some Application Version 1.9.1-arduino2"
    assert found["pyocd"]["found"] == "" and found["pyocd"]["mend"] == "pip install pyocd"
    assert found["cmake"]["found"] == "" and found["cmake"]["mend"] == "sudo apt-get install cmake"


def test_doctor_says_which_tools_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = picoformer("doctor")
    assert answer.code == 0
    assert "MISSING arm-none-eabi-gcc " in answer.out
    assert re.search(r"^host: built by zig 0\.\S+ \(clang version \S+\), run as a process$", answer.out, re.MULTILINE)
    assert re.search(r"^.*mps2-an386.*: built by zig 0\..*, run in unicorn$", answer.out, re.MULTILINE)
    ways = {way["target"]: way for way in strict(picoformer("doctor", "--json").out)["targets"]}
    assert ways["mps2-an386"]["emulator"] == "unicorn"
    for name, way in ways.items():
        assert ("QEMU only" in way["problem"]) == (name == "mps3-an547"), way


def test_emulated_outputs_are_the_reference(shop: Workshop, tmp_path: Path) -> None:
    build = shop.build("host")
    succeeds("emulate", build, "--inputs", shop.inputs, "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as archive:
        assert archive.files == ["y"]
        values = archive["y"]
    assert values.shape == (SAMPLES, 1, CLASSES) and values.dtype == np.float32
    expected = run_onnxruntime(shop.model, {"x": samples()[:, None]})
    assert np.abs(values - expected).max() < 0.2 * np.abs(expected).max()
    succeeds("emulate", build, "--inputs", shop.inputs, "-o", tmp_path / "y.npz", "--samples", "2")
    with np.load(tmp_path / "y.npz") as archive:
        assert np.array_equal(archive["y"], values[:2])


def test_exported_onnx_runs(shop: Workshop, tmp_path: Path) -> None:
    words: list[str | Path] = ["export", shop.model, "--calibration", shop.calibration]
    for scheme, tolerance in (("float32", 1e-5), ("int8", 0.2)):
        out = tmp_path / f"{scheme}.onnx"
        succeeds(*words, "--scheme", scheme, "-o", out)
        onnx.checker.check_model(onnx.load(out))
        expected = run_onnx(shop.model, {"x": samples()[:, None]})["y"]
        found = run_onnx(out, {"x": samples()[:, None]})["y"]
        assert np.abs(found.reshape(expected.shape) - expected).max() < tolerance * np.abs(expected).max()


def test_building_twice_gives_the_same_bytes(shop: Workshop, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    words = shop.build_words(tmp_path / "b")
    succeeds(*words)
    first = contents(tmp_path / "b")
    succeeds(*words)
    second = contents(tmp_path / "b")
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name] and not name.endswith(".map")] == []
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


# The Python API.


def test_the_api_with_paths_and_with_arrays(shop: Workshop, tmp_path: Path) -> None:
    arrays = {"x": samples(12, 1)}
    succeeds(*shop.build_words(tmp_path / "command"))
    by_path = api.build(shop.model, calibration=shop.calibration, out=tmp_path / "path")
    by_array = api.build(str(shop.model), calibration=arrays, out=str(tmp_path / "array"))
    for build in (by_path, by_array):
        for name in ("quantized/graph.json", "quantized/graph.npz", "host/source/model.c", "build.json"):
            assert (build.folder / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name
    inputs = {"x": samples(), "labels": np.arange(SAMPLES) % CLASSES}
    said = strict(succeeds("verify", tmp_path / "command", "--inputs", shop.inputs, "--json").out)
    assert api.verify(by_path.folder, inputs=inputs).to_json() == said
    assert api.verify(str(by_array.folder), inputs=str(shop.inputs)).to_json() == said
    graph = api.quantize_model(shop.model, calibration=arrays)
    assert graph_identity(graph) == graph_identity(load_graph(tmp_path / "command" / "quantized"))
    words: list[str | Path] = ["export", shop.model, "--calibration", shop.calibration, "-o"]
    succeeds(*words, tmp_path / "command.onnx")
    api.export(shop.model, calibration=arrays, scheme="int8", out=tmp_path / "api.onnx")
    assert (tmp_path / "api.onnx").read_bytes() == (tmp_path / "command.onnx").read_bytes()


def test_the_api_takes_a_module_and_its_checkpoint(tmp_path: Path) -> None:
    from picoformer.compress.train import evaluate
    from picoformer.models.checkpoint import save_checkpoint
    from picoformer.models.config import TransformerConfig
    from picoformer.models.transformer import Transformer

    config = TransformerConfig.uniform(1, 2, 16, 8, input_size=4, sequence=5, classes=3)
    module = Transformer(config, seed=1).eval()
    save_checkpoint(module, tmp_path / "model.safetensors")
    inputs = {"x": np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)}
    by_object = api.build(module, calibration=inputs, out=tmp_path / "object")
    by_file = api.build(tmp_path / "model.safetensors", calibration=inputs, out=tmp_path / "file")
    assert graph_identity(by_object.graph) == graph_identity(by_file.graph)
    labels = np.arange(8) % 3
    answers = {**inputs, "labels": labels}
    found = api.verify(by_file.folder, inputs=answers, checkpoint=tmp_path / "model.safetensors")
    assert found.report.passed and found.report.links[0].source == "torch"
    assert found.accuracy["torch"] == evaluate(module, inputs["x"], labels) and "host" in found.accuracy
    np.savez(tmp_path / "c.npz", **inputs)
    words = ["--calibration", tmp_path / "c.npz", "--target", "host", "-o", tmp_path / "command"]
    succeeds("build", tmp_path / "model.safetensors", *words)
    weights = "host/source/weights.c"
    assert (tmp_path / "command" / weights).read_bytes() == (by_file.folder / weights).read_bytes()


def test_the_api_raises_what_the_commands_say(shop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(api.PicoformerError, match="no array 'x'"):
        api.build(shop.model, calibration={"z": samples()}, out=tmp_path / "out")
    with pytest.raises(api.PicoformerError, match="scheme"):
        api.build(shop.model, calibration=shop.calibration, scheme="int3", out=tmp_path / "out")
    with pytest.raises(api.PicoformerError, match="form"):
        api.export(shop.model, calibration=shop.calibration, form="pdf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Ctrl-C, and what a terminal shows.


def interrupt(words: list[str | Path], ready: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command and press Ctrl-C when `ready`'s folder holds something temporary, or after `seconds`."""
    command = [sys.executable, "-m", "picoformer.cli", *map(str, words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not any(ready.glob(".*")):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize("earlier", [False, True])
def test_ctrl_c_in_a_build(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "cache"))  # an empty one: compiling takes its time
    place = tmp_path / "place"
    place.mkdir()
    if earlier:
        shutil.copytree(shop.build("host"), place / "out")
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    done = interrupt(shop.build_words(place / "out"), place, 60)
    assert done.returncode == 130, done
    assert done.stderr.splitlines() == ["picoformer: stopped; nothing half-written is left"]
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
    assert list(place.iterdir()) == ([place / "out"] if earlier else [])


def on_a_terminal(words: list[str | Path]) -> tuple[int, str, str]:
    """Run a command whose standard error is a terminal: (exit code, standard output, what the terminal got)."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "picoformer.cli", *map(str, words)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end is an input/output error
        while chunk := os.read(controller, 65536):
            shown += chunk
    os.close(controller)
    assert process.stdout is not None
    with process.stdout as stream:
        out = stream.read().decode()
    return process.wait(), out, shown.decode()


def test_progress_on_a_terminal_and_nothing_of_it_in_the_result(shop: Workshop, tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", x=samples(400))
    code, out, shown = on_a_terminal(["verify", shop.build("host"), "--inputs", tmp_path / "many.npz", "--json"])
    assert code == 0 and strict(out)["passed"]
    assert "running on host" in shown and "%" in shown
    code, out, shown = on_a_terminal([*shop.build_words(tmp_path / "b"), "--json"])
    assert code == 0 and strict(out)["model"] == "model"
    assert "calibrating" in shown and "building" in shown


def test_an_interrupt_inside_an_import_still_exits_with_130(tmp_path: Path) -> None:
    """The interpreter remembers an interrupt in executed text (dataclasses and named tuples make some) as unhandled."""
    example = Path(__file__).resolve().parents[1] / "examples" / "digits" / "pipeline.toml"
    (tmp_path / "interrupted.py").write_text(
        "import picoformer.pipeline\n"
        "def interrupted(*_):\n"
        "    exec('import os, signal; os.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass')\n"
        "picoformer.pipeline.run_pipeline = interrupted\n"
        "from picoformer.cli import main\n"
        f"main(['run', {str(example)!r}])\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (130, "picoformer: stopped; nothing half-written is left")
