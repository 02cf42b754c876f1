"""The losses of distillation, each against its definition written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from picoformer.compress.distill_losses import (
    attention_loss,
    attention_scores,
    largest_relation_heads,
    relation_loss,
    soft_target_loss,
)
from picoformer.compress.teacher import observe
from picoformer.models.transformer import Transformer
from test_distill import TEXT

torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_observed_is_what_the_layer_computes() -> None:
    """Scores from observed queries and keys give the attention layer's own output, causal and with shared keys."""
    model, x = Transformer(TEXT), torch.tensor([[1, 2, 3, 4, 5, 6]])
    inside: Any = model.layers[1]
    seen = {}
    inside.attention.register_forward_hook(lambda _m, _i, output: seen.update(output=output))
    found = observe(model, x, ["query.1", "key.1", "value.1", "hidden.1", "logits"])
    scores = attention_scores(found["query.1"], found["key.1"], TEXT, 1)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    maps = torch.softmax(scores.masked_fill(~mask, -torch.inf), -1)
    value = found["value.1"].reshape(1, 6, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
    output = inside.attention.out((maps @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, seen["output"])
    torch.testing.assert_close(model(x), found["logits"])


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_attention_loss_by_hand(kind: str) -> None:
    """Two teacher heads to each of the student's, by loops; masked keys and rows that are not judged play no part."""
    scores, target = random(2, 2, 4, 4), random(2, 4, 4, 4, seed=1)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    judged = torch.tensor([[True, True, False, True], [False, True, True, True]])
    rows = []
    for sample, row in torch.nonzero(judged).tolist():
        for head in range(2):
            ours, theirs = scores[sample, head, row, : row + 1], target[sample, 2 * head : 2 * head + 2, row, : row + 1]
            p, q = torch.softmax(theirs, -1).mean(0), torch.softmax(ours, -1)
            rows.append((p * (p / q).log()).sum() if kind == "kl" else (theirs.mean(0) - ours).square().mean())
    found = attention_loss(scores, target, kind, mask, judged)
    assert float(found) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)
    wild = torch.where(mask, target, 50.0 * random(2, 4, 4, 4, seed=2))
    assert float(attention_loss(scores, wild, kind, mask, judged)) == pytest.approx(float(found), rel=1e-5)


def test_relation_loss_by_hand() -> None:
    """Widths 6 and 12 in 3 heads: softmax of the rows' products, KL from teacher to student."""
    ours, theirs = random(2, 4, 6), random(2, 4, 12, seed=1)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    rows = []
    for sample in range(2):
        for head in range(3):
            a, b = ours[sample, :, 2 * head : 2 * head + 2], theirs[sample, :, 4 * head : 4 * head + 4]
            for row in range(4):
                q = torch.softmax(a[row] @ a[: row + 1].T / math.sqrt(2), -1)
                p = torch.softmax(b[row] @ b[: row + 1].T / math.sqrt(4), -1)
                rows.append((p * (p / q).log()).sum())
    assert float(relation_loss(ours, theirs, 3, mask, None)) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)
    assert float(relation_loss(ours, ours, 3, mask, None)) == pytest.approx(0.0, abs=1e-6)
    assert largest_relation_heads(64, 32) == 8 and largest_relation_heads(64, 24) == 2
    assert largest_relation_heads(7, 5) == 1


def test_soft_targets_leave_out_rows_that_are_not_judged() -> None:
    logits, target = random(2, 3, 5), random(2, 3, 5, seed=1)
    judged = torch.tensor([[True, False, True], [False, False, True]])
    expected = soft_target_loss(logits[judged], target[judged], 2.0)
    assert float(soft_target_loss(logits, target, 2.0, judged)) == pytest.approx(float(expected), rel=1e-5)
