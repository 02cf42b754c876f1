"""Files as onnxruntime's own quantizers write them, in the variants that people have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

S8, U8, S16, U16, S4 = (
    QuantType.QInt8, QuantType.QUInt8, QuantType.QInt16, QuantType.QUInt16, QuantType.QInt4
)  # fmt: skip

EIGHT_BITS: dict[str, dict[str, Any]] = {
    "S8S8 per channel": {"per_channel": True},
    "S8S8 per tensor": {},
    "S8S8 symmetric": {"per_channel": True, "ActivationSymmetric": True},
    "U8S8 per channel": {"activation_type": U8, "per_channel": True},
    "U8U8 per channel": {"activation_type": U8, "weight_type": U8, "per_channel": True},
    "U8U8 per tensor": {"activation_type": U8, "weight_type": U8},
    "asymmetric S8 weights": {"WeightSymmetric": False},
    "float biases": {"QuantizeBias": False, "per_channel": True},
    "a pair for each reader": {"DedicatedQDQPair": True},
    "float weights behind pairs": {"AddQDQPairToWeight": True},
    "S8S4": {"weight_type": S4},
    "not preprocessed": {"per_channel": True, "preprocess": False},
    "QOperator": {"quant_format": QuantFormat.QOperator, "preprocess": False},
    "QOperator U8U8": {
        "quant_format": QuantFormat.QOperator, "activation_type": U8, "weight_type": U8, "preprocess": False,
    },
}  # fmt: skip
SIXTEEN_BITS: dict[str, dict[str, Any]] = {
    "S16S8 symmetric": {"activation_type": S16, "ActivationSymmetric": True},
    "S16S8": {"activation_type": S16, "per_channel": True},
    "U16U8": {"activation_type": U16, "weight_type": U8},
}
ARGUMENTS = ("activation_type", "weight_type", "per_channel", "quant_format", "op_types_to_quantize")


class Samples(CalibrationDataReader):
    """Calibration samples, one a run."""

    def __init__(self, inputs: Mapping[str, np.ndarray]) -> None:
        names = list(inputs)
        self._rest: Iterator[dict[str, np.ndarray]] = iter(
            [dict(zip(names, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def quantized(
    model: Path, out: Path, samples: Mapping[str, np.ndarray], preprocess: bool = True, **options: Any
) -> Path:
    """`model` through onnxruntime's quantize_static to `out`; options beyond its own arguments are extra ones."""
    source = model
    if preprocess:
        source = out.with_suffix(".preprocessed.onnx")
        quant_pre_process(str(model), str(source), skip_symbolic_shape=True)
    own = {key: value for key, value in options.items() if key in ARGUMENTS}
    extra = {key: value for key, value in options.items() if key not in ARGUMENTS}
    settings = {"activation_type": S8, "weight_type": S8, "quant_format": QuantFormat.QDQ, **own}
    quantize_static(str(source), str(out), Samples(samples), extra_options=extra, **settings)
    return out
