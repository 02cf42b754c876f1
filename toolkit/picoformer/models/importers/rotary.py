"""Rotary positions as config.json states them, every way of scaling included, to explicit frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.importers.keys import Keys, is_positive

TYPES: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor"},
}
"""rope_type → its keys, beside those that every type may have."""


@dataclass(frozen=True)
class Rotary:
    """The keys of a TransformerConfig, and what was left out."""

    frequencies: tuple[float, ...]
    scale: float
    sequence: int
    note: str = ""

    def config_keys(self) -> dict[str, Any]:
        """For `language_model`."""
        return {
            "positions": "rotary",
            "rotary_frequencies": self.frequencies,
            "rotary_scale": self.scale,
            "sequence": self.sequence,
        }


def read_rotary(keys: Keys, head_dim: int, sequence: int, theta: float = 10000.0) -> Rotary:
    """The frequencies for a model of `sequence` positions; `theta` is the family's default base.

    Reads rope_parameters (transformers 5), or rope_theta and rope_scaling. Scalings that depend on the length of the
    text are taken up to the length that they leave alone: the sequence gets shorter where that is so. Raises ModelError
    for what is not known.
    """
    found = [keys.value(name, default=None) for name in ("rope_parameters", "rope_scaling")]
    given = [value for value in found if value]
    if len(given) == 2 and given[0] != given[1]:
        raise ModelError(f"{keys.path}: 'rope_parameters' and 'rope_scaling' disagree; keep one of them")
    values = given[0] if given else {}
    if not isinstance(values, dict):
        raise keys.error("rope_parameters", values, "an object")
    theta = keys.number("rope_theta", default=theta)
    keys.refuse("partial_rotary_factor", 1, 1.0, mend="whole heads are turned in this family; remove the key")
    outer_length = keys.value("original_max_position_embeddings", default=None)
    rope = Keys(keys.path, values)
    theta = rope.number("rope_theta", default=theta)
    rope.refuse("partial_rotary_factor", 1, 1.0, mend="whole heads are turned in this family; remove the key")
    kind = rope.value("rope_type", default=rope.value("type", default="default"))
    rope.value("type", default=None)
    if not isinstance(kind, str) or kind not in TYPES:
        raise ModelError(f"{keys.path}: rope_type = {kind!r} is not covered; known are {', '.join(TYPES)}")
    original = sequence
    if kind in ("llama3", "yarn", "longrope"):
        original = rope.integer("original_max_position_embeddings", default=sequence)
        if outer_length is not None:
            original = keys.integer("original_max_position_embeddings")
    else:
        rope.refuse("original_max_position_embeddings", sequence, mend=f"remove it: '{kind}' does not read it")
    for name in values:
        if name not in TYPES[kind] | {"rope_theta", "rope_type", "type", "partial_rotary_factor",
                                      "original_max_position_embeddings"}:  # fmt: skip
            raise ModelError(f"{keys.path}: rope_type '{kind}' has the unknown key '{name}'; remove it")
    if head_dim % 2:
        raise ModelError(
            f"{keys.path}: heads of {head_dim} elements cannot be turned in pairs; their size must be even"
        )
    try:
        with np.errstate(all="ignore"):
            plain, scale = _scaled(rope, kind, head_dim, theta, original, sequence)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ModelError(
            f"{keys.path}: rope_type '{kind}' cannot be worked out ({error}); check its numbers"
        ) from error
    note = ""
    if kind == "dynamic":
        note = f"frequencies stretch only beyond {sequence} tokens, which is the longest input here"
    if kind == "longrope" and original < sequence:
        note = f"the first {original} of {sequence} positions, which have the short factors"
        sequence = original
    if not np.isfinite(plain).all():
        raise ModelError(f"{keys.path}: rope_type '{kind}' gives frequencies that are not finite; check its numbers")
    if kind in ("default", "dynamic") and theta == 10000.0:
        return Rotary((), scale, sequence, note)
    return Rotary(tuple(float(value) for value in plain), scale, sequence, note)


def _scaled(
    rope: Keys, kind: str, head_dim: int, theta: float, original: int, sequence: int
) -> tuple[NDArray[np.float64], float]:
    """Frequencies and scale of a rope_type."""
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if kind in ("linear", "dynamic"):
        factor = rope.number("factor")
        return (plain / factor if kind == "linear" else plain), 1.0
    if kind == "llama3":
        return _llama3(rope, plain, original), 1.0
    if kind == "yarn":
        return _yarn(rope, plain, theta, original, sequence)
    return _longrope(rope, plain, original, sequence) if kind == "longrope" else (plain, 1.0)


def _llama3(rope: Keys, plain: NDArray[np.float64], original: int) -> NDArray[np.float64]:
    """Long waves are stretched, short ones kept, those between blended (Llama 3.1)."""
    factor, low, high = (rope.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if high <= low:
        raise ModelError(f"{rope.path}: 'high_freq_factor' = {high:g} must be above 'low_freq_factor' = {low:g}")
    turns = original * plain / (2 * math.pi)  # in the length it was trained for
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * plain / factor + blend * plain


def _yarn(
    rope: Keys, plain: NDArray[np.float64], theta: float, original: int, sequence: int
) -> tuple[NDArray[np.float64], float]:
    """Frequencies and scale of YaRN (Peng et al. 2023)."""
    factor = rope.number("factor", default=sequence / original)
    width = 2 * len(plain)

    def pair_of(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (
        pair_of(rope.number(name, default=default)) for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    )
    if rope.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
    scale = rope.value("attention_factor", default=None)
    if scale is not None:
        return plain / factor * ramp + plain * (1 - ramp), rope.number("attention_factor")
    parts = [rope.value(name, default=None) for name in ("mscale", "mscale_all_dim")]
    if all(parts):
        above, below = (_magnitude(factor, rope.number(name)) for name in ("mscale", "mscale_all_dim"))
    else:
        above, below = _magnitude(factor, 1.0), 1.0
    return plain / factor * ramp + plain * (1 - ramp), above / below


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope(
    rope: Keys, plain: NDArray[np.float64], original: int, sequence: int
) -> tuple[NDArray[np.float64], float]:
    """Frequencies of texts no longer than `original`, and scale (LongRoPE, Ding et al. 2024)."""
    rope.value("long_factor")
    short = rope.value("short_factor")
    if not isinstance(short, list) or len(short) != len(plain):
        raise rope.error("short_factor", short, f"a list of {len(plain)} numbers")
    for value in short:
        if not is_positive(value):
            raise rope.error("short_factor", value, "numbers above 0")
    factor = rope.number("factor", default=sequence / original)
    scale = 1.0 if factor <= 1 or original <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    if rope.value("attention_factor", default=None) is not None:
        scale = rope.number("attention_factor")
    return plain / np.array(short, np.float64), scale
