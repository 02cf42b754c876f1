"""Importers of Hugging Face folders: logits against transformers for every family, spellings of older folders, and
bad folders in one line each."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hugging_face import CASES, LINEAR, LLAMA, YARN, Case, change_config, change_tensors, save
from picoformer.errors import ModelError
from picoformer.models.checkpoint import save_checkpoint
from picoformer.models.imported_module import build_module, check_against_transformers
from picoformer.models.importers import ImportedModel, load_decoder
from picoformer.models.weights import weight_shapes

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Of logits: float32 sums in another order."""
ROWS = 64


def tokens(vocabulary: int, rows: int = ROWS) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, vocabulary, (2, rows)))


def difference(imported: ImportedModel, theirs: Any) -> float:
    ids = tokens(imported.config.vocab_size)
    with torch.no_grad():
        wanted = theirs(ids, use_cache=False).logits
        found = build_module(imported)(ids)
    assert found.shape == wanted.shape and float(wanted.std()) > 0.3  # logits near zero would hide mistakes
    return float((found - wanted).abs().max())


# --- the same logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    theirs = save(case, tmp_path)
    imported = load_decoder(tmp_path)
    assert imported.family == case.kind.lower() and imported.config.sequence >= ROWS
    assert {name: value.shape for name, value in imported.weights.items()} == weight_shapes(imported.config)
    assert all(value.dtype == np.float32 for value in imported.weights.values())
    assert difference(imported, theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rotary_interleaved": True}),
        ("llama", {"norm_epsilon": 1e-2}),
        ("llama_llama3", {"rotary_frequencies": ()}),
        ("llama_yarn", {"rotary_scale": 1.0}),
        ("llama_yarn", {"rotary_frequencies": ()}),
        ("llama_longrope", {"rotary_frequencies": ()}),
        ("falcon_alibi_rounded", {"alibi_bfloat16": False}),
        ("bloom", {"alibi_slopes": (0.5, 0.25, 0.125)}),
        ("bloom", {"activation": "gelu"}),
        ("mixtral", {"experts_per_token": 1}),
    ],
)
def test_the_comparison_would_see_a_mistake(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    theirs = save(CASES[name], tmp_path)
    imported = load_decoder(tmp_path)
    wrong = dataclasses.replace(imported, config=dataclasses.replace(imported.config, **change))
    assert difference(wrong, theirs) > 2 * TOLERANCE


def test_several_files_give_what_one_gives(tmp_path: Path) -> None:
    save(CASES["llama"], tmp_path / "one")
    save(CASES["llama_sharded"], tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load_decoder(tmp_path / "one"), load_decoder(tmp_path / "many")
    assert one.config == many.config and one.sha256 != many.sha256
    assert all((one.weights[name] == many.weights[name]).all() for name in one.weights)


def test_the_check_against_transformers(tmp_path: Path) -> None:
    save(CASES["llama"], tmp_path)
    imported = load_decoder(tmp_path)
    found = check_against_transformers(tmp_path, imported)
    assert found is not None and found <= TOLERANCE
    spoiled = {**imported.weights, "final_norm.weight": imported.weights["final_norm.weight"] * 1.1}
    spoiled_by = check_against_transformers(tmp_path, dataclasses.replace(imported, weights=spoiled))
    assert spoiled_by is not None and spoiled_by > 1e-2
    assert check_against_transformers(tmp_path, dataclasses.replace(imported, family="llama2.c")) is None


def test_what_stands_beside_the_weights(tmp_path: Path) -> None:
    save(CASES["gpt2"], tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 3, "eos_token_id": [5, 70, 6]}))
    imported = load_decoder(tmp_path)
    assert (imported.bos, imported.eos) == (3, (5, 6))  # 70 is outside the vocabulary
    assert imported.tokenizer == tmp_path / "tokenizer.json"
    before = imported.sha256
    change_config(tmp_path, eos_token_id=1)
    assert load_decoder(tmp_path).sha256 != before and len(before) == 64


