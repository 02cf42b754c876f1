"""Pipelines: every stage runs, then only what changed runs again; faults in the TOML are named by line and key."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import picoformer as api
from command_line import CLASSES, Answer, Workshop, open_workshop, picoformer, refuses, samples, succeeds
from picoformer.compress.distill import distill
from picoformer.compress.factorize import factorize
from picoformer.compress.prune import prune
from picoformer.compress.train import train
from picoformer.models.transformer import Transformer
from picoformer.pipeline import FINETUNING_ROOMS, TRAINING_ROOMS
from picoformer.pipeline_stage import code_hash
from picoformer.stages import make_dataset
from picoformer.targets import resource_root
from picoformer.tokenizers.training import train_tokenizer

TINY = """\
name = "tiny"
output = "out"
seed = 1

[data]
source = "synthetic_signal"

[teacher]
layers = 1
d_model = 16
heads = 2
d_ff = 16

[teacher_training]
epochs = 3
batch = 256

[student]
layers = 1
d_model = 16
heads = 2
d_ff = 16

[distillation]
epochs = 3
batch = 256

[pruning]
head_fraction = 0.5
neuron_fraction = 0.5

[recovery]
epochs = 1
batch = 256

[quantization]
samples = 32

[firmware]
target = "host"

[verification]
samples = 20
"""
STAGES = ["data", "teacher", "student", "pruned", "onnx", "build", "verify", "report"]


def states(answer: Answer) -> dict[str, str]:
    """Stage → what became of it, as the command announced it; a stage that ran says "running"."""
    assert answer.code == 0, answer.err
    return {line.split()[0]: line.split()[1] for line in answer.err.splitlines()}


def ran(answer: Answer) -> list[str]:
    """The stages that ran."""
    found = states(answer)
    assert [name for name in found if name != "finetuned"] in (STAGES, ["onnx", "build", "verify", "report"])
    assert set(found.values()) <= {"running", "unchanged"}
    return [stage for stage, state in found.items() if state == "running"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """The tiny pipeline after its first run, and what that said."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "tiny.toml").write_text(TINY)
    return folder, picoformer("run", folder / "tiny.toml", "--json")


@pytest.fixture
def place(finished: tuple[Path, Answer], tmp_path: Path) -> Iterator[Path]:
    """The finished pipeline's folder, put back afterwards as it was."""
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def test_the_first_run_runs_everything(finished: tuple[Path, Answer]) -> None:
    folder, answer = finished
    assert ran(answer) == STAGES
    record = answer.record
    assert record["passed"] and record["target"] == "host" and record["samples"] == 20
    assert record["links"][0]["from"] == "torch"
    assert {"report.json", "report.html", "model.onnx", "firmware"} <= {
        path.name for path in (folder / "out").iterdir()
    }
    assert succeeds("report", folder / "out", "--json").record == record
    assert not list((folder / "out").rglob(".*"))


def test_the_second_run_runs_nothing_and_is_quick(finished: tuple[Path, Answer]) -> None:
    folder, first = finished
    command = [sys.executable, "-m", "picoformer.cli", "run", str(folder / "tiny.toml"), "--json"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert ran(answer) == [] and answer.record == first.record
    assert seconds < 3, "nothing was to be done"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[verification]\nsamples = 20", "[verification]\nsamples = 10", ["verify", "report"]),
        ('[firmware]\ntarget = "host"', '[firmware]\nprefix = "net"\ntarget = "host"', ["build", "verify", "report"]),
        ("[recovery]\nepochs = 1", "[recovery]\nepochs = 2", STAGES[3:]),
        ("# nothing", "", []),
    ],
)
def test_a_setting_reruns_what_follows_from_it(place: Path, old: str, new: str, expected: list[str]) -> None:
    if old.startswith("#"):
        (place / "tiny.toml").write_text(f"# A comment.\n{TINY}")
    else:
        edit(place / "tiny.toml", old, new)
    assert ran(picoformer("run", place / "tiny.toml")) == expected
    assert ran(picoformer("run", place / "tiny.toml")) == []


@pytest.mark.parametrize(
    ("output", "first"),
    [
        ("report.html", "report"),
        ("verify.json", "verify"),
        ("firmware/build.json", "build"),
        ("firmware/host/firmware.elf", "build"),
        ("test.npz", "onnx"),
    ],
)
@pytest.mark.parametrize("harm", ["deleted", "altered"])
def test_an_output_that_is_not_as_it_was_left_is_made_again(place: Path, output: str, first: str, harm: str) -> None:
    path = place / "out" / output
    whole = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(whole + b"\n")
    assert ran(picoformer("run", place / "tiny.toml"))[0] == first
    assert path.read_bytes() == whole
    assert ran(picoformer("run", place / "tiny.toml")) == []


