"""Every way a model goes out, each run by software that is not ours, into doors.md and doors.json:

    picoformer run examples/digits/pipeline.toml
    picoformer run examples/tiny-gpt/pipeline.toml
    python benchmarks/doors.py [DIGITS] [TINY_GPT]

DIGITS and TINY_GPT are the folders that those runs left (examples/…/build). The reference encoder is trained here, in
seconds. Each file is run on all samples, and set beside our own numbers and beside the float model. Four minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from door_forms import (
    BOUND,
    C_SCHEMES,
    COMPARED,
    DIGITS,
    FIGURES,
    FLOAT,
    FLOAT_ONNX,
    ONNX,
    OPTIMIZED,
    PLAIN,
    REASONS,
    REFUSED,
    TFLITE,
    TFLITE_RUNTIMES,
    TINY_GPT,
    VARIANTS,
    OnnxForm,
    c_runtimes,
)
from door_models import Classifier, Language, OptimizedSession, Subject
from door_page import page
from models import REFERENCE, prepare

from picoformer.backends.onnx.export import export_onnx
from picoformer.backends.onnx.runtime import OnnxSession
from picoformer.build_folder import Build
from picoformer.config import load_pipeline
from picoformer.datasets import synthetic_signal
from picoformer.exporting_tflite import provenance
from picoformer.files import atomic_write_text, file_hash
from picoformer.ir import Graph
from picoformer.parity import compare
from picoformer.qdq_comparison import compare_qdq
from picoformer.quantize import QuantizeSettings
from picoformer.targets import load_target

HERE = Path(__file__).parent
ROOT = HERE.parent
TRACKED = HERE / "doors.json"


def subjects(digits: Path, tiny_gpt: Path, folder: Path) -> Iterator[Subject]:
    """The three models."""
    chosen = load_pipeline(ROOT / "examples" / "digits" / "pipeline.toml").file
    calibration, test = (np.load(digits / name)["x"] for name in ("calibration.npz", "test.npz"))
    settings = chosen.quantization.settings()
    yield Classifier(DIGITS, digits / "model.onnx", calibration, test, len(test), settings, folder)
    encoder, signals = prepare(REFERENCE, folder), synthetic_signal(0).x_test
    yield Classifier(
        REFERENCE, encoder.onnx, encoder.calibration, signals, len(encoder.test), QuantizeSettings(), folder
    )
    text = load_pipeline(ROOT / "examples" / "tiny-gpt" / "pipeline.toml").file
    yield Language(
        TINY_GPT, tiny_gpt / "student.safetensors", tiny_gpt / "data.npz", text.quantization.samples, text.seed,
        text.quantization.settings(), folder,
    )  # fmt: skip


class Matrix:
    """The rows of one model, found one after another."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.rows: list[dict[str, Any]] = []
        self._builds: dict[str, Build] = {}
        self._ours: dict[str, np.ndarray] = {}
        self._truth = subject.ours(self._build(FLOAT).float_graph)

    def measure(self) -> list[dict[str, Any]]:
        """All of them."""
        for form in ONNX[self.subject.name]:
            self._onnx(form)
        for name, scheme in TFLITE.items():
            self._tflite(name, scheme)
        for scheme in C_SCHEMES[self.subject.name]:
            self._c(scheme)
        return self.rows

    def float_file(self) -> Path:
        """The ONNX file that `export --scheme float32` writes."""
        return self._file(FLOAT_ONNX)

    def _build(self, scheme: str) -> Build:
        if scheme not in self._builds:
            self._builds[scheme] = self.subject.build(scheme)
        return self._builds[scheme]

    def _reference(self, scheme: str) -> np.ndarray:
        if scheme not in self._ours:
            self._ours[scheme] = self.subject.ours(self._build(scheme).graph)
        return self._ours[scheme]

    def _file(self, form: OnnxForm) -> Path:
        build, out = self._build(form.scheme), self.folder / f"{self.subject.name} {form.name}.onnx"
        source = build.float_onnx
        export_onnx(build.graph, out, provenance(source.name, file_hash(source), form.scheme), spelling=form.spelling)
        return out

    def _onnx(self, form: OnnxForm) -> None:
        file, graph = self._file(form), self._build(form.scheme).graph
        ours = self._reference(form.scheme)
        for runtime, session in ((PLAIN, OnnxSession(file)), (OPTIMIZED, OptimizedSession(file, form.entries))):
            found = self.subject.onnx(session, graph)
            self._row(form.name, runtime, graph, ours, found, file.stat().st_size)

    def _tflite(self, form: str, scheme: str) -> None:
        if (self.subject.name, form) in REFUSED:
            self._blank(form)
            return
        file = self.folder / f"{self.subject.name} {scheme}.tflite"
        graph = self.subject.write_tflite(scheme, file)
        ours = self.subject.ours(graph)
        for runtime, name in TFLITE_RUNTIMES.items():
            found = self.subject.tflite(file, graph, runtime)  # type: ignore[arg-type]
            self._row(form, name, graph, ours, found, file.stat().st_size)

    def _c(self, scheme: str) -> None:
        build, ours = self._build(scheme), self._reference(scheme)
        verified = self.subject.verify(build)
        if not verified.report.passed:
            raise SystemExit(f"{self.subject.name}, C {scheme}: {verified.report.failures[0]}")
        boards = (load_target("host"), build.target)
        for runtime, board in zip(c_runtimes(self.subject.name), boards, strict=True):
            # Integers were compared step by step, byte for byte: they are the reference's.
            found = self.subject.on_device(build, board) if scheme == FLOAT else ours[: self.subject.on_devices]
            size = None if board.is_host else verified.report.flash.total
            self._row(f"C {scheme}", runtime, build.graph, ours, found, size)

    def _row(
        self, form: str, runtime: str, graph: Graph, ours: np.ndarray, found: np.ndarray, size: int | None
    ) -> None:
        quant, truth = graph.types[graph.ports[1][0]].quant, self._truth[: len(found)]
        step = None if quant is None else quant.per_tensor_scale
        to_ours = compare("ours", runtime, ours[: len(found)], found, step)
        to_float = compare("float", runtime, truth, found)
        row = {
            "model": self.subject.name,
            "form": form,
            "runtime": runtime,
            "samples": len(found),
            "largest": to_ours.max_abs,
            "largest_steps": None if step is None or to_ours.max_abs is None else to_ours.max_abs / step,
            "same_as_ours": to_ours.top1_agreement,
            "same_as_float": to_float.top1_agreement,
            "margin_ours": margin(ours[: len(found)], found),
            "margin_float": margin(truth, found),
            "sqnr_db": to_float.sqnr_db,
            "bytes": size,
        }
        shares = (to_ours.top1_agreement, to_float.top1_agreement)
        if any(share is None or share < BOUND for share in shares):
            row["reason"] = REASONS.get((self.subject.name, form))
        self.rows.append(row)
        print(f"{self.subject.name}, {form}, {runtime}: {json.dumps(row)}", file=sys.stderr, flush=True)

    def _blank(self, form: str) -> None:
        nothing = dict.fromkeys(FIGURES)
        reason = REFUSED[self.subject.name, form]
        self.rows.append({"model": self.subject.name, "form": form, "runtime": "–", **nothing, "reason": reason})


