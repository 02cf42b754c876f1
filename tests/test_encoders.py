"""Encoders from Hugging Face folders: what transformers says, on padded texts and pairs, by torch, by the graph and by
onnxruntime; spellings of older folders; bad ones in one line each."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from encoder_models import (
    ALBERT,
    BERT,
    CASES,
    LABELS,
    ROWS,
    Case,
    answers,
    cut,
    make_sentence_folder,
    save,
    texts,
)
from hugging_face import change_config, change_tensors
from picoformer.backends.onnx.export import onnx_bytes
from picoformer.cli_encoder import TASKS as TASK_NAMES
from picoformer.compress.count import count_parameters
from picoformer.encoder.graph import encoder_graph
from picoformer.errors import ModelError
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.imported_module import build_module
from picoformer.models.importers import TASKS, ImportedEncoder, is_encoder, load_encoder
from picoformer.models.importers.encoder_parts import UNUSED_KEYS
from picoformer.models.weights import weight_shapes
from picoformer.reference import run_float

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Float32 sums in another order."""

Samples = dict[str, NDArray[Any]]


def by_torch(imported: ImportedEncoder, samples: Samples) -> NDArray[Any]:
    kinds = torch.from_numpy(samples["token_type_ids"]) if imported.config.segments else None
    ids, lengths = torch.from_numpy(samples["input_ids"]), torch.from_numpy(samples["valid_length"])
    with torch.no_grad():
        found: NDArray[Any] = build_module(imported)(ids, lengths, kinds).numpy()
    return cut(found, samples["valid_length"], ids.shape[1])


def fed(samples: Samples) -> Samples:
    """As a graph takes them: a batch axis of 1, int32."""
    return {name: (value[:, None] if value.ndim > 1 else value).astype(np.int32) for name, value in samples.items()}


def by_graph(imported: ImportedEncoder, samples: Samples, shape: tuple[int, ...]) -> NDArray[Any]:
    graph = encoder_graph(imported.config, imported.weights, ROWS)
    found = run_float(graph, fed(samples))[graph.outputs[0]].reshape(shape)
    return cut(found, samples["valid_length"], ROWS)


def by_onnxruntime(imported: ImportedEncoder, samples: Samples, shape: tuple[int, ...]) -> NDArray[Any]:
    content = onnx_bytes(encoder_graph(imported.config, imported.weights, ROWS))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = []
    for i in range(len(samples["input_ids"])):
        given = {name: np.array(value[i], np.int64) for name, value in fed(samples).items()}
        found.append(session.run(None, given)[0])
    return cut(np.concatenate(found).reshape(shape), samples["valid_length"], ROWS)


def refuse(folder: Path, reason: str, task: str = "") -> None:
    with pytest.raises(ModelError) as caught:
        load_encoder(folder, task)
    text = str(caught.value)
    assert reason in text and "\n" not in text and str(folder) in text, text


# --- the same answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_answers_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    theirs = save(case, tmp_path)
    imported = load_encoder(tmp_path, case.task)
    assert imported.family == case.family and is_encoder(tmp_path)
    assert {name: value.shape for name, value in imported.weights.items()} == weight_shapes(imported.config)
    assert count_parameters(imported.config) == sum(value.size for value in imported.weights.values())
    samples = texts(imported.config.segments)
    wanted = answers(theirs, imported.task, samples)
    assert float(wanted.std()) > 0.1  # answers near zero would hide mistakes
    assert np.abs(by_torch(imported, samples) - wanted).max() <= TOLERANCE
    assert np.abs(by_graph(imported, samples, wanted.shape) - wanted).max() <= TOLERANCE
    assert np.abs(by_onnxruntime(imported, samples, wanted.shape) - wanted).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert_classify", {"norm_epsilon": 1e-2}),
        ("bert_classify", {"activation": "relu"}),
        ("bert_classify", {"pooling": "mean"}),
        ("bert_classify", {"pooler": "relu"}),
        ("bert_masked", {"head_dense": "tanh"}),
        ("bert_embedding", {"normalize": False}),
        ("bert_embedding", {"pooling": "first"}),
        ("albert_masked_groups", {"shared_layers": (0, 1, 0, 1, 2, 2)}),
    ],
)
def test_the_comparison_would_see_a_mistake(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    theirs = save(CASES[name], tmp_path)
    imported = load_encoder(tmp_path, CASES[name].task)
    if name == "albert_masked_groups":
        assert imported.config.shared_layers == (0, 1, 0, 1, 2, 3)
        imported.weights.update({k.replace("layers.3", "layers.2"): v for k, v in imported.weights.items()})
        for key in [key for key in imported.weights if key.startswith("layers.3")]:
            del imported.weights[key]
    wrong = dataclasses.replace(imported, config=dataclasses.replace(imported.config, **change))
    samples = texts(imported.config.segments)
    wanted = answers(theirs, imported.task, samples)
    assert np.abs(by_torch(wrong, samples) - wanted).max() > 10 * TOLERANCE
    assert np.abs(by_graph(wrong, samples, wanted.shape) - wanted).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["bert_classify", "roberta_masked"])