def test_imports_load_no_torch(tmp_path: Path) -> None:
    save(CASES["llama_bfloat16"], tmp_path)
    code = (
        "import sys, pathlib; from picoformer.models.importers import load_decoder\n"
        f"assert load_decoder(pathlib.Path({str(tmp_path)!r})).config.layers == 2\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# --- older spellings ----------------------------------------------------------------------------------------


def test_rope_scaling_as_it_was_spelled(tmp_path: Path) -> None:
    theirs = save(CASES["llama_linear"], tmp_path)
    change_config(tmp_path, rope_parameters=..., rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0})
    assert difference(load_decoder(tmp_path), theirs) <= TOLERANCE


def test_yarn_with_its_length_outside(tmp_path: Path) -> None:
    theirs = save(Case("Llama", LLAMA, {"rope_parameters": YARN}), tmp_path)
    scaling = {"rope_type": "yarn", "factor": 4.0}
    change_config(tmp_path, rope_parameters=..., rope_theta=10000.0, rope_scaling=scaling,
                  original_max_position_embeddings=32)  # fmt: skip
    assert difference(load_decoder(tmp_path), theirs) <= TOLERANCE


def test_experts_in_one_tensor(tmp_path: Path) -> None:
    theirs = save(CASES["mixtral"], tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in found.items() if "block_sparse_moe" not in name}
    for layer in range(2):
        old, new = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        parts = {p: np.stack([found[f"{old}.experts.{e}.{p}.weight"] for e in range(5)]) for p in ("w1", "w2", "w3")}
        tensors[f"{new}.gate.weight"] = found[f"{old}.gate.weight"]
        tensors[f"{new}.experts.gate_up_proj"] = np.concatenate((parts["w1"], parts["w3"]), axis=1)
        tensors[f"{new}.experts.down_proj"] = parts["w2"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert difference(load_decoder(tmp_path), theirs) <= TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_tensors_without_the_prefix(name: str, tmp_path: Path) -> None:
    theirs = save(CASES[name], tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    tensors = {key.removeprefix("transformer."): value for key, value in found.items()}
    if name == "gpt2":
        tensors |= {f"h.{layer}.attn.bias": np.tril(np.ones((1, 1, 80, 80), np.float32)) for layer in range(3)}
        change_config(tmp_path, n_ctx=80)
    else:
        change_config(tmp_path, hidden_size=..., n_embed=18, n_head=..., num_attention_heads=3, seq_length=100,
                      n_inner=None, offset_alibi=100, skip_bias_add=True, masked_softmax_fusion=True)  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    assert difference(load_decoder(tmp_path), theirs) <= TOLERANCE


def test_a_tied_head_may_be_written_too(tmp_path: Path) -> None:
    theirs = save(CASES["llama_tied_biased"], tmp_path)
    table = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(tmp_path, lm_head__weight=table)
    assert difference(load_decoder(tmp_path), theirs) <= TOLERANCE
    change_tensors(tmp_path, lm_head__weight=table + 1)
    refuse(tmp_path, "'lm_head.weight' differs from it")


# --- our own checkpoint -------------------------------------------------------------------------------------


def test_an_imported_model_as_our_own_checkpoint(tmp_path: Path) -> None:
    save(CASES["mixtral"], tmp_path / "theirs")
    imported = load_decoder(tmp_path / "theirs")
    save_checkpoint(build_module(imported), tmp_path / "own.safetensors")
    again = load_decoder(tmp_path / "own.safetensors")
    assert again.family == "picoformer" and again.config == imported.config
    assert set(again.weights) == set(imported.weights)
    assert all((again.weights[name] == imported.weights[name]).all() for name in again.weights)


# --- bad folders --------------------------------------------------------------------------------------------


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_decoder(path)
    message = str(caught.value)
    assert reason in message and str(path) in message and "\n" not in message


BAD_KEYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": ("llama", {"logit_softcap": 30.0}, "'logit_softcap' = 30.0 is not known"),
    "quantized": ("llama", {"quantization_config": {"bits": 4}}, "'quantization_config'"),
    "family": ("llama", {"model_type": "mamba"}, "model_type = 'mamba' is not covered"),
    "no_family": ("llama", {"model_type": ...}, "model_type = None is not covered"),
    "missing": ("llama", {"hidden_size": ...}, "lacks the key 'hidden_size'"),
    "text": ("llama", {"num_hidden_layers": "2"}, "'num_hidden_layers' = '2'; write an integer"),
    "huge": ("llama", {"num_hidden_layers": 1 << 40}, "'num_hidden_layers' = 1099511627776"),
    "many_layers": ("llama", {"num_hidden_layers": 5000}, "5000 layers; 256 are the most"),
    "true": ("llama", {"hidden_size": True}, "'hidden_size' = True"),
    "negative": ("gpt2", {"n_head": -3}, "'n_head' = -3"),
    "wrong_width": ("llama", {"hidden_size": 24}, "config.json asks for"),
    "more_layers": ("llama", {"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing"),
    "fewer_layers": ("llama", {"num_hidden_layers": 1}, "is not part of what config.json describes (9 in all)"),
    "vocabulary": ("gpt2", {"vocab_size": 54}, "'transformer.wte.weight' has shape (53, 18)"),
    "untied": ("gpt2", {"tie_word_embeddings": False}, "'lm_head.weight' is missing"),
    "kv_heads": ("llama", {"num_key_value_heads": 2}, "kv_heads[0] = 2 does not divide heads[0] = 3"),
    "head_dim": ("llama", {"head_dim": 5}, "heads of 5 elements cannot be turned in pairs"),
    "epsilon": ("llama", {"rms_norm_eps": float("nan")}, "'rms_norm_eps' = nan; write a number above 0"),
    "activation": ("llama", {"hidden_act": "xielu"}, "'hidden_act' = 'xielu'; write one of"),
    "rope_type": ("llama", {"rope_parameters": {"rope_type": "su"}}, "rope_type = 'su' is not covered"),
    "rope_key": ("llama", {"rope_parameters": {**LINEAR, "alpha": 3}}, "unknown key 'alpha'"),
    "rope_factor": ("llama", {"rope_parameters": {"rope_type": "linear"}}, "lacks the key 'factor'"),
    "rope_zero": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "'factor' = 0; write a number"),
    "rope_huge": ("llama", {"rope_parameters": {**LINEAR, "factor": 10**400}}, "'factor' = 1000"),
    "rope_log": ("llama_yarn", {"rope_parameters": {**YARN, "rope_theta": 1.0}}, "'yarn' cannot be worked out"),
    "rope_list": ("llama", {"rope_parameters": [1]}, "'rope_parameters' = [1]; write an object"),
    "rope_twice": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "disagree"),
    "rope_part": ("llama", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' = 0.5 is not covered"),
    "rope_short": ("llama_longrope", {"rope_parameters": {**CASES["llama_longrope"].keys["rope_parameters"],
                   "short_factor": [1.0]}}, "'short_factor' = [1.0]; write a list of 3 numbers"),
    "window": ("mistral", {"sliding_window": 100}, "'sliding_window' = 100 is shorter than the context of 128"),
    "window_default": ("mistral", {"sliding_window": ..., "max_position_embeddings": 8192}, "'sliding_window' = 4096"),
    "layer_types": ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "'layer_types'"),
    "post_norm": ("bloom", {"apply_residual_connection_post_layernorm": True}, "only residuals from before the norm"),
    "cross": ("gpt2", {"add_cross_attention": True}, "'add_cross_attention' = True is not covered"),
    "falcon_norms": ("falcon", {"num_ln_in_parallel_attn": 2}, "is no Falcon that exists"),
    "experts": ("mixtral", {"num_experts_per_tok": 6}, "experts_per_token = 6; write 1 to experts = 5"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_bad_configurations_in_one_line(bad: str, tmp_path: Path) -> None:
    name, keys, reason = BAD_KEYS[bad]
    save(CASES[name], tmp_path)
    change_config(tmp_path, **keys)
    refuse(tmp_path, reason)


def test_bad_tensors_in_one_line(tmp_path: Path) -> None:
    save(CASES["llama"], tmp_path)
    norm = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    for value, reason in (
        (np.append(norm[1:], np.nan).astype(np.float32), "'model.norm.weight' holds 1 NaN or infinite values"),
        (norm[1:], "'model.norm.weight' has shape (17,); config.json asks for (18,)"),
        (norm.astype(np.int32), "'model.norm.weight' is I32; save it as one of F32, F16, BF16"),
        (None, "'model.norm.weight' is missing"),
    ):
        change_tensors(tmp_path, model__norm__weight=value)
        refuse(tmp_path, reason)
    change_tensors(tmp_path, model__norm__weight=norm, model__extra=norm)
    refuse(tmp_path, "'model.extra' is not part of what config.json describes")


def rewrite_header(path: Path, change: Any) -> None:
    """Put another header before the same data."""
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    text = change(header) if callable(change) else change
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def lie(key: str, value: Any) -> Any:
    def change(header: dict[str, Any]) -> None:
        header["model.norm.weight"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lie("shape", [1 << 40]), "takes 4398046511104 bytes, its data_offsets 72"),
        (lie("shape", [-18]), "no valid shape"),
        (lie("shape", [18.0]), "no valid shape"),
        (lie("shape", [1] * 9), "no valid shape"),
        (lie("dtype", "F4"), "unknown type 'F4'"),
        (lie("data_offsets", [1 << 50, (1 << 50) + 72]), "begins at byte"),
        (lie("data_offsets", [0, 72]), "begins at byte"),
        (lie("data_offsets", [72, 0]), "its data_offsets -72"),
        (lie("data_offsets", None), "no valid shape or data_offsets"),
        (lambda header: header.update({"model.norm.weight": 7}), "no valid shape"),
        (lambda header: header.pop("model.norm.weight"), "bytes, but its header tells of"),
        (b"[]", "not a JSON object"),
        (b"{", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        (b"\xff\xfe{", "its header is not JSON"),
    ],
)
def test_a_header_that_lies(change: Any, reason: str, tmp_path: Path) -> None:
    save(CASES["llama"], tmp_path)
    rewrite_header(tmp_path / "model.safetensors", change)
    refuse(tmp_path, reason)


def test_files_of_a_wrong_length(tmp_path: Path) -> None:
    save(CASES["llama"], tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for data, reason in (
        (whole[:-1], "bytes, but its header tells of"),
        (whole + b"\0", "bytes, but its header tells of"),
        (whole[:100], "not a safetensors file, or cut off"),
        (b"", "not a safetensors file, or cut off: 0 bytes"),
        (struct.pack("<Q", 1 << 62) + whole[8:], "not a safetensors file, or cut off"),
    ):
        path.write_bytes(data)
        refuse(tmp_path, reason)
    path.unlink()
    refuse(tmp_path, "has neither model.safetensors nor model.safetensors.index.json")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("../model.safetensors", "must be a .safetensors file of the same folder"),
        ("/etc/model.safetensors", "must be a .safetensors file of the same folder"),
        ("..", "must be a .safetensors file of the same folder"),
        ("a\0b.safetensors", "must be a .safetensors file of the same folder"),
        ("weights.bin", "must be a .safetensors file of the same folder"),
        (7, "must be a .safetensors file of the same folder"),
        ("gone.safetensors", "names gone.safetensors, which is not there"),
        ("model-00002-of-00002.safetensors", "is in model-00002-of-00002.safetensors, which lacks it"),
    ],
)
def test_an_index_that_lies(file: Any, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(Case("Llama", LLAMA, saving={"max_shard_size": "15KB"}), folder)
    save_file({"model.norm.weight": np.ones(18, np.float32)}, tmp_path / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    name = next(name for name, where in values["weight_map"].items() if where == "model-00001-of-00002.safetensors")
    values["weight_map"][name] = file
    index.write_text(json.dumps(values))
    refuse(folder, reason)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    refuse(tmp_path / "gone", "no such file or folder")
    refuse(tmp_path, "config.json: cannot be read")
    for text, reason in (("{", "is not JSON"), ("[" * 10_000, "is not JSON"), ("[1]", "is not a JSON object")):
        (tmp_path / "config.json").write_text(text)
        refuse(tmp_path, reason)
    (tmp_path / "model.pt").write_bytes(b"PK")
    refuse(tmp_path / "model.pt", "'.pt' is no kind of checkpoint that is read")
