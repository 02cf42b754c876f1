"""A trained sentence encoder keeps its vectors in integers, also with outlier channels, once these are evened out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from picoformer.encoder.inputs import text_inputs
from picoformer.encoder.opening import EncoderChoice, open_encoder
from picoformer.ir import Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.passes import optimize
from picoformer.quantize import SCHEMES, QuantizeSettings, equalized, quantize
from picoformer.reference import lower_graph, run_float, run_integer
from sentence_encoder import ROWS, Texts, Trained, train_sentence_encoder

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

Array = NDArray[Any]


def fed(graph: Graph, texts: Texts) -> Texts:
    given = text_inputs(graph, texts)
    return {name: (value[:, None] if value.ndim > 1 else value).astype(np.int32) for name, value in given.items()}


def vectors(graph: Graph, texts: Texts) -> Array:
    return run_float(graph, fed(graph, texts))["embedding"].reshape(len(texts["input_ids"]), -1)


def integer_vectors(typed: Graph, texts: Texts) -> Array:
    lowered, quant, given = lower_graph(typed), typed.types["embedding"].quant, fed(typed, texts)
    assert quant is not None
    parts = []
    for start in range(0, len(texts["input_ids"]), 100):
        part = {name: value[start : start + 100] for name, value in given.items()}
        parts.append(dequantize(run_integer(lowered, part)["embedding"], quant))
    found = np.concatenate(parts)
    return found.reshape(len(found), -1)


def judged(trained: Trained, scheme: str, equalization: str) -> tuple[float, float, float]:
    """(mean cosine to float of held-back sentences, the worst, share of searches whose first hit is the float one's or
    as near to the sentence, within 0.002)."""
    graph = optimize(open_encoder(trained.folder, EncoderChoice(ROWS))[1])
    given = fed(graph, trained.calibration)
    settings = QuantizeSettings(activations=SCHEMES[scheme].activations, weights=SCHEMES[scheme].weights)
    moved = equalized(graph, given, run_float, replace(settings, equalization=equalization))  # type: ignore[arg-type]
    typed = quantize(moved, given, run_float, settings)
    real, found = vectors(graph, trained.held), integer_vectors(typed, trained.held)
    cosine = (real * found).sum(1) / np.linalg.norm(real, axis=1) / np.linalg.norm(found, axis=1)
    corpus, likeness = integer_vectors(typed, trained.corpus), real @ vectors(graph, trained.corpus).T
    chosen = (found @ corpus.T).argmax(1)
    lost = likeness.max(1) - likeness[np.arange(len(chosen)), chosen]
    return float(cosine.mean()), float(cosine.min()), float((lost <= 0.002).mean())


def test_vectors_stay(tmp_path: Path) -> None:
    trained = train_sentence_encoder(tmp_path)
    for scheme in ("int8", "int8x16"):
        mean, worst, search = judged(trained, scheme, "off")
        assert mean >= 0.99 and worst >= 0.98 and search >= 0.98, (scheme, mean, worst, search)


def test_outlier_channels_are_evened_out(tmp_path: Path) -> None:
    trained = train_sentence_encoder(tmp_path, outlier_steps=200)
    for scheme, least in (("int8", 0.9), ("int8x16", 0.98)):
        plain, even = judged(trained, scheme, "off"), judged(trained, scheme, "on")
        assert even[0] >= 0.99 and even[1] >= 0.98 and even[2] >= least, (scheme, even)
        assert 1 - plain[0] > 10 * (1 - even[0]) and plain[1] < 0.98, (scheme, plain, even)
