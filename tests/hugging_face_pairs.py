"""Tiny random encoder-decoders of transformers, saved as folders, and one of our own: what is compared with."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from picoformer.models.config import TransformerConfig
from picoformer.models.encoder_decoder import EncoderDecoder
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.importers.imported_pair import ImportedPair
from picoformer.models.importers.load_pair import load_pair

VOCABULARY = 53
BART = {
    "vocab_size": VOCABULARY, "d_model": 18, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 25, "decoder_ffn_dim": 25, "max_position_embeddings": 40,
}  # fmt: skip
MARIAN = {**BART, "pad_token_id": VOCABULARY - 1, "decoder_start_token_id": VOCABULARY - 1}
T5 = {"vocab_size": VOCABULARY, "d_model": 18, "d_kv": 5, "d_ff": 25, "num_layers": 2, "num_heads": 3,
      "decoder_start_token_id": 0}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration of transformers, and a head of its own where it is not the token table."""

    kind: str
    base: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    own_head: bool = False


CASES = {
    "bart": Case("Bart", BART),
    "bart_uneven": Case(
        "Bart", BART,
        {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_ffn_dim": 31,
         "scale_embedding": True, "activation_function": "relu"},
    ),
    "bart_one_head": Case("Bart", BART, {"d_model": 7, "encoder_attention_heads": 1, "decoder_attention_heads": 1}),
    "marian": Case("Marian", MARIAN, {"scale_embedding": True, "activation_function": "swish"}),
    "marian_odd": Case(
        "Marian", MARIAN,
        {"d_model": 7, "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_layers": 1},
    ),
    "t5": Case("T5", T5),
    "t5_far": Case(  # most distances of a text share buckets
        "T5", T5, {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "num_decoder_layers": 1}
    ),
    "t5_gated": Case(
        "T5", T5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_heads": 1, "d_kv": 18}
    ),
    "t5_own_head": Case(
        "T5", T5, {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
        own_head=True,
    ),
    "mt5": Case("MT5", T5, {"d_model": 20, "num_heads": 2}),
}  # fmt: skip


def save_pair(case: Case, folder: Path, seed: int = 0) -> Any:
    """A model of transformers in eval mode whose attention is far from even, and its folder."""
    transformers.logging.set_verbosity_error()
    config = getattr(transformers, f"{case.kind}Config")(**{**case.base, **case.keys})
    torch.manual_seed(seed)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    if case.own_head:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, config.d_model) * 0.3)
    with torch.no_grad():
        if case.kind == "Marian":  # sinusoids are not saved, and are not trained
            parameters = [p for name, p in model.named_parameters() if "embed_positions" not in name]
        else:
            parameters = list(model.parameters())
        for parameter in parameters:
            if parameter.ndim > 1 and "T5" not in case.kind:
                parameter.mul_(8.0)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            elif parameter.shape[0] != VOCABULARY:
                parameter.mul_(1.5)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.add_(torch.randn(model.final_logits_bias.shape))
    model.save_pretrained(folder)
    return model


def own_pair(seed: int = 0) -> tuple[EncoderDecoder, ImportedPair]:
    """The transformer of 2017: sinusoids, post-norm, a vocabulary for each side, a head of its own."""
    both = {"d_model": 18, "head_dim": 6, "positions": "sinusoidal", "norm_position": "post", "final_norm": False,
            "activation": "relu", "pooling": "none", "scale_embedding": True, "sequence": 40}  # fmt: skip
    encoder = TransformerConfig(heads=(3, 3), d_ff=(25, 31), vocab_size=29, **both)
    decoder = TransformerConfig(
        heads=(3, 3), d_ff=(25, 19), vocab_size=VOCABULARY, classes=VOCABULARY, causal=True, **both
    )
    module = EncoderDecoder(EncoderDecoderConfig(encoder, decoder), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.0 if "token" in name else 2.0)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    weights = {name: value.detach().numpy().copy() for name, value in module.weights().items()}
    return module, ImportedPair(module.config, weights, "picoformer", "a test", "0" * 64, None, (1,), (2,), 0)


@dataclass(frozen=True)
class Pair:
    """A model as imported, and as transformers (or torch) computes it."""

    model: ImportedPair
    theirs: Any

    def logits(self, source: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(batch, target, vocabulary); padding of transformers by its mask."""
        with torch.no_grad():
            if isinstance(self.theirs, EncoderDecoder):
                found: torch.Tensor = self.theirs(source, target, lengths)
                return found
            mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
            result: torch.Tensor = self.theirs(
                input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
            ).logits
            return result


NAMES = [*CASES, "own"]


@functools.cache
def example(name: str) -> Pair:
    """One of NAMES."""
    if name == "own":
        module, model = own_pair()
        return Pair(model, module)
    with tempfile.TemporaryDirectory() as place:
        theirs = save_pair(CASES[name], Path(place))
        return Pair(load_pair(Path(place)), theirs)
