"""What a Raspberry Pi needs: onnxruntime, numpy, click and tokenizers; one line says what to install for the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pi_models import Bundles, open_bundles
from picoformer.cli_options import BUILD, EXTRAS, missing_extra
from text_models import model_folder

HIDDEN = ("accelerate", "ai_edge_litert", "cobs", "elftools", "flatbuffers", "jinja2", "onnx", "onnx_ir", "onnxscript",
          "pydantic", "rich", "safetensors", "scipy", "sentencepiece", "serial", "sklearn", "torch", "transformers",
          "unicorn")  # fmt: skip
COMPILER = ("backends", "bundling", "compress", "decoder", "emulator", "frontends", "models", "passes", "quantize",
            "reference", "targets", "firmware", "build_folder", "samples")  # fmt: skip
BLOCK = """
import sys
HIDDEN = {hidden!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from picoformer.cli import main
code = 0
try:
    main({words!r}, prog_name="picoformer")
except SystemExit as end:
    code = end.code or 0
rooms = sorted({{name.split(".")[1] for name in sys.modules if name.startswith("picoformer.")}})
heavy = sorted({{name.split(".")[0] for name in sys.modules}} & {{"onnxruntime", "numpy", "tokenizers", *HIDDEN}})
print({mark!r}, rooms, heavy, sep="|", file=sys.stderr)
raise SystemExit(code)
"""
MARK = "loaded"
ROOT = Path(__file__).resolve().parents[1]


def lean(
    *words: str | Path, hidden: tuple[str, ...] = HIDDEN, given: str = ""
) -> tuple[int, str, str, set[str], set[str]]:
    """A command where these libraries are not: (code, output, errors, rooms of ours, libraries that were loaded)."""
    code = BLOCK.format(hidden=hidden, words=[str(word) for word in words], mark=MARK)
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    *errors, last = done.stderr.splitlines()
    mark, rooms, libraries = last.split("|")
    assert mark == MARK, done.stderr
    return done.returncode, done.stdout, "\n".join(errors), set(eval(rooms)), set(eval(libraries))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return open_bundles(tmp_path_factory.mktemp("lean"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny Llama."""
    from picoformer.bundling.options import BundleOptions
    from picoformer.bundling.write import package

    place = tmp_path_factory.mktemp("lean_text")
    package(model_folder(place), place / "bundle", BundleOptions())
    return place / "bundle"


def test_every_command_of_a_pi_runs_without_the_compiler(bundles: Bundles, writer: Path, tmp_path: Path) -> None:
    classifier, embedder = bundles.text_classifier(), bundles.embedder()
    line = '{"inputs": {"input_ids": [[2, 4, 3]], "attention_mask": [[1, 1, 1]]}}\n'
    commands = {
        "classify": (["classify", classifier, "--text", "a good day"], ""),
        "run": (["run", classifier, "--inputs", "-"], line),
        "embed": (["embed", embedder, "--text", "a day", "--text", "a movie", "-o", tmp_path / "v.npz"], ""),
        "generate": (["generate", writer, "--prompt", "The", "--tokens", "4", "--seed", "1", "--stop", "zq"], ""),
        "beams": (["generate", writer, "--prompt", "The", "--tokens", "4", "--beams", "3"], ""),
        "bench": (["bench", classifier, "--runs", "2", "--warm-up", "0", "--threads", "1"], ""),
        "check": (["check", writer], ""),
    }
    for name, (words, given) in commands.items():
        code, out, errors, rooms, _ = lean("pi", *words, *([] if given else ["--json"]), given=given)
        assert code == 0 and errors == "" and json.loads(out), (name, errors)
        assert not rooms & set(COMPILER), (name, rooms & set(COMPILER))
    for name in ("classify", "bench"):  # as tables
        code, out, errors, _, _ = lean("pi", *commands[name][0])
        assert code == 0 and errors == "" and len(out.split()) > 3, (name, errors)


def test_importing_the_room_and_asking_for_help_load_little() -> None:
    code, out, _, rooms, libraries = lean("pi", "--help")
    assert code == 0 and "classify" in out and libraries == set() and "raspberry_pi" not in rooms
    for command in ("run", "classify", "embed", "generate", "bench", "check", "package"):
        code, _, _, rooms, libraries = lean("pi", command, "--help")
        assert code == 0 and libraries == set() and not rooms & set(COMPILER)
    script = "import sys, picoformer.raspberry_pi; print(sorted({m.split('.')[0] for m in sys.modules}))"
    found = eval(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert "numpy" in found and not set(found) & {"onnxruntime", "tokenizers", "click", *HIDDEN}


def test_a_command_that_lacks_an_extra_says_which(bundles: Bundles, tmp_path: Path) -> None:
    classifier = bundles.text_classifier()
    model = bundles.folder / "classifier.onnx"
    asks = {
        "picoformer[pi]": (["pi", "check", classifier], (*HIDDEN, "onnxruntime")),
        "tokenizers is not installed; pip install 'picoformer[pi]'": (
            ["pi", "classify", classifier, "--text", "a"], (*HIDDEN, "tokenizers"),
        ),
        "picoformer[build]": (["pi", "package", model, "-o", tmp_path / "b"], HIDDEN),
        "pip install 'picoformer[build]'": (["quantize", model, "-o", tmp_path / "q"], HIDDEN),
    }  # fmt: skip
    for said, (words, hidden) in asks.items():
        code, _, errors, _, _ = lean(*words, hidden=hidden)
        assert code == 1 and said in errors and len(errors.splitlines()) == 1, errors
    for words in (["inspect", model], ["targets"], ["doctor"]):
        code, _, errors, _, _ = lean(*words)
        assert code == 1 and "pip install 'picoformer[build]'" in errors and len(errors.splitlines()) == 1, errors
    assert list(tmp_path.iterdir()) == []
    assert missing_extra("onnxruntime.capi", "pi") == "pi" and missing_extra("onnxruntime", "verify") == "build"


def test_what_pip_brings_is_what_the_code_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {key: {_name(entry) for entry in entries} for key, entries in extras.items()}
    assert {_name(entry) for entry in project["dependencies"]} == {"click", "numpy"}
    assert names["pi"] == {"onnxruntime", "tokenizers"}
    modules = {"pyelftools": "elftools", "pyserial": "serial"}
    brought = {modules.get(name, name) for name in names["build"]}
    assert brought | {"onnx_ir"} == set(BUILD)  # onnxscript brings onnx_ir
    for key in names.keys() - {"pi", "build"}:
        assert any("build" in entry for entry in extras[key] if entry.startswith("picoformer[")), key
    assert {"build", "pi"} <= set(extras["dev"][0].removeprefix("picoformer[").removesuffix("]").split(","))
    assert set(EXTRAS.values()) <= set(extras)


def _name(requirement: str) -> str:
    for sign in "=<>[":
        requirement = requirement.split(sign)[0]
    return requirement
