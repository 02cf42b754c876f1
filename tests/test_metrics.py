"""Metrics against what scikit-learn and hand arithmetic say, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from picoformer.errors import DataError
from picoformer.metrics import IGNORED, bleu, cosine, judge, macro_f1, rouge


def test_classification_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(300, 5)) * 2, rng.integers(0, 5, 300)
    found = judge(logits.astype(np.float32), labels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert found.macro_f1 == pytest.approx(f1_score(labels, logits.argmax(axis=1), average="macro"))
    assert found.bits_per_label == pytest.approx(log_loss(labels, probabilities) / np.log(2), rel=1e-6)
    assert found.perplexity == pytest.approx(np.exp(log_loss(labels, probabilities)), rel=1e-6)
    assert found.bits_per_character is None


def test_rows_are_judged_one_by_one_and_ignored_ones_not_at_all() -> None:
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [[0.25, 0.25, 0.5], [0.9, 0.05, 0.05]]]))
    labels = np.array([[0, 0], [2, IGNORED]])
    found = judge(logits, labels, characters_per_label=2.0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.bits_per_label == pytest.approx((1 + 2 + 1) / 3)
    assert found.bits_per_character == pytest.approx((1 + 2 + 1) / 6)
    everything = judge(logits, np.array([[0, 0], [2, 1]]))
    assert everything.bits_per_label > found.bits_per_label


def test_huge_logits_stay_finite() -> None:
    found = judge(np.array([[1e30, -1e30], [0.0, 5000.0]]), np.array([0, 0]))
    assert np.isfinite(found.bits_per_label) and found.accuracy == 0.5
    assert np.isfinite(found.perplexity)


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    assert macro_f1(np.array([0, 3, 3]), np.array([0, 3, 3])) == 1.0
    assert macro_f1(np.array([0, 1]), np.array([1, 0])) == 0.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), "0 to 3, the model has 3"),
        (np.array([IGNORED, IGNORED]), "no label counts"),
        (np.array([0, 1, 2]), "one label per row"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(np.zeros((2, 3)), labels)


def test_cosine() -> None:
    a = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    b = np.array([[0.0, 2.0], [6.0, 8.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine(a, b), [0.0, 1.0, 0.0], atol=1e-12)
    with pytest.raises(DataError, match="shapes"):
        cosine(a, b[:2])


def test_bleu_and_rouge_of_known_texts() -> None:
    references = ["the cat sat on the mat", "a bird flew over the house"]
    assert bleu(references, references) == pytest.approx(100.0)
    near = bleu(["the cat sat on a mat", "a bird flew over a house"], references)
    precisions = (10 / 12) * (6 / 10) * (4 / 8) * (2 / 6)  # of one to four words
    assert near == pytest.approx(100.0 * precisions**0.25)
    assert rouge(references, references) == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    one = rouge(["the cat"], ["the cat sat on"])
    assert one["rouge1"] == pytest.approx(2 * 1.0 * 0.5 / 1.5) and one["rouge2"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="1 texts for 2 references"):
        bleu(["a"], references)
