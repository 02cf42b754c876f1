"""The import rules of docs/architecture.md, held by reading the source: who may import whom, and what only lazily."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "toolkit" / "picoformer"

FREE = {"errors", "files"}
"""Rooms that anyone may import."""

MAY_IMPORT: dict[str, set[str]] = {
    "ir": set(),
    "ops": {"ir"},
    "frontends": {"ir", "ops"},
    "passes": {"ir", "ops"},
    "quantize": {"ir", "ops"},
    "reference": {"ir", "ops"},
    "backends": {"ir", "ops", "targets", "tokenizers"},
    "tokenizers": set(),
    "models": set(),
    "compress": {"ir", "models", "ops", "metrics"},
    "metrics": set(),
    "datasets": {"metrics"},
    "generation": {"ops"},
    "toml_file": set(),
    "targets": {"toml_file"},
    "compilers": {"targets"},
    "toolchain": {"compilers", "targets"},
    "link_map": set(),
    "link": set(),
    "emulator": {"link", "targets", "toolchain", "compilers"},
    "firmware": {"targets", "toolchain", "compilers", "link_map"},
    "cycles": {"emulator", "targets"},
    "packages": {"backends", "ir", "targets"},
    "recording": {"link"},
    "capture_screen": {"link", "recording"},
    "captured_file": {"link", "recording", "samples"},
    "evaluation_table": {"cli_output"},
    "raspberry_pi": {"generation", "tokenizers"},
    "serving": {"generation", "raspberry_pi"},
    "deployment": {"raspberry_pi"},
    "flash": {"link", "targets"},
}
"""Room → rooms it may import beside itself. Rooms not named orchestrate and may see all of these."""

HOME = {
    "torch": {"models", "compress", "stages"},
    "onnx": {"frontends", "backends", "onnx_backend"},
    "transformers": {"models"},
    "tensorflow": {"backends"},
    "ai_edge_litert": {"backends"},
    "flatbuffers": {"backends"},
    "tflite_micro": {"backends"},
    "esptool": set(),
    "pyocd": set(),
}
"""Library → rooms that may import it at all; `stages` only inside a function."""

LAZY = {"torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "scipy", "sklearn", "rich", "serial", "elftools",
        "jinja2", "safetensors", "tokenizers", "sentencepiece", "sacrebleu", "rouge_score", "transformers",
        "unicorn", "tensorflow", "ai_edge_litert", "flatbuffers", "tflite_micro"}  # fmt: skip
"""Heavy libraries: outside these rooms' files they are imported inside functions only."""

LAZY_HOME = {
    "torch": {"models", "compress"},
    "safetensors": {"models"},
    "onnx": {"frontends", "backends", "onnx_backend"},
    "onnxscript": {"frontends"},
    "onnx_ir": {"frontends"},
    "onnxruntime": set(),
    "rich": {"report"},
    "jinja2": {"report", "backends"},
    "serial": {"link"},
    "elftools": {"emulator"},
}


def room_of(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """(module, at top level, line) of every import that runs: what stands under TYPE_CHECKING does not."""
    tree = ast.parse(path.read_text("utf-8"))

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative import"
                yield child.module or "", top, child.lineno
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top and not inside)

    yield from walk(tree, True)


FILES = sorted(PACKAGE.rglob("*.py"))


def violations(path: Path, room: str) -> list[str]:
    found = []
    for module, top, line in imports(path):
        library = module.split(".")[0]
        place = f"{path.name}:{line}"
        if library == "picoformer":
            parts = module.split(".")
            other = parts[1] if len(parts) > 1 else ""
            if room in MAY_IMPORT and other and other != room and other not in FREE | MAY_IMPORT[room]:
                found.append(f"{place}: {room} imports {other}")
            continue
        if library in HOME and room not in HOME[library]:
            found.append(f"{place}: {library} outside {sorted(HOME[library])}")
        if top and library in LAZY and room not in LAZY_HOME.get(library, set()):
            found.append(f"{place}: {library} is imported when the file is, not when it is needed")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    assert violations(path, room_of(path)) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("ir", "from picoformer.ops import Linear"),
        ("passes", "from picoformer.quantize import quantize"),
        ("quantize", "import torch"),
        ("reference", "from picoformer.backends.c import emit_c"),
        ("pipeline", "import onnx"),
        ("parity", "import onnxruntime"),
        ("compress", "from picoformer.quantize import quantize"),
        ("compress", "from picoformer.reference import run_float"),
        ("flash", "import esptool"),
        ("flash", "from picoformer.emulator.image import read_image"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, room: str, source: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(source)
    assert len(violations(path, room)) >= 1


def test_the_documents_name_every_room() -> None:
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text("utf-8")
    rows = text[text.index("| room |") :].split("\n\n")[0].splitlines()[2:]
    named = {name.split("/")[0].rstrip("*") for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert named == rooms and set(MAY_IMPORT) <= rooms


def test_help_imports_nothing_heavy() -> None:
    """`picoformer --help` must be quick: no heavy library may be loaded by it (the time itself is in benchmarks/)."""
    code = (
        "import sys\n"
        "from picoformer.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'sklearn', 'rich', 'pydantic', 'jinja2', "
        "'ai_edge_litert'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "verify" in done.stdout
