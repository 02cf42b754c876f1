"""Encoder-decoders: logits against transformers' and torch's own, and bad folders in one line each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from hugging_face import change_config, change_tensors
from hugging_face_pairs import CASES, VOCABULARY, Pair, example, own_pair, save_pair
from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.models.encoder_decoder import EncoderDecoder
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.encoder_decoder_weights import encoder_decoder_shapes
from picoformer.models.importers.imported_pair import ImportedPair
from picoformer.models.importers.load_pair import load_pair
from picoformer.models.relative_positions import relative_buckets

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Of logits: float32 sums in another order."""


def texts(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = np.random.default_rng(1)
    config = pair.model.config
    source = torch.from_numpy(chance.integers(0, config.encoder.vocab_size, (3, 19)))
    target = torch.from_numpy(chance.integers(0, config.vocab_size, (3, 23)))
    return source, target, torch.tensor([19, 4, 11])


def module_of(model: ImportedPair) -> EncoderDecoder:
    module = EncoderDecoder(model.config, seed=None).eval()
    module.load_weights({name: torch.from_numpy(value) for name, value in model.weights.items()})
    return module


def difference(pair: Pair, model: ImportedPair) -> float:
    source, target, lengths = texts(pair)
    wanted = pair.logits(source, target, lengths)
    with torch.no_grad():
        found = module_of(model)(source, target, lengths)
    assert found.shape == wanted.shape and float(wanted.std()) > 0.3  # logits near zero would hide mistakes
    return float((found - wanted).abs().max())


# --- the same logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str) -> None:
    """Teacher-forced, with sources of several lengths in one batch."""
    pair = example(name)
    model = pair.model
    assert model.family == CASES[name].kind.lower()
    assert {name: value.shape for name, value in model.weights.items()} == encoder_decoder_shapes(model.config)
    assert all(value.dtype == np.float32 for value in model.weights.values())
    assert difference(pair, model) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t5_far", {"relative_reach": 11}),
        ("t5", {"logits_bias": True}),
        ("bart_uneven", {"decoder.activation": "gelu"}),
        ("bart_uneven", {"decoder.scale_embedding": False}),
        ("bart", {"encoder.norm_epsilon": 1e-2}),
        ("t5_gated", {"decoder.activation": "gelu"}),
        ("t5", {"encoder.norm_epsilon": 1e-2}),
    ],
)
def test_the_comparison_would_see_a_mistake(name: str, change: dict[str, Any]) -> None:
    pair = example(name)
    ((key, value),) = change.items()
    side, _, inner = key.partition(".")
    config, weights = pair.model.config, dict(pair.model.weights)
    if inner:
        config = dataclasses.replace(config, **{side: dataclasses.replace(getattr(config, side), **{inner: value})})
    else:
        config = dataclasses.replace(config, **change)
    if key == "logits_bias":
        weights["logits_bias"] = np.full(VOCABULARY, 1e-2, np.float32)
    assert difference(pair, dataclasses.replace(pair.model, config=config, weights=weights)) > 2 * TOLERANCE


def test_the_transformer_of_2017_is_torchs() -> None:
    """nn.Transformer knows the same layers under other names; it has a norm behind the last one that the paper has
    not."""
    module, _ = own_pair()
    config = module.config
    for side, theirs in (("encoder", nn.TransformerEncoderLayer), ("decoder", nn.TransformerDecoderLayer)):
        own = getattr(config, side)
        rows, memory = torch.randn(2, 3, 9, 18, generator=torch.Generator().manual_seed(5))
        lengths = torch.tensor([9, 2, 5])
        hidden = torch.arange(9) >= lengths[:, None]
        ours: Any = rows
        wanted = rows
        for index, layer in enumerate(getattr(module, side).layers):
            other = theirs(18, 3, own.d_ff[index], dropout=0.0, activation="relu", batch_first=True).eval()
            names = {"self_attn": layer.attention, **({"multihead_attn": layer.cross} if side == "decoder" else {})}
            with torch.no_grad():
                for name, part in names.items():
                    attention = getattr(other, name)
                    parts = (part.query, part.key, part.value)
                    attention.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
                    attention.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
                    attention.out_proj.load_state_dict(part.out.state_dict())
                norms = [
                    layer.attention_norm,
                    *([layer.cross_norm] if side == "decoder" else []),
                    layer.feed_forward_norm,
                ]
                for number, one in enumerate(norms, 1):
                    getattr(other, f"norm{number}").load_state_dict(one.state_dict())
                other.linear1.load_state_dict(layer.feed_forward.up.state_dict())
                other.linear2.load_state_dict(layer.feed_forward.down.state_dict())
                zero = torch.zeros(3, 1, 1, 9).masked_fill(hidden[:, None, None], float("-inf"))
                if side == "encoder":
                    ours, wanted = layer(ours, zero), other(wanted, src_key_padding_mask=hidden)
                    continue
                causal = nn.Transformer.generate_square_subsequent_mask(9)
                ours = layer(ours, causal[None, None], memory, zero)
                wanted = other(wanted, memory, causal, memory_key_padding_mask=hidden)
        real = ~hidden if side == "encoder" else torch.ones_like(hidden)
        assert float((ours - wanted)[real].abs().max()) <= 1e-5 and float(wanted.std()) > 0.3


@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (8, 10), (16, 40), (64, 256), (4, 20)])
@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_transformers(buckets: int, reach: int, both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-reach, reach + 1 if both_ways else 1)
    wanted = T5Attention._relative_position_bucket(distances, both_ways, buckets, reach)
    assert relative_buckets(buckets, reach, both_ways) == tuple(wanted.tolist())