def margin(truth: np.ndarray, found: np.ndarray) -> float | None:
    """How far apart `truth` has its label and the one that was found, the most of all samples where they are not the
    same; None where all are."""
    rows = np.arange(len(truth))
    apart = truth.argmax(axis=1) != found.argmax(axis=1)
    lead = truth.max(axis=1) - truth[rows, found.argmax(axis=1)]
    return float(lead[apart].max()) if apart.any() else None


def quantized_by_onnxruntime(subject: Classifier, file: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """What onnxruntime's quantize_static makes of our float file, operator by operator beside our integers of it."""
    sys.path.append(str(ROOT / "tests"))
    from onnxruntime_quantizer import EIGHT_BITS, SIXTEEN_BITS, quantized

    calibration = {name: value[:128] for name, value in subject.calibration.items()}
    inputs = {name: value[:COMPARED] for name, value in subject.inputs.items()}
    logging.disable(logging.WARNING)  # it says of each file that another kind of file would be faster
    for variant in VARIANTS:
        options = {**EIGHT_BITS, **SIXTEEN_BITS}[variant]
        path = quantized(file, folder / f"{subject.name} {variant}.onnx", calibration, **options)
        found = compare_qdq(path, inputs)
        inner = [row.within_one for row in found.rows if row.inner]
        yield {
            "model": subject.name,
            "variant": variant,
            "bits": 16 if variant in SIXTEEN_BITS else 8,
            "samples": found.samples,
            "within_one": found.within_one,
            "least": found.least.within_one,
            "least_operator": found.least.operator,
            "largest_steps": max(row.largest for row in found.rows if not row.inner),
            "inner_within_one": min(inner) if inner else None,
            "sqnr_db": found.sqnr_db,
            "agreement": found.agreement,
        }


def tools() -> dict[str, str]:
    """What ran the files, and its version."""
    packages = {"onnxruntime": "onnxruntime", "LiteRT": "ai-edge-litert", "TensorFlow": "tensorflow",
                "TFLite Micro": "tflite-micro"}  # fmt: skip
    from run import version_of

    found = {name: importlib.metadata.version(package) for name, package in packages.items()}
    boards = {"this machine": load_target("host"), "Cortex-M": load_target("mps2-an386")}
    found |= {f"compiler, {name}": version_of(board.toolchain.program) for name, board in boards.items()}
    emulator = boards["Cortex-M"].emulator
    assert emulator is not None
    return {**found, "emulator": version_of(emulator.program)}


def measure(digits: Path, tiny_gpt: Path) -> dict[str, Any]:
    """All figures of the page."""
    rows: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    samples = {}
    with tempfile.TemporaryDirectory() as place:
        folder, begun = Path(place), time.monotonic()
        for subject in subjects(digits, tiny_gpt, folder):
            samples[subject.name] = subject.samples
            matrix = Matrix(subject, folder)
            rows += matrix.measure()
            print(f"{subject.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            if isinstance(subject, Classifier):
                theirs += quantized_by_onnxruntime(subject, matrix.float_file(), folder)
                print(f"{subject.name}, quantized: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return {"tools": tools(), "samples": samples, "rows": rows, "quantize_static": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("digits", type=Path, nargs="?", default=ROOT / "examples" / "digits" / "build")
    parser.add_argument("tiny_gpt", type=Path, nargs="?", default=ROOT / "examples" / "tiny-gpt" / "build")
    given = parser.parse_args()
    found = measure(given.digits, given.tiny_gpt)
    lines = json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace('{"model":', '\n{"model":')
    atomic_write_text(TRACKED, lines + "\n")
    atomic_write_text(HERE / "doors.md", page(found))
    print(page(found))


if __name__ == "__main__":
    main()