def test_positions_and_kinds_would_be_missed(name: str, tmp_path: Path) -> None:
    theirs = save(CASES[name], tmp_path)
    imported = load_encoder(tmp_path)
    samples = texts(imported.config.segments)
    wanted = answers(theirs, imported.task, samples)
    tables = ["embedding.position", *(["embedding.segment.weight"] if imported.config.segments else [])]
    for table in tables:
        moved = {**imported.weights, table: np.roll(imported.weights[table], 1, axis=0)}
        assert np.abs(by_torch(dataclasses.replace(imported, weights=moved), samples) - wanted).max() > 10 * TOLERANCE


def test_what_lies_past_a_length_changes_nothing(tmp_path: Path) -> None:
    save(CASES["albert_pooled"], tmp_path)
    imported = load_encoder(tmp_path, "pooled")
    samples = texts(2)
    other = {name: value.copy() for name, value in samples.items()}
    for row, length in enumerate(samples["valid_length"]):
        other["input_ids"][row, length:] = 5
        other["token_type_ids"][row, length:] = 1
    shape = (4, imported.config.d_model)
    assert np.array_equal(by_graph(imported, samples, shape), by_graph(imported, other, shape))


def test_one_text_needs_no_kinds(tmp_path: Path) -> None:
    theirs = save(CASES["bert_classify"], tmp_path)
    imported = load_encoder(tmp_path, pairs=False)
    assert not imported.config.segments
    samples = texts(0)
    wanted = answers(theirs, "classify", samples)
    assert np.abs(by_torch(imported, samples) - wanted).max() <= TOLERANCE
    graph = encoder_graph(imported.config, imported.weights, ROWS)
    assert graph.inputs == ("input_ids", "valid_length")


