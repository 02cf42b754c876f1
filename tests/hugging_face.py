"""Tiny random models of transformers, saved as folders: what importers are compared with."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.numpy import load_file, save_file

VOCABULARY = 53

LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 18, "intermediate_size": 27, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 18, "n_head": 3, "n_layer": 3, "n_positions": 80}
FALCON = {"vocab_size": VOCABULARY, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 18, "n_layer": 2, "n_head": 3}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 1000.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0],
            "original_max_position_embeddings": 64, "rope_theta": 10000.0}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration of transformers, and how its model is saved."""

    kind: str
    base: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    saving: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


CASES = {
    "gpt2": Case("GPT2", GPT2),
    "gpt2_untied_odd": Case("GPT2", GPT2, {"n_inner": 25, "tie_word_embeddings": False, "activation_function": "relu"}),
    "gpt2_one_head": Case("GPT2", GPT2, {"n_embd": 7, "n_head": 1}),
    "gpt2_scaled_by_layer": Case(
        "GPT2", GPT2, {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
    ),
    "llama": Case("Llama", LLAMA),
    "llama_tied_biased": Case(
        "Llama", LLAMA,
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3},
    ),
    "llama_wide_heads": Case("Llama", LLAMA, {"head_dim": 10, "hidden_act": "gelu"}),
    "llama_linear": Case("Llama", LLAMA, {"rope_parameters": LINEAR}),
    "llama_dynamic": Case("Llama", LLAMA, {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}),
    "llama_llama3": Case("Llama", LLAMA, {"rope_parameters": LLAMA3, "head_dim": 16}),
    "llama_yarn": Case("Llama", LLAMA, {"rope_parameters": YARN, "head_dim": 16}),
    "llama_yarn_all_keys": Case(
        "Llama", LLAMA,
        {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8, "truncate": False, "beta_fast": 16.0,
                             "beta_slow": 2.0}, "head_dim": 16},
    ),
    "llama_yarn_attention_factor": Case("Llama", LLAMA, {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "llama_longrope": Case("Llama", LLAMA, {"rope_parameters": LONGROPE}),
    "llama_sharded": Case("Llama", LLAMA, saving={"max_shard_size": "4KB"}),
    "llama_bfloat16": Case("Llama", LLAMA, {"tie_word_embeddings": True}, dtype=torch.bfloat16),
    "llama_float16": Case("Llama", LLAMA, dtype=torch.float16),
    "mistral": Case("Mistral", LLAMA, {"sliding_window": 128, "head_dim": 4}),
    "qwen2": Case("Qwen2", LLAMA, {"hidden_size": 20, "num_attention_heads": 2, "tie_word_embeddings": True}),
    "falcon": Case("Falcon", FALCON),
    "falcon_untied_odd": Case(
        "Falcon", FALCON,
        {"hidden_size": 18, "num_attention_heads": 3, "tie_word_embeddings": False, "ffn_hidden_size": 31},
    ),
    "falcon_sequential": Case("Falcon", FALCON, {"multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon_new": Case("Falcon", FALCON, {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon_new_one_norm": Case(
        "Falcon", FALCON, {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1}
    ),
    "falcon_alibi": Case("Falcon", FALCON, {"alibi": True}),
    "falcon_alibi_rounded": Case(  # slopes that bfloat16 does not hold
        "Falcon", FALCON, {"alibi": True, "num_attention_heads": 12, "multi_query": False, "parallel_attn": False}
    ),
    "bloom": Case("Bloom", BLOOM),
    "bloom_12_heads": Case("Bloom", BLOOM, {"hidden_size": 36, "n_head": 12}),
    "bloom_untied": Case("Bloom", BLOOM, {"hidden_size": 10, "n_head": 2, "tie_word_embeddings": False}),
    "mixtral": Case("Mixtral", LLAMA, {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral_one_of_three": Case(
        "Mixtral", LLAMA, {"num_local_experts": 3, "num_experts_per_tok": 1, "num_key_value_heads": 3}
    ),
    "mixtral_all": Case(
        "Mixtral", LLAMA, {"num_local_experts": 2, "num_experts_per_tok": 2, "tie_word_embeddings": True, "head_dim": 8}
    ),
}  # fmt: skip


def save(case: Case, folder: Path, seed: int = 0) -> Any:
    """A model of transformers in eval mode whose attention is far from even, and its folder."""
    transformers.logging.set_verbosity_error()
    config = getattr(transformers, f"{case.kind}Config")(**{**case.base, **case.keys})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            parameter.copy_(parameter.to(case.dtype))
    copy.deepcopy(model).to(case.dtype).save_pretrained(folder, **case.saving)
    return model


def change_config(folder: Path, **keys: Any) -> None:
    """Set keys of a folder's config.json; those that are `...` go."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text("utf-8")), **keys}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}), "utf-8")


def change_tensors(folder: Path, **tensors: Any) -> None:
    """Set tensors of a folder's one file, dots written as two underscores; those that are None go."""
    path = folder / "model.safetensors"
    found = {**load_file(path), **{name.replace("__", "."): value for name, value in tensors.items()}}
    save_file({name: value for name, value in found.items() if value is not None}, path)
