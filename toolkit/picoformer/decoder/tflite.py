"""The command `export --format tflite` on a language model: its step of one token, caches in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.decoder.build import calibration_windows
from picoformer.decoder.graph import LOGITS, decoder_graph
from picoformer.decoder.opening import open_checkpoint
from picoformer.decoder.quantize import quantize_decoder, step_graph
from picoformer.decoder.sessions import block_inputs, check_tokens
from picoformer.errors import ConfigError
from picoformer.exported import check_file
from picoformer.exporting_tflite import check_scheme, file_record, provenance
from picoformer.files import file_hash
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize
from picoformer.samples import load_samples

if TYPE_CHECKING:
    from picoformer.backends.tflite.runtime import Runtime
    from picoformer.exporting_tflite import TfliteOptions
    from picoformer.quantize import QuantizeSettings

RANGE_WINDOWS = 8
"""Windows of the calibration that are run token by token for the ranges inside operators."""
JUDGED_TOKENS = 64
"""Tokens of a window that the file is judged on."""

Progress = Callable[[str, int, int, float], None]


def export_decoder_tflite(
    model: Path,
    calibration: Path | None,
    scheme: str,
    out: Path,
    options: TfliteOptions,
    settings: QuantizeSettings | None = None,
    context: int = 0,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the decode step of a checkpoint as the TFLite file `out`; returns what it is and how good.

    Inputs: tokens (1,), position () and the caches; outputs: logits (1, vocabulary) and the caches.

    A cache that comes out goes in at the next step; before the first it is all zeros. Schemes are float32 and int8x16.
    `options.check`: an .npz with an array "tokens" of ids, (texts, length), whose first text is compared step by step.
    """
    from picoformer.backends.tflite.export import export_tflite
    from picoformer.backends.tflite.runtime import check_runtime
    from picoformer.quantize import SCHEMES, QuantizeSettings, uniform_settings

    check_scheme(scheme)
    check_file(out, ".tflite", (model, calibration, options.check, tokenizer))
    check_runtime(options.runtime)
    if scheme == "int8":
        raise ConfigError("a language model's step takes 16-bit activations; use --scheme int8x16 or float32")
    opened = open_checkpoint(model, tokenizer, calibration)
    config, weights = opened.model.config, opened.model.weights
    length = context or config.sequence
    tick = None if progress is None else lambda what, done, total: progress(what, done, total, 0.0)
    float_step = decoder_graph(config, weights, 1, length, name=opened.name)
    step, runs, tokens = float_step, [], np.zeros(0, np.int32)
    if scheme != "float32":
        windows, _ = calibration_windows(opened.model, length, opened.calibration, tick)
        chosen = uniform_settings(replace(settings or QuantizeSettings(), activations=SCHEMES[scheme].activations))
        calibrating = None if tick is None else lambda done, total: tick("calibrating", done, total)
        typed = quantize_decoder(config, weights, windows, scheme, length, chosen, calibrating)
        step = step_graph(typed, 1, length).replace(name=opened.name)
        runs, tokens = calibration_runs(float_step, windows[:RANGE_WINDOWS]), windows[0]
    if options.check is not None:
        tokens = _tokens(options.check, float_step)
    told = provenance(model.name, opened.model.sha256 or file_hash(model), scheme)
    program = export_tflite(step, out, told, runs, options.gelu, options.any_operator)
    record = file_record(out, program, scheme)
    record["cache_bytes"] = sum(step.types[before].bytes for before, _ in step.states)
    if len(tokens):
        record.update(_quality(float_step, step, out, tokens[:JUDGED_TOKENS].tolist(), options.runtime))
    if options.check is not None:
        record["checked"] = _checked(out, step, tokens[:JUDGED_TOKENS].tolist(), options.runtime)
    return record


def calibration_runs(step: Graph, windows: Array) -> list[dict[str, Array]]:
    """Every value of the float step at every token of every window."""
    from picoformer.reference.session import float_session

    found = []
    for window in windows:
        session = float_session(step)
        for position, token in enumerate(window.tolist()):
            before = session.states
            session.run(block_inputs([token], position))
            found.append({**before, **session.values})
    return found


def _tokens(path: Path, step: Graph) -> Array:
    arrays = load_samples(path)
    if "tokens" not in arrays or np.ndim(arrays["tokens"]) != 2 or not np.size(arrays["tokens"]):
        raise ConfigError(f'{path}: has no array "tokens" of ids, (texts, length); give one')
    tokens: Array = np.asarray(arrays["tokens"][0], np.int32)[:JUDGED_TOKENS]
    check_tokens(step, tokens.tolist(), 0)
    return tokens


def steps_of(step: Graph, tokens: Sequence[int]) -> Iterable[Mapping[str, Array]]:
    """The inputs of each step of a text, caches as the definition leaves them before it."""
    from picoformer.reference import lower_graph
    from picoformer.reference.session import float_session, integer_session

    is_float = step.types[LOGITS].quant is None
    session = float_session(step) if is_float else integer_session(lower_graph(step))
    for position, token in enumerate(tokens):
        inputs = block_inputs([token], position)
        yield {**inputs, **session.states}
        session.run(inputs)


def run_decoder_tflite(file: Path | bytes, step: Graph, tokens: Sequence[int], runtime: Runtime = "litert") -> Array:
    """The logits after each token, float32 (tokens, vocabulary), of a file that carries its own caches along."""
    from picoformer.backends.tflite.runtime import TfliteSession

    session = TfliteSession(file if isinstance(file, bytes) else file.read_bytes(), runtime)
    caches = {n: np.zeros(step.types[n].shape, step.types[n].dtype.numpy) for n, _ in step.states}
    found = []
    for position, token in enumerate(tokens):
        outputs = session.run({**block_inputs([token], position), **caches})
        caches = {before: outputs[after] for before, after in step.states}
        found.append(outputs[LOGITS][-1])
    logits, quant = np.stack(found), step.types[LOGITS].quant
    return logits if quant is None else dequantize(logits, quant)


def _quality(float_step: Graph, step: Graph, out: Path, tokens: list[int], runtime: Runtime) -> dict[str, Any]:
    from picoformer.parity import compare
    from picoformer.reference.session import float_session

    session = float_session(float_step)
    truth = np.stack([session.run(block_inputs([t], i))[LOGITS][-1] for i, t in enumerate(tokens)])
    link = compare("float", "tflite", truth, run_decoder_tflite(out, step, tokens, runtime))
    return {
        "runtime": runtime,
        "tokens": len(tokens),
        "max_abs": link.max_abs,
        "sqnr_db": link.sqnr_db,
        "same_token": link.top1_agreement,
    }


def _checked(out: Path, step: Graph, tokens: list[int], runtime: Runtime) -> dict[str, Any]:
    from picoformer.backends.tflite.compare import compare_tflite, summary

    steps = list(steps_of(step, tokens))
    inputs = {name: np.stack([np.asarray(one[name]) for one in steps]) for name in steps[0]}
    rows = compare_tflite(out, step, inputs, runtime)
    return {"summary": summary(rows), "rows": [row.to_json() for row in rows]}
