"""What families of decoders may combine: the checks of a TransformerConfig's keys for positions, blocks and experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.models.config import TransformerConfig


def check_families(config: TransformerConfig) -> None:
    """Raise ConfigError for keys that do not go together; types have been checked."""
    _check_rotary(config)
    _check_alibi(config)
    if config.parallel > 2:
        raise ConfigError(f"parallel = {config.parallel}; write 0 (one after the other), 1 (one norm) or 2 (two norms)")
    if config.parallel and config.norm_position != "pre":
        raise ConfigError("parallel needs norm_position = 'pre': both branches read the normed rows; set it")
    if config.embedding_norm and config.norm != "layer":
        raise ConfigError("embedding_norm is a LayerNorm and needs norm = 'layer'; set one of the two")
    _check_experts(config)


def _check_rotary(config: TransformerConfig) -> None:
    if config.positions != "rotary":
        for key, unset in (("rotary_dim", 0), ("rotary_interleaved", False), ("rotary_frequencies", ()),
                           ("rotary_scale", 1.0)):  # fmt: skip
            if getattr(config, key) != unset:
                raise ConfigError(f"{key} needs positions = 'rotary', not '{config.positions}'; leave it out")
        return
    width = config.rotary_dim or config.head_dim
    if width % 2 or width > config.head_dim:
        key = "rotary_dim" if config.rotary_dim else "head_dim"
        raise ConfigError(
            f"{key} = {width}: positions 'rotary' turn pairs; write an even rotary_dim of at most head_dim = "
            f"{config.head_dim}"
        )
    if config.rotary_frequencies and len(config.rotary_frequencies) != width // 2:
        raise ConfigError(
            f"rotary_frequencies has {len(config.rotary_frequencies)} entries; give one for each of {width // 2} pairs"
        )


def _check_alibi(config: TransformerConfig) -> None:
    if config.positions != "alibi":
        if config.alibi_slopes or config.alibi_bfloat16:
            raise ConfigError(f"alibi_slopes need positions = 'alibi', not '{config.positions}'; leave them out")
        return
    if not config.causal:
        raise ConfigError("positions = 'alibi' need causal = true: keys further on would weigh more; set it")
    if len(set(config.heads)) != 1 or len(config.alibi_slopes) != config.heads[0]:
        raise ConfigError(
            f"alibi_slopes has {len(config.alibi_slopes)} entries, heads are {list(config.heads)}; give every layer as "
            "many heads, and one slope for each"
        )


def _check_experts(config: TransformerConfig) -> None:
    if not config.experts:
        if config.experts_per_token:
            raise ConfigError(f"experts_per_token = {config.experts_per_token} needs experts; set both or neither")
        return
    if not 1 <= config.experts_per_token <= config.experts:
        raise ConfigError(f"experts_per_token = {config.experts_per_token}; write 1 to experts = {config.experts}")
    if config.ranks:
        raise ConfigError("ranks do not go with experts, which stay whole; leave them out")
