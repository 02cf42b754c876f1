"""`pi package`: a bundle's folder, whole or not at all, checked here before it is shown."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from picoformer import __version__
from picoformer.build_folder import refuse_to_replace
from picoformer.bundling.options import BundleOptions
from picoformer.bundling.parity_sample import Sample, parity_samples
from picoformer.bundling.reading import (
    EMBEDDINGS,
    classes_of,
    embedding_of,
    output_of,
    read_labels,
    task_of,
    text_input,
)
from picoformer.bundling.sources import Source, open_source
from picoformer.decoder.opening import load_tokenizer
from picoformer.errors import ConfigError, ModelError
from picoformer.files import atomic_folder, atomic_write_bytes, atomic_write_text, content_hash, save_arrays
from picoformer.raspberry_pi.bundle import DESCRIPTION, open_bundle
from picoformer.raspberry_pi.checking import Checked, check
from picoformer.raspberry_pi.manifest import TASKS, Decoding, FileRecord, Manifest, Parity
from picoformer.raspberry_pi.onnx_session import OnnxSession
from picoformer.raspberry_pi.requests import read_request
from picoformer.raspberry_pi.runner import open_runner
from picoformer.raspberry_pi.texts import TextEncoder
from picoformer.tokenizers.load import FILES, load_text_tokenizer

MODEL, PARITY, LABELS = "model.onnx", "parity.npz", "labels.txt"
CLOSE = 1e-4
"""Of the largest value: float sums in another order, and another exp."""
LIKENESS = 0.99
"""Least cosine of outputs of integers: attention has no grids in ONNX, and onnxruntime has kernels of its own."""
SIZE_LIMIT = (1 << 31) - 1
Progress = Callable[[str, int, int], None]


def package(model: Path, out: Path, options: BundleOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Write the bundle `out` of a model; the record of `pi package --json`.

    Raises a PicoformerError naming what is wrong with the model or an option, ModelError where the bundle does not
    give the model's answers here.
    """
    refuse_to_replace(out, (DESCRIPTION,))
    if options.task is not None and options.task not in TASKS:
        raise ConfigError(f"--task {options.task}: use one of {', '.join(TASKS)}")
    read_request(options.sampling)
    labels = read_labels(options.classes)
    source = open_source(model, options, progress)
    if len(source.onnx) > SIZE_LIMIT:
        raise ModelError(
            f"{model}: {len(source.onnx)} bytes are more than one ONNX file can hold; give a smaller scheme"
        )
    with atomic_folder(out) as folder:
        atomic_write_bytes(folder / MODEL, source.onnx)
        if source.decoder is not None:
            manifest = _write_decoder(folder, source, options)
        else:
            manifest = _write_encoder(folder, model, source, options, labels)
        _describe(folder, replace(manifest, provenance=_origin(model, source)))
        found = check(open_runner(open_bundle(folder)))
        if not found.is_passed:
            raise ModelError(
                f"{model}: onnxruntime does not give its answers ({found.says}); "
                + (
                    "give other --inputs, or --scheme float32"
                    if source.scheme != "float32"
                    else "look at its operators"
                )
            )
    record = _record(out, manifest, found, source)
    if options.archive:
        record["archive"] = str(write_archive(out))
    return record


def _write_decoder(folder: Path, source: Source, options: BundleOptions) -> Manifest:
    from picoformer.bundling.decoders import parity_of

    decoder = source.decoder
    if options.task not in (None, "generate"):
        raise ConfigError(f"--task {options.task}: this is a language model's step, which generates; leave it out")
    for name, value in {"--classes": options.classes, "--pooling": options.pooling, "--inputs": options.inputs,
                        "--max-length": options.max_length, "--output-name": options.output}.items():  # fmt: skip
        if value:
            raise ConfigError(f"{name} says nothing about a language model; leave it out")
    arrays, texts = parity_of(decoder)
    save_arrays(folder / PARITY, arrays)
    tokenizer = None if decoder.tokenizer is None else _copy_tokenizer(decoder.tokenizer, folder)
    decoding = Decoding(
        decoder.context, decoder.vocabulary, decoder.bos, decoder.eos, tuple(decoder.step.states), decoder.scale,
        {key: list(value) if isinstance(value, tuple) else value for key, value in options.sampling.items()},
    )  # fmt: skip
    exact = source.is_exact
    rule = Parity(PARITY, "close" if exact else "likeness", CLOSE if exact else LIKENESS, texts)
    return Manifest(source.name, "generate", source.scheme, MODEL, rule, tokenizer, generate=decoding)


