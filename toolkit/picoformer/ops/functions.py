"""The functions of one number that an Activation computes: a table {name: its float64 meaning and its parameters}.

GELU: Hendrycks and Gimpel (2016), exact (erf) and with the tanh approximation. SiLU and Swish: Elfwing et al. (2017),
Ramachandran et al. (2017). ELU: Clevert et al. (2015); SELU: Klambauer et al. (2017); CELU: Barron (2017). Mish: Misra
(2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from picoformer.ir.operator import Array

Function = Literal[
    "absolute", "celu", "clip", "elu", "error_function", "exponential", "gelu", "gelu_tanh", "hard_sigmoid",
    "hard_swish", "leaky_relu", "logarithm", "mish", "reciprocal", "relu", "selu", "sigmoid", "silu", "softplus",
    "softsign", "square_root", "swish", "tanh",
]  # fmt: skip


@dataclass(frozen=True)
class RealFunction:
    """`of` takes x (float64, any shape) and then the parameters, named in order."""

    of: Callable[..., Array]
    parameters: tuple[str, ...] = ()


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x)."""
    return np.exp(-np.logaddexp(0.0, -x))


def _erf(x: Array) -> Array:
    from scipy.special import erf

    result: Array = erf(x)
    return result


def _negative_part(x: Array) -> Array:
    """e^x − 1 where x < 0, else 0."""
    return np.expm1(np.minimum(x, 0.0))


FUNCTIONS: dict[str, RealFunction] = {
    "absolute": RealFunction(np.abs),
    "celu": RealFunction(lambda x, alpha: np.maximum(x, 0.0) + alpha * _negative_part(x / alpha), ("alpha",)),
    "clip": RealFunction(np.clip, ("low", "high")),
    "elu": RealFunction(lambda x, alpha: np.maximum(x, 0.0) + alpha * _negative_part(x), ("alpha",)),
    "error_function": RealFunction(_erf),
    "exponential": RealFunction(np.exp),
    "gelu": RealFunction(lambda x: 0.5 * x * (1.0 + _erf(x / np.sqrt(2.0)))),
    "gelu_tanh": RealFunction(lambda x: 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))),
    "hard_sigmoid": RealFunction(lambda x, slope, middle: np.clip(slope * x + middle, 0.0, 1.0), ("slope", "middle")),
    "hard_swish": RealFunction(lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "leaky_relu": RealFunction(lambda x, slope: np.where(x < 0.0, slope * x, x), ("slope",)),
    "logarithm": RealFunction(np.log),
    "mish": RealFunction(lambda x: x * np.tanh(np.logaddexp(0.0, x))),
    "reciprocal": RealFunction(np.reciprocal),
    "relu": RealFunction(lambda x: np.maximum(x, 0.0)),
    "selu": RealFunction(
        lambda x, alpha, gamma: gamma * (np.maximum(x, 0.0) + alpha * _negative_part(x)), ("alpha", "gamma")
    ),
    "sigmoid": RealFunction(sigmoid),
    "silu": RealFunction(lambda x: x * sigmoid(x)),
    "softplus": RealFunction(lambda x: np.logaddexp(0.0, x)),
    "softsign": RealFunction(lambda x: x / (1.0 + np.abs(x))),
    "square_root": RealFunction(np.sqrt),
    "swish": RealFunction(lambda x, rate: x * sigmoid(rate * x), ("rate",)),
    "tanh": RealFunction(np.tanh),
}
"""Every Function."""
