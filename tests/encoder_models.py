"""Tiny random encoders of transformers, saved as folders, with their outputs on padded pairs of texts: what importers,
graphs and firmware are compared with."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

VOCABULARY = 37

BERT = {"vocab_size": VOCABULARY, "hidden_size": 18, "intermediate_size": 27, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 12}  # fmt: skip
ROBERTA = {**BERT, "max_position_embeddings": 14, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
DISTIL = {"vocab_size": VOCABULARY, "dim": 18, "hidden_dim": 27, "n_layers": 2, "n_heads": 3,
          "max_position_embeddings": 12}  # fmt: skip
ALBERT = {"vocab_size": VOCABULARY, "hidden_size": 18, "embedding_size": 7, "intermediate_size": 27,
          "num_hidden_layers": 4, "num_attention_heads": 3, "max_position_embeddings": 12}  # fmt: skip
LABELS = {"id2label": {i: f"L{i}" for i in range(5)}, "label2id": {f"L{i}": i for i in range(5)}}


@dataclass(frozen=True)
class Case:
    """A class of transformers, its configuration, and how its model is saved and asked."""

    architecture: str
    base: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    task: str = ""
    """Given with --task, where the folder leaves it open."""
    saving: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        return {"Bert": "bert", "Roberta": "roberta", "DistilBert": "distilbert", "Albert": "albert",
                "XLMRoberta": "xlm-roberta"}[self.kind]  # fmt: skip

    @property
    def kind(self) -> str:
        return next(
            kind for kind in ("Bert", "Roberta", "DistilBert", "Albert", "XLMRoberta")
            if self.architecture.startswith(kind)
        )  # fmt: skip


CASES = {
    "bert_classify": Case("BertForSequenceClassification", BERT, LABELS),
    "bert_score_of_a_pair": Case(
        "BertForSequenceClassification", BERT, {"id2label": {0: "score"}, "label2id": {"score": 0}}
    ),
    "bert_label_one_head": Case(
        "BertForTokenClassification", BERT, {**LABELS, "hidden_size": 7, "num_attention_heads": 1}
    ),
    "bert_span_relu": Case("BertForQuestionAnswering", BERT, {"hidden_act": "relu", "num_hidden_layers": 1}),
    "bert_masked": Case("BertForMaskedLM", BERT),
    "bert_masked_untied": Case("BertForMaskedLM", BERT, {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert_next": Case("BertForNextSentencePrediction", BERT, {"type_vocab_size": 3}),
    "bert_pretraining_as_next": Case("BertForPreTraining", BERT, task="next-sentence"),
    "bert_rows": Case("BertModel", BERT, {"num_hidden_layers": 5, "intermediate_size": 5}, task="rows"),
    "bert_embedding": Case("BertModel", BERT, task="embedding"),
    "bert_pooled": Case("BertModel", BERT, task="pooled"),
    "roberta_classify": Case("RobertaForSequenceClassification", ROBERTA, LABELS),
    "roberta_masked": Case("RobertaForMaskedLM", ROBERTA),
    "roberta_label_segments": Case("RobertaForTokenClassification", ROBERTA, {**LABELS, "type_vocab_size": 2}),
    "roberta_span_sharded": Case("RobertaForQuestionAnswering", ROBERTA, saving={"max_shard_size": "8KB"}),
    "xlm_roberta_masked": Case("XLMRobertaForMaskedLM", ROBERTA),
    "distilbert_classify": Case("DistilBertForSequenceClassification", DISTIL, LABELS),
    "distilbert_masked": Case("DistilBertForMaskedLM", DISTIL, {"sinusoidal_pos_embds": True}),
    "distilbert_label": Case("DistilBertForTokenClassification", DISTIL, {**LABELS, "activation": "relu"}),
    "distilbert_span": Case("DistilBertForQuestionAnswering", DISTIL),
    "distilbert_first": Case("DistilBertModel", DISTIL, task="first"),
    "albert_classify": Case("AlbertForSequenceClassification", ALBERT, LABELS),
    "albert_masked_groups": Case(
        "AlbertForMaskedLM", ALBERT, {"num_hidden_groups": 2, "inner_group_num": 2, "num_hidden_layers": 3}
    ),
    "albert_span": Case("AlbertForQuestionAnswering", ALBERT, {"hidden_act": "gelu"}),
    "albert_label": Case("AlbertForTokenClassification", ALBERT, LABELS),
    "albert_pooled": Case("AlbertModel", ALBERT, task="pooled"),
}  # fmt: skip

ROWS = 11
LENGTHS = (11, 7, 1, 4)


def save(case: Case, folder: Path, seed: int = 0) -> Any:
    """A model of transformers in eval mode whose attention is far from even and whose norms are not plain, and its
    folder."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = getattr(transformers, f"{case.kind}Config")(**{**case.base, **case.keys})
    torch.manual_seed(seed)
    model = getattr(transformers, case.architecture)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            if name.endswith("word_embeddings.weight"):
                parameter[config.pad_token_id] = torch.randn(parameter.shape[1])
    copy.deepcopy(model).save_pretrained(folder, **case.saving)
    return model


def texts(
    segments: int, seed: int = 1, lengths: tuple[int, ...] = LENGTHS, rows: int = ROWS
) -> dict[str, NDArray[Any]]:
    """Ids, kinds and lengths of a few texts; what lies past a length is ids like any other, but the padding token."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, VOCABULARY, (len(lengths), rows))
    found = {"input_ids": ids, "valid_length": np.array(lengths)}
    if segments:
        found["token_type_ids"] = rng.integers(0, segments, ids.shape)
    return found


def answers(model: Any, task: str, samples: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What transformers says to texts, (samples, …): rows past a length are zeros."""
    ids = torch.from_numpy(samples["input_ids"])
    lengths = torch.from_numpy(samples["valid_length"])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    more = {"token_type_ids": torch.from_numpy(samples["token_type_ids"])} if "token_type_ids" in samples else {}
    with torch.no_grad():
        out = model(ids, attention_mask=mask, **more)
    found: torch.Tensor
    if task == "span":
        found = torch.stack((out.start_logits, out.end_logits), dim=-1)
    elif task == "next-sentence":
        found = out.seq_relationship_logits if "seq_relationship_logits" in out else out.logits
    elif task == "pooled":
        found = out.pooler_output
    elif task in ("rows", "first", "embedding"):
        found = out.last_hidden_state
        if task == "first":
            found = found[:, 0]
        if task == "embedding":
            weight = mask[:, :, None].float()
            mean = (found * weight).sum(1) / weight.sum(1)
            found = torch.nn.functional.normalize(mean, dim=-1)
    else:
        found = out.logits
    return cut(found.numpy(), samples["valid_length"], ids.shape[1])


def cut(found: NDArray[Any], lengths: NDArray[Any], rows: int) -> NDArray[np.float32]:
    """Zeros in the rows past each length, where there are rows."""
    found = np.array(found, np.float32)
    if found.ndim == 3 and found.shape[1] == rows:
        found[np.arange(rows) >= np.asarray(lengths)[:, None]] = 0.0
    return found


def make_sentence_folder(case: Case, folder: Path, pooling: str = "mean", normalize: bool = True, **keys: Any) -> Any:
    """The same as a folder of sentence-transformers; `keys` go into 1_Pooling/config.json."""
    model = save(case, folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    flags = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in modes}
    flags["pooling_mode_mean_sqrt_len_tokens"] = False
    width = model.config.hidden_size
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": width, **flags, **keys}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": False}))
    return model