def test_a_stage_whose_record_is_broken_runs_again(place: Path) -> None:
    (place / "out" / "stages" / "verify.json").write_text("{")
    assert ran(picoformer("run", place / "tiny.toml")) == ["verify"]


def test_the_firmware_folder_may_go(place: Path) -> None:
    shutil.rmtree(place / "out" / "firmware")
    assert ran(picoformer("run", place / "tiny.toml")) == ["build"], "the same bytes again: nothing follows"


def test_the_code_that_a_stage_depends_on_is_there() -> None:
    """A room that has moved must not drop out of the keys: stages would be unchanged whatever became of its code."""
    for rooms in (TRAINING_ROOMS, FINETUNING_ROOMS):
        for room in rooms:
            assert code_hash(rooms) != code_hash(tuple(other for other in rooms if other != room))
    package = Path(api.__file__).parent
    for part in (train_tokenizer, make_dataset, train, distill, prune, factorize, Transformer):
        assert Path(inspect.getfile(part)).relative_to(package).parts[0] in TRAINING_ROOMS
    with pytest.raises(FileNotFoundError, match="attic"):
        code_hash((*TRAINING_ROOMS, "attic.py"))


def test_integers_are_trained_on_the_data_set(place: Path) -> None:
    (place / "tiny.toml").write_text(f"{TINY}\n[qat]\nepochs = 1\nbatch = 256\n")
    done = ran(picoformer("run", place / "tiny.toml"))
    assert ran(picoformer("run", place / "tiny.toml")) == []
    record = json.loads((place / "out" / "stages" / "finetuned.json").read_text())
    # Where training finds nothing better the build is what it was, and nothing is to be verified again.
    verified = ["verify"] if record["figures"]["improved"] else []
    assert done == ["finetuned", "build", *verified, "report"]
    assert record["figures"]["samples"] == 2400 and record["figures"]["steps"] == 10


def test_force_runs_everything(place: Path) -> None:
    assert ran(picoformer("run", place / "tiny.toml", "--force")) == STAGES


def test_the_api_runs_the_same(finished: tuple[Path, Answer]) -> None:
    folder, _ = finished
    before = (folder / "out" / "report.json").stat().st_mtime_ns
    assert api.run(folder / "tiny.toml") == folder / "out"
    assert api.run(str(folder / "tiny.toml")) == folder / "out"
    assert (folder / "out" / "report.json").stat().st_mtime_ns == before


# From an ONNX file.


@pytest.fixture
def ready(tmp_path: Path) -> Workshop:
    """An ONNX model, its samples, and a pipeline that starts from them."""
    shop = open_workshop(tmp_path)
    (tmp_path / "own.toml").write_text(
        'name = "own"\noutput = "out"\n[onnx]\npath = "model.onnx"\ncalibration = "calibration.npz"\n'
        'inputs = "inputs.npz"\n[firmware]\ntarget = "host"\n'
    )
    return shop


def test_a_pipeline_from_onnx_and_a_touched_input(ready: Workshop) -> None:
    toml = ready.folder / "own.toml"
    assert ran(picoformer("run", toml)) == ["onnx", "build", "verify", "report"]
    ready.inputs.touch()
    ready.model.touch()
    assert ran(picoformer("run", toml)) == [], "a new time stamp is no new content"
    np.savez(ready.inputs, x=samples(5, 7))
    assert ran(picoformer("run", toml)) == ["onnx", "verify", "report"]
    np.savez(ready.calibration, x=samples(12, 8))
    assert ran(picoformer("run", toml)) == ["onnx", "build", "verify", "report"]
    ready.inputs.unlink()
    answer = picoformer("run", toml)
    assert answer.code == 1 and "inputs.npz" in answer.err.splitlines()[-1]


def test_integers_are_trained_on_samples_of_their_own(ready: Workshop) -> None:
    toml = ready.folder / "own.toml"
    np.savez(ready.folder / "training.npz", x=samples(40, 9), labels=np.arange(40) % CLASSES)
    edit(toml, 'inputs = "inputs.npz"\n', 'inputs = "inputs.npz"\ntraining = "training.npz"\n')
    refuses(["run", toml], "[onnx] training is for [qat]")
    toml.write_text(toml.read_text() + '[quantization]\nscheme = "int4x8"\n[qat]\nepochs = 2\nsoft_weight = 0.9\n')
    answer = picoformer("run", toml, "--json")
    assert ran(answer) == ["onnx", "finetuned", "build", "verify", "report"]
    assert answer.record["scheme"] == "int4x8"
    built, trained = (
        (ready.folder / "out" / name / "graph.npz").read_bytes() for name in ("firmware/quantized", "quantized")
    )
    assert built == trained
    assert ran(picoformer("run", toml)) == []
    edit(toml, 'target = "host"', 'target = "host"\nprefix = "mine"')
    assert ran(picoformer("run", toml)) == ["build", "verify", "report"], "training is not repeated for another prefix"
    edit(toml, "soft_weight = 0.9", "soft_weight = 0.5")
    assert ran(picoformer("run", toml))[0] == "finetuned"
    (ready.folder / "training.npz").unlink()
    assert "training.npz: no such file" in picoformer("run", toml).err.splitlines()[-1]
    edit(toml, '"int4x8"', '"float32"')
    refuses(["run", toml], "[qat] needs integers to train")