def _write_encoder(
    folder: Path, model: Path, source: Source, options: BundleOptions, labels: tuple[str, ...]
) -> Manifest:
    if options.task == "generate":
        raise ConfigError(f"--task generate: {model} is no language model's checkpoint or build; give one")
    if options.sampling:
        raise ConfigError("sampling settings say nothing about a model that writes no text; leave them out")
    session = OnnxSession(folder / MODEL)
    path = _tokenizer_file(options.tokenizer)
    tokenizer = load_tokenizer(path, 1 << 31)
    pad, stored = _tokenizer_settings(path)
    text = text_input(session.inputs, tokenizer, options, pad, stored)
    encoder = None if text is None or tokenizer is None else TextEncoder(text, tokenizer, session)
    task = task_of(session.outputs, options)
    likely = EMBEDDINGS if task == "embed" else ("logits", "scores", "probabilities")
    output = None if task == "run" else output_of(session.outputs, options, likely)
    samples = parity_samples(source, session, encoder, options, output.name if output and task == "classify" else None)
    save_arrays(folder / PARITY, _arrays(samples))
    if labels:
        atomic_write_text(folder / LABELS, "".join(f"{label}\n" for label in labels))
    classes = embedding = None
    if task == "classify":
        assert output is not None
        rows = [sample.outputs[output.name] for sample in samples]
        classes = classes_of(session.outputs, options, rows, bool(labels), output)
        if labels and len(labels) != rows[0].shape[-1]:
            raise ConfigError(f"--classes: {len(labels)} names, and the model has {rows[0].shape[-1]} classes")
    elif labels:
        raise ConfigError(f"--classes says nothing about --task {task}; leave it out")
    if task == "embed":
        assert output is not None
        embedding = embedding_of(options, output, [sample.outputs[output.name] for sample in samples], text)
    texts = tuple(sample.text for sample in samples if sample.text is not None)
    rule = "close" if source.is_exact else "labels" if task == "classify" else "likeness"
    parity = Parity(PARITY, rule, CLOSE if source.is_exact else LIKENESS, texts)
    kept = None if path is None else _copy_tokenizer(path, folder)
    return Manifest(source.name, task, source.scheme, MODEL, parity, kept, text, classes, embedding)


def _arrays(samples: list[Sample]) -> dict[str, Any]:
    return {
        f"{at}/{kind}/{name}": value
        for at, sample in enumerate(samples)
        for kind, values in (("input", sample.inputs), ("output", sample.outputs))
        for name, value in values.items()
    }


def _tokenizer_file(path: Path | None) -> Path | None:
    """The file of a tokenizer that is given as one or as its folder."""
    if path is None or not path.is_dir():
        return path
    load_text_tokenizer(path)
    return next(path / name for name in FILES if (path / name).is_file())


def _tokenizer_settings(path: Path | None) -> tuple[int, int]:
    """(the token that fills up a text, the most tokens of one or 0) as a tokenizer.json says."""
    if path is None or path.suffix != ".json":
        return 0, 0
    parsed = json.loads(path.read_text("utf-8"))
    padding, cut = parsed.get("padding") or {}, parsed.get("truncation") or {}
    pad, most = padding.get("pad_id", 0), cut.get("max_length", 0)
    return (pad if type(pad) is int and pad >= 0 else 0), (most if type(most) is int and most > 0 else 0)


def _copy_tokenizer(path: Path, folder: Path) -> str:
    name = f"tokenizer{path.suffix}"
    shutil.copyfile(path, folder / name)
    return name


def _origin(model: Path, source: Source) -> dict[str, str]:
    """Where a bundle comes from."""
    return {
        "source": model.name or source.name, "source_sha256": source.sha256, "answers_of": source.judge,
        "picoformer": __version__,
    }  # fmt: skip


def _describe(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json over the files that are there."""
    files = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        files[path.name] = FileRecord(len(data), content_hash(data))
    full = replace(manifest, files=files)
    atomic_write_text(folder / DESCRIPTION, json.dumps(full.to_json(), indent=1) + "\n")


def _record(out: Path, manifest: Manifest, found: Checked, source: Source) -> dict[str, Any]:
    files = sorted(path for path in out.iterdir() if path.is_file())
    return {
        "bundle": str(out),
        "task": manifest.task,
        "scheme": manifest.scheme,
        "bytes": sum(path.stat().st_size for path in files),
        "model_bytes": (out / MODEL).stat().st_size,
        "files": [path.name for path in files],
        "answers_of": source.judge,
        "checked": found.says,
        "parity": found.to_json(),
    }


def write_archive(folder: Path) -> Path:
    """The bundle as a .tar.gz beside it, with nothing of this machine in it: the same bundle gives the same bytes."""
    path = folder.parent / f"{folder.name}.tar.gz"
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for file in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(f"{folder.name}/{file.name}")
            data = file.read_bytes()
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    atomic_write_bytes(path, stream.getvalue())
    return path
