"""A decoder in torch: its float meaning, what its integers compute, and gradients that reach every constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decode_graphs import decoder, windows
from picoformer.compress.graph_module import GraphModule
from picoformer.quantize import quantize
from picoformer.reference import lower_graph, run_float, run_integer
from test_decode_quantize import FORMS, decibels, real, settings

torch.set_num_threads(1)


def tensors(samples: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in samples.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position,count", [(0, 8), (3, 5)])
def test_float_is_the_float_meaning(form: str, position: int, count: int) -> None:
    graph = decoder(8, 16, **FORMS[form])  # type: ignore[arg-type]
    samples = windows(graph, 6)
    samples["position"][:], samples["count"][:] = position, count
    for name in ("keys", "values"):
        samples[name] = np.random.default_rng(1).normal(size=samples[name].shape).astype(np.float32)
    wanted = run_float(graph, samples)
    with torch.no_grad():
        found = GraphModule(graph)(tensors(samples))
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), wanted[name], atol=2e-5 * np.abs(wanted[name]).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["int8x16", "int4x16"])
def test_fake_quantization_follows_the_integers(form: str, scheme: str) -> None:
    graph = decoder(8, 8, **FORMS[form])  # type: ignore[arg-type]
    samples = windows(graph, 12)
    typed = quantize(graph, samples, run_float, settings(scheme))
    module = GraphModule(typed)
    found = module(tensors(samples))["logits"]
    wanted = real(typed, "logits", run_integer(lower_graph(typed), samples)["logits"])
    assert decibels(wanted, found.detach().numpy()) > 45
    found.square().mean().backward()
    still = [name for name, value in module.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert all("learned" in name or "rotations" in name or "experts" in name for name in still), still
