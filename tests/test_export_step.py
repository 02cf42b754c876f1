"""A language model's step of one token as ONNX: onnxruntime carries its caches along and says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import refuses, succeeds
from picoformer.backends.onnx.runtime import OnnxSession
from picoformer.decoder.build import decoder_graphs
from picoformer.decoder.graph import LOGITS
from picoformer.decoder.opening import open_checkpoint
from picoformer.decoder.sessions import block_inputs
from picoformer.ops.fixedpoint import dequantize
from picoformer.reference import lower_graph
from picoformer.reference.session import float_session, integer_session
from text_models import model_folder


@pytest.mark.parametrize("scheme", ["float32", "int8x16", "int4x16"])
def test_export_writes_the_step_of_a_language_model_as_onnx(scheme: str, place: Path, tmp_path: Path) -> None:
    """onnxruntime runs it token by token, caches carried along, and says what the reference says."""
    file, context = tmp_path / "step.onnx", 12
    words = ["export", model_folder(place), "--scheme", scheme, "--context", str(context), "-o", file]
    record = succeeds(*words, "--json").record
    opened = open_checkpoint(model_folder(place), None, None)
    step = decoder_graphs(opened.model, scheme, context, 1, opened.calibration).graph
    is_float = step.types[LOGITS].quant is None
    session = float_session(step) if is_float else integer_session(lower_graph(step))
    onnx_step = OnnxSession(file)
    caches = {before: np.zeros(step.types[before].shape, np.float32) for before, _ in step.states}
    for position, token in enumerate([1, 5, 2, 7, 3]):
        inputs = block_inputs([token], position)
        given = onnx_step.run({**inputs, **caches})
        caches = {before: given[after] for before, after in step.states}
        wanted = np.asarray(session.run(inputs)[LOGITS], np.float64)
        quant = step.types[LOGITS].quant
        wanted = wanted if quant is None else dequantize(wanted, quant)
        # Integers: onnxruntime computes between the roundings in float.
        assert np.abs(given[LOGITS] - wanted).max() <= (1e-4 if quant is None else 0.02) * np.abs(wanted).max()
    assert record["cache_bytes"] == sum(step.types[before].bytes for before, _ in step.states)
    assert record["context"] == context and record["bytes"] == file.stat().st_size
    refuses([*words, "--beams", "2"], "--beams says nothing about --format onnx")
    refuses([*words, "--prefix", "tale"], "--prefix says nothing about --format onnx")