def test_the_last_layer_computes_no_row_that_nobody_asked_for(tmp_path: Path) -> None:
    save(CASES["bert_classify"], tmp_path)
    imported = load_encoder(tmp_path)
    graph = encoder_graph(imported.config, imported.weights, ROWS)
    rows = {name: graph.types[f"layers.{layer}.{name}"].rows for layer in (0, 1) for name in ("sum",)}
    assert graph.types["layers.0.sum"].rows == ROWS and rows["sum"] == 1
    assert graph.types["layers.1.attention.key"].rows == ROWS


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_a_sentence_transformers_folder(pooling: str, normalize: bool, tmp_path: Path) -> None:
    theirs = make_sentence_folder(CASES["bert_embedding"], tmp_path, pooling, normalize)
    imported = load_encoder(tmp_path)
    assert (imported.task, imported.longest, imported.config.segments) == ("embedding", 9, 0)
    samples = texts(0)
    ids = torch.from_numpy(samples["input_ids"])
    mask = (torch.arange(ROWS) < torch.from_numpy(samples["valid_length"])[:, None]).float()
    with torch.no_grad():
        rows = theirs(ids, attention_mask=mask.long()).last_hidden_state
    vectors = rows[:, 0] if pooling == "cls" else (rows * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    wanted = (vectors / vectors.norm(dim=-1, keepdim=True) if normalize else vectors).numpy()
    for found in (by_torch(imported, samples), by_graph(imported, samples, wanted.shape),
                  by_onnxruntime(imported, samples, wanted.shape)):  # fmt: skip
        assert np.abs(found - wanted).max() <= TOLERANCE
    if normalize:
        assert np.abs(np.linalg.norm(wanted, axis=-1) - 1).max() < 1e-6


def test_imports_load_no_torch(tmp_path: Path) -> None:
    save(CASES["bert_classify"], tmp_path)
    code = (
        "import sys, pathlib; from picoformer.encoder.opening import open_encoder\n"
        f"assert open_encoder(pathlib.Path({str(tmp_path)!r}))[1].outputs == ('logits',)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_tasks_of_the_command_line() -> None:
    assert tuple(TASKS) == TASK_NAMES


# --- other spellings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert_classify", "distilbert_masked", "albert_classify"])
def test_tensors_without_the_prefix_and_under_old_names(name: str, tmp_path: Path) -> None:
    theirs = save(CASES[name], tmp_path)
    prefix = f"{CASES[name].family}."
    found = load_file(tmp_path / "model.safetensors")
    renamed = {key.removeprefix(prefix): value for key, value in found.items()}
    for old, new in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        renamed = {key.replace(old, new): value for key, value in renamed.items()}
    renamed["embeddings.position_ids"] = np.arange(12, dtype=np.int64)[None]
    save_file(renamed, tmp_path / "model.safetensors")
    imported = load_encoder(tmp_path)
    samples = texts(imported.config.segments)
    assert np.abs(by_torch(imported, samples) - answers(theirs, imported.task, samples)).max() <= TOLERANCE


def test_files_of_torch(tmp_path: Path) -> None:
    save(CASES["bert_masked"], tmp_path)
    before = load_encoder(tmp_path)
    state = {name: torch.from_numpy(value) for name, value in load_file(tmp_path / "model.safetensors").items()}
    (tmp_path / "model.safetensors").unlink()
    torch.save({**state, "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"]},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    after = load_encoder(tmp_path)
    assert after.config == before.config and before.sha256 != after.sha256
    assert all((after.weights[name] == value).all() for name, value in before.weights.items())
    names = sorted(state)
    parts = {"pytorch_model-1.bin": names[:7], "pytorch_model-2.bin": names[7:]}
    for file, part in parts.items():
        torch.save({name: state[name].to(torch.bfloat16) for name in part}, tmp_path / file)
    (tmp_path / "pytorch_model.bin").unlink()
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    half = load_encoder(tmp_path)
    assert all(np.allclose(half.weights[name], value, rtol=1e-2) for name, value in before.weights.items())


@dataclasses.dataclass
class _Runs:
    command: str

    def __reduce__(self) -> Any:
        return (os.system, (self.command,))


def test_files_of_torch_run_nothing(tmp_path: Path) -> None:
    save(CASES["bert_masked"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    hostile = {"bert.pooler.dense.weight": _Runs(f"touch {tmp_path / 'ran'}")}
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(hostile))
    refuse(tmp_path, "cannot be read as weights alone")
    torch.save(hostile, tmp_path / "pytorch_model.bin")
    refuse(tmp_path, "cannot be read as weights alone")
    assert not (tmp_path / "ran").exists()
    torch.save({"a": [1, 2]}, tmp_path / "pytorch_model.bin")
    refuse(tmp_path, "holds something else than tensors by name")
    torch.save({"embeddings.position_embeddings.weight": torch.full((12, 18), float("nan"))},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    refuse(tmp_path, "position_embeddings.weight' holds 216 NaN")


def test_our_own_checkpoint_of_an_encoder(tmp_path: Path) -> None:
    for name in ("albert_masked_groups", "bert_classify", "roberta_classify"):
        save(CASES[name], tmp_path / name)
        imported = load_encoder(tmp_path / name)
        save_checkpoint(build_module(imported), tmp_path / "own.safetensors")
        again, _ = load_checkpoint(tmp_path / "own.safetensors")
        assert again.config == imported.config
        assert all((value.numpy() == imported.weights[key]).all() for key, value in again.state_dict().items())


# --- bad folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        ("bert_classify", {"position_embedding_type": "relative_key"}, "'position_embedding_type' = 'relative_key'"),
        ("bert_classify", {"is_decoder": True}, "'is_decoder' = True is not covered"),
        ("bert_classify", {"add_cross_attention": True}, "'add_cross_attention' = True"),
        ("bert_classify", {"pruned_heads": {"0": [1]}}, "'pruned_heads' = {'0': [1]}"),
        ("bert_classify", {"quantization_config": {"bits": 8}}, "'quantization_config' = {'bits': 8} is not known"),
        ("bert_classify", {"hidden_act": "mish"}, "'hidden_act' = 'mish'"),
        ("bert_classify", {"layer_norm_eps": 0}, "'layer_norm_eps' = 0"),
        ("bert_classify", {"num_attention_heads": 4}, "the width 18 is not a multiple of its 4 heads"),
        ("bert_classify", {"num_hidden_layers": 1 << 30}, "'num_hidden_layers' = 1073741824"),
        ("bert_classify", {"hidden_size": True}, "'hidden_size' = True"),
        ("bert_classify", {"architectures": ["BertForMultipleChoice"]}, "'BertForMultipleChoice' does not say"),
        ("bert_classify", {"architectures": None}, "None does not say what is to come out; choose with --task"),
        ("bert_classify", {"id2label": {"0": "a", "2": "b"}}, "'id2label' = {'0': 'a', '2': 'b'}"),
        ("bert_classify", {"id2label": {"0": "a", "1": "b"}}, "'classifier.weight' has shape (5, 18); config.json"),
        ("bert_classify", {"model_type": "deberta"}, "model_type = 'deberta' is no encoder that is covered"),
        ("bert_classify", {"vocab_size": 38}, "has shape (37, 18); config.json asks for (38, 18)"),
        ("bert_classify", {"num_hidden_layers": 1}, "'bert.encoder.layer.1.attention.output.LayerNorm.bias' is not"),
        ("roberta_masked", {"pad_token_id": -1}, "'pad_token_id' = -1"),
        ("roberta_masked", {"pad_token_id": 40}, "'max_position_embeddings' = 14"),
        ("albert_classify", {"num_hidden_groups": 9}, "'num_hidden_groups' = 9"),
        ("albert_classify", {"net_structure_type": 1}, "'net_structure_type' = 1"),
        ("albert_masked_groups", {"tie_word_embeddings": False}, "'tie_word_embeddings' = false"),
    ],
)  # fmt: skip
def test_keys_that_are_refused(name: str, keys: dict[str, Any], reason: str, tmp_path: Path) -> None:
    save(CASES[name], tmp_path)
    change_config(tmp_path, **keys)
    refuse(tmp_path, reason)


def test_keys_that_change_nothing(tmp_path: Path) -> None:
    save(CASES["bert_classify"], tmp_path)
    before = load_encoder(tmp_path)
    harmless = {name: value for name, value in UNUSED_KEYS.items() if value is not None}
    change_config(tmp_path, chunk_size_feed_forward=64, classifier_dropout=0.3, pooler_fc_size=768, **harmless,
                  sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})  # fmt: skip
    assert load_encoder(tmp_path).config == before.config


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    save(CASES["bert_masked"], tmp_path)
    change_tensors(tmp_path, cls__predictions__transform__dense__weight=np.zeros((18, 17), np.float32))
    refuse(tmp_path, "'cls.predictions.transform.dense.weight' has shape (18, 17); config.json asks for (18, 18)")
    change_tensors(tmp_path, cls__predictions__transform__dense__weight=None)
    refuse(tmp_path, "'cls.predictions.transform.dense.weight' is missing")
    save(CASES["bert_masked"], tmp_path)
    change_tensors(tmp_path, cls__predictions__decoder__weight=np.zeros((37, 18), np.float32))
    refuse(tmp_path, "'cls.predictions.decoder.weight' differs from it")
    save(CASES["bert_masked"], tmp_path)
    change_tensors(tmp_path, adapter__weight=np.zeros((3, 3), np.float32))
    refuse(tmp_path, "'adapter.weight' is not part of what config.json describes")


@pytest.mark.parametrize(
    ("case", "task", "reason"),
    [
        ("distilbert_first", "pooled", "DistilBERT has no pooler"),
        ("bert_rows", "classify", "'classifier.weight' is missing"),
        ("bert_rows", "translate", "unknown task 'translate'"),
    ],
)
def test_tasks_that_a_folder_cannot_serve(case: str, task: str, reason: str, tmp_path: Path) -> None:
    save(CASES[case], tmp_path)
    with pytest.raises(ModelError) as caught:
        load_encoder(tmp_path, task)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("modules.json", "[]", "is no list of modules"),
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "a.Dense"}]', "its modules are Transformer, Dense"),
        ("modules.json", '[{"type": "Transformer", "path": "../x"}, {"type": "Pooling"}]', "a module lies in '../x'"),
        ("modules.json", "{", "is not JSON"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "pools by pooling_mode_max_tokens"),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}', "pools by"),
        ("1_Pooling/config.json", '{"pooling_mode": "lasttoken"}', "'pooling_mode' = 'lasttoken'"),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true, "weights": [1]}', "'weights' = [1] is not known"),
        ("1_Pooling/config.json", '{"pooling_mode": "mean", "include_prompt": false}', "'include_prompt' = false"),
        ("sentence_bert_config.json", '{"max_seq_length": -3}', "'max_seq_length' = -3"),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "'do_lower_case' = true"),
    ],
)  # fmt: skip
def test_sentence_folders_that_are_refused(file: str, content: str, reason: str, tmp_path: Path) -> None:
    make_sentence_folder(CASES["bert_embedding"], tmp_path)
    (tmp_path / file).write_text(content)
    refuse(tmp_path, reason)


def test_the_tables_of_the_tests_are_odd() -> None:
    """Widths, heads and vocabularies that are no multiples of what kernels take at a time."""
    assert BERT["vocab_size"] == 37 and ALBERT["embedding_size"] == 7 and len(LABELS["id2label"]) == 5