@pytest.mark.usefixtures("arm_tools")
def test_a_target_file_lies_beside_the_pipeline(ready: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    board = ready.folder / "board.toml"
    board.write_text((resource_root("targets") / "mps2-an386.toml").read_text().replace("mps2-an386", "mine", 1))
    edit(board, 'name = "mps2-an386"', 'name = "mine"') if 'name = "mps2-an386"' in board.read_text() else None
    edit(ready.folder / "own.toml", '"host"', '"board.toml"')
    monkeypatch.chdir("/")
    answer = picoformer("run", ready.folder / "own.toml", "--json")
    assert answer.code == 0, answer.err
    assert answer.record["target"] == "mine"
    assert ran(picoformer("run", ready.folder / "own.toml")) == []
    edit(board, "stack_bytes = 4096", "stack_bytes = 8192")
    assert "build" in ran(picoformer("run", ready.folder / "own.toml"))


def test_a_stage_that_fails_keeps_what_was_there(ready: Workshop) -> None:
    toml = ready.folder / "own.toml"
    succeeded = picoformer("run", toml)
    assert succeeded.code == 0
    before = {p: p.read_bytes() for p in (ready.folder / "out" / "firmware").rglob("*") if p.is_file()}
    good = ready.calibration.read_bytes()
    np.savez(ready.calibration, x=np.full_like(samples(), np.nan))
    answer = picoformer("run", toml)
    assert answer.code == 1 and answer.out == ""
    last = answer.err.splitlines()[-1]
    assert last.startswith("picoformer: ") and "NaN" in last and "Traceback" not in answer.err
    assert {p: p.read_bytes() for p in (ready.folder / "out" / "firmware").rglob("*") if p.is_file()} == before
    ready.calibration.write_bytes(good)
    assert "build" in ran(picoformer("run", toml))


# The TOML.


FAULTS = {
    "unknown section": ("[firmware]", "[firmwear]", "tiny.toml:", "'firmwear'"),
    "unknown key": ("d_model = 16", "d_modell = 16", "tiny.toml:10", "'teacher.d_modell'", "d_model"),
    "unknown key of training": ("epochs = 3", "epoch = 3", "tiny.toml:15", "epoch"),
    "bad value": ("layers = 1", "layers = 0", "tiny.toml:9", "teacher.layers", "0"),
    "bad type": ("epochs = 3", 'epochs = "many"', "tiny.toml:15", "epochs", "many"),
    "out of range": ("head_fraction = 0.5", "head_fraction = 1.5", "tiny.toml:29", "head_fraction", "1.5"),
    "not TOML": ("layers = 1", "layers = = 1", "tiny.toml", "line 9"),
    "missing section": (TINY[TINY.index("[student]") : TINY.index("[distillation]")], "", "tiny.toml", "student"),
    "missing key": ("heads = 2\n", "", "tiny.toml:8", "teacher.heads"),
    "unknown target": ('target = "host"', 'target = "hoast"', "tiny.toml: [firmware] target", "hoast", "mps2-an386"),
    "unknown data": ('"synthetic_signal"', '"cats"', "cats", "digits"),
    "absent data": ('"synthetic_signal"', '"absent.npz"', "absent.npz"),
    "recovery from scratch": ("epochs = 1\n", "epochs = 1\ninit_from_teacher = true\n", "[recovery]", "would undo"),
    "heads that do not divide": ("heads = 2", "heads = 3", "tiny.toml:11", "teacher", "d_model", "3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_file(tmp_path: Path, fault: str) -> None:
    old, new, *said = FAULTS[fault]
    toml = tmp_path / "tiny.toml"
    toml.write_text(TINY)
    edit(toml, old, new)
    answer = picoformer("run", toml)
    last = answer.err.splitlines()[-1]
    assert answer.code == 1 and answer.out == "" and "Traceback" not in answer.err
    assert last.startswith("picoformer: ") and "fault of this program" not in last, last
    for text in said:
        assert text in last, f"{text!r} is not in {last!r}"
    assert not list((tmp_path / "out").glob("*.*")), "nothing was made"


def test_files_that_are_no_pipeline(tmp_path: Path) -> None:
    refuses(["run", tmp_path / "absent.toml"], "absent.toml")
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    refuses(["run", tmp_path / "binary.toml"], "binary.toml", "TOML")
    (tmp_path / "empty.toml").write_text("")
    refuses(["run", tmp_path / "empty.toml"], "empty.toml", "name")


def test_a_missing_tool_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    refuses(["run", tmp_path / "tiny.toml"], "gcc is not installed", "apt-get install gcc")
    assert not list((tmp_path / "out").glob("*.npz"))


# Single training commands, and Ctrl-C.


def test_training_commands_make_what_the_pipeline_makes(finished: tuple[Path, Answer], tmp_path: Path) -> None:
    folder, _ = finished
    out, config = folder / "out", ("--config", folder / "tiny.toml", "--json")
    data, teacher, student = tmp_path / "data.npz", tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    succeeds("dataset", "synthetic_signal", "--seed", "1", "-o", data)
    assert data.read_bytes() == (out / "data.npz").read_bytes()
    commands: dict[str, list[str | Path]] = {
        "teacher": ["train", data, "-o", teacher],
        "student": ["distill", teacher, data, "-o", student],
        "pruned": ["prune", student, data, "--teacher", teacher, "-o", tmp_path / "pruned.safetensors"],
    }
    for name, words in commands.items():
        record = succeeds(*words, *config).record
        kept = json.loads((out / "stages" / f"{name}.json").read_text())["figures"]
        assert record == kept, name


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    assert process.poll() is None, "it ended before it could be interrupted"


def test_ctrl_c_while_training(tmp_path: Path) -> None:
    toml, out = tmp_path / "tiny.toml", tmp_path / "out"
    toml.write_text(re.sub(r"epochs = 3", "epochs = 100000", TINY, count=1))
    command = [sys.executable, "-m", "picoformer.cli", "run", str(toml)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(process, lambda: (out / "stages" / "data.json").is_file())
    time.sleep(2.0)
    os.killpg(process.pid, signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 130 and said == ""
    assert err.splitlines() == [
        "data       running", "teacher    running", "picoformer: stopped; nothing half-written is left"
    ]  # fmt: skip
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["data.json", "data.npz"]
    toml.write_text(TINY)
    assert ran(picoformer("run", toml)) == STAGES[1:]


TEACHER = TINY[TINY.index("[teacher]") : TINY.index("[student]")]


@pytest.mark.parametrize("form", ["checkpoint", "onnx"])
def test_a_teacher_that_exists_teaches(finished: tuple[Path, Answer], tmp_path: Path, form: str) -> None:
    made = finished[0] / "out" / "teacher.safetensors"
    if form == "checkpoint":
        given = tmp_path / "mine.safetensors"
        shutil.copy(made, given)
    else:
        given = tmp_path / "mine.onnx"
        succeeds("export", made, "--format", "onnx", "--scheme", "float32", "-o", given)
    text = TINY.replace(TEACHER, f'[teacher]\npath = "{given.name}"\n\n')
    (tmp_path / "taken.toml").write_text(text)
    answer = picoformer("run", tmp_path / "taken.toml", "--json")
    assert ran(answer) == STAGES
    teacher, trained = answer.record["stages"][0], finished[1].record["stages"][0]
    assert teacher["name"] == "teacher" and teacher["accuracy"] == trained["accuracy"]
    assert teacher["parameters"] == (trained["parameters"] if form == "checkpoint" else None)
    student = (tmp_path / "out" / "student.safetensors").read_bytes()
    if form == "checkpoint":
        assert student == (finished[0] / "out" / "student.safetensors").read_bytes(), (
            "the same teacher, the same student"
        )
    assert ran(picoformer("run", tmp_path / "taken.toml")) == []
    edit(tmp_path / "taken.toml", "[student]", "[teacher_training]\nepochs = 1\n\n[student]")
    refuses(["run", tmp_path / "taken.toml"], "[teacher_training] has nothing to train")


def test_a_teacher_of_other_data_is_refused(tmp_path: Path, finished: tuple[Path, Answer]) -> None:
    text = TINY.replace(TEACHER, '[teacher]\npath = "other.safetensors"\n\n')
    (tmp_path / "taken.toml").write_text(text)
    refuses(["run", tmp_path / "taken.toml"], "[teacher] names", "other.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    answer = picoformer("run", tmp_path / "taken.toml")
    assert answer.code == 1 and "not a safetensors file" in answer.err.splitlines()[-1]
    assert not (tmp_path / "out" / "teacher.safetensors").exists()
    edit(tmp_path / "taken.toml", "other.safetensors", "other.txt")
    refuses(["run", tmp_path / "taken.toml"], "path")