def test_rows_past_a_text_change_nothing() -> None:
    pair = example("t5")
    source, target, lengths = texts(pair)
    module = module_of(pair.model)
    other = source.clone()
    other[1, 4:] = 7
    with torch.no_grad():
        torch.testing.assert_close(module(other, target, lengths), module(source, target, lengths))
    with pytest.raises(DataError, match="source_length is"):
        module(source, target, torch.tensor([20, 1, 1]))


# --- what stands beside the weights -------------------------------------------------------------------------


def test_what_a_text_begins_and_ends_with(tmp_path: Path) -> None:
    assert example("bart").model.begin == (2,) and example("bart").model.eos == (2,)
    assert example("bart").model.pad == 1 and example("marian").model.begin == (VOCABULARY - 1,)
    save_pair(CASES["bart"], tmp_path / "bart")
    change_config(tmp_path / "bart", forced_bos_token_id=0)
    assert load_pair(tmp_path / "bart").begin == (2, 0)
    save_pair(CASES["t5"], tmp_path)
    change_config(tmp_path, decoder_start_token_id=...)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 5, "eos_token_id": [3, 99]}')
    model = load_pair(tmp_path)
    assert (model.begin, model.eos, model.pad) == ((5,), (3,), 0)


def test_copies_of_the_table_are_taken_and_compared(tmp_path: Path) -> None:
    save_pair(CASES["bart"], tmp_path)
    table = load_file(tmp_path / "model.safetensors")["model.shared.weight"]
    change_tensors(tmp_path, model__encoder__embed_tokens__weight=table, lm_head__weight=table)
    load_pair(tmp_path)
    change_tensors(tmp_path, model__encoder__embed_tokens__weight=table + 1)
    with pytest.raises(ModelError, match=r"'model.encoder.embed_tokens.weight' differs"):
        load_pair(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("bart", {"static_position_embeddings": True}, "'static_position_embeddings' is not False"),
        ("bart", {"normalize_before": True}, "'normalize_before' is not False"),
        ("bart", {"tie_word_embeddings": False}, "'tie_word_embeddings' = False"),
        ("bart", {"some_new_key": 3}, "'some_new_key' = 3 is not known"),
        ("bart", {"d_model": 19}, "'d_model' = 19 is not a multiple"),
        ("bart", {"encoder_layers": 300}, "300 layers in the encoder"),
        ("bart", {"decoder_start_token_id": 99, "bos_token_id": 98}, "'decoder_start_token_id' is missing or outside"),
        ("bart", {"max_position_embeddings": 41}, "'model.encoder.embed_positions.weight' has shape"),
        ("bart", {"decoder_layers": 1}, "is not part of what config.json describes"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "'share_encoder_decoder_embeddings' = False"),
        ("marian", {"decoder_vocab_size": 60}, "'decoder_vocab_size' is not 'vocab_size'"),
        ("t5", {"feed_forward_proj": "gated-magic"}, "'feed_forward_proj' = 'gated-magic'"),
        ("t5", {"dense_act_fn": "silu"}, "'dense_act_fn' or 'is_gated_act' disagree"),
        ("t5", {"relative_attention_num_buckets": 30}, "relative_buckets = 30; write a multiple of 4"),
        ("t5", {"relative_attention_max_distance": 16}, "less than twice relative_reach = 16"),
        ("t5", {"d_kv": 6}, "SelfAttention.q.weight' has shape"),
        ("t5", {"num_layers": "two"}, "'num_layers' = 'two'; write an integer"),
        ("t5", {"model_type": "gpt2"}, "model_type = 'gpt2' is not covered; known are bart, marian, t5, mt5"),
        ("t5", {"is_decoder": True}, "'is_decoder' = True is not covered"),
    ],
)
def test_bad_folders_are_refused_in_one_line(name: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    save_pair(CASES[name], tmp_path)
    change_config(tmp_path, **change)
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ModelError) as caught:
        load_pair(tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_bad_tensors_are_refused(tmp_path: Path) -> None:
    save_pair(CASES["bart"], tmp_path)
    change_tensors(tmp_path, final_logits_bias=np.full((1, VOCABULARY), np.nan, np.float32))
    with pytest.raises(ModelError, match="'final_logits_bias' holds 53 NaN"):
        load_pair(tmp_path)
    change_tensors(tmp_path, final_logits_bias=None)
    with pytest.raises(ModelError, match="'final_logits_bias' is missing"):
        load_pair(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_pair(tmp_path / "nothing")


# --- configurations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": {"causal": True}}, "the encoder sees all rows"),
        ({"encoder": {"pooling": "mean"}}, "the encoder reads token ids"),
        ({"decoder": {"classes": 9}}, "the decoder is a language model"),
        ({"decoder": {"kv_heads": (1, 1)}}, "the decoder has kv_heads"),
        ({"decoder": {"positions": "rotary"}}, "the decoder has positions = 'rotary'"),
        ({"shared_embedding": True}, "shared_embedding: vocab_size is 29"),
        ({"relative_buckets": 6}, "relative_buckets = 6"),
        ({"relative_buckets": True}, "relative_buckets = True"),
        ({"logits_bias": 1}, "logits_bias = 1"),
        ({"nothing": 1}, "unknown key 'nothing'"),
        ({"encoder": 3}, "lacks the keys of its encoder"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], says: str) -> None:
    plain = own_pair()[0].config.to_dict()
    for key, value in change.items():
        plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=says):
        EncoderDecoderConfig.from_dict(plain)


def test_a_configuration_survives_its_json() -> None:
    config = own_pair()[0].config
    assert EncoderDecoderConfig.from_dict(config.to_dict()) == config
