"""What doors.py measures: the models, the forms each goes out in, what runs them, and why a figure falls short."""

from __future__ import annotations

from dataclasses import dataclass, field

from models import REFERENCE

from picoformer.backends.onnx.writer import Spelling

DIGITS, TINY_GPT = "digits student", "tiny-gpt"
MODELS = (DIGITS, REFERENCE, TINY_GPT)
BOUND = 0.99
"""Least share of samples with the same label; a row below it says why."""
FLOAT = "float32"
PLAIN, OPTIMIZED = "onnxruntime, no optimizations", "onnxruntime, all optimizations"
SIGNED = {"qdqisint8allowed": "1"}
WIDE = {"qdq_matmulnbits_accuracy_level": "1"}
TFLITE_RUNTIMES = {"litert": "LiteRT", "tensorflow-reference": "TensorFlow, reference kernels", "micro": "TFLite Micro"}


@dataclass(frozen=True)
class OnnxForm:
    """A spelling of a scheme, and what onnxruntime's optimizer is told for it."""

    name: str
    scheme: str
    spelling: Spelling | None = None
    entries: dict[str, str] = field(default_factory=dict)


FLOAT_ONNX = OnnxForm("ONNX float", FLOAT)
CLASSIFIER_ONNX = (
    FLOAT_ONNX,
    OnnxForm("QDQ int8, signed", "int8", Spelling(), SIGNED),
    OnnxForm("QDQ int8, unsigned", "int8", Spelling(unsigned_activations=True)),
    OnnxForm("QDQ int8x16", "int8x16", Spelling(), WIDE),
    OnnxForm("QDQ int4x8, DequantizeLinear", "int4x8", Spelling(unsigned_activations=True)),
    OnnxForm("QDQ int4x8, MatMulNBits", "int4x8", Spelling(unsigned_activations=True, matmul_nbits=True)),
)
TEXT_ONNX = (
    FLOAT_ONNX,
    OnnxForm("QDQ int8x16", "int8x16", Spelling(), WIDE),
    OnnxForm("QDQ int4x16, DequantizeLinear", "int4x16", Spelling(), WIDE),
    OnnxForm("QDQ int4x16, MatMulNBits", "int4x16", Spelling(matmul_nbits=True), WIDE),
)
TFLITE = {"TFLite float32": FLOAT, "TFLite int8": "int8", "TFLite 16x8": "int8x16"}
ONNX = {DIGITS: CLASSIFIER_ONNX, REFERENCE: CLASSIFIER_ONNX, TINY_GPT: TEXT_ONNX}
C_SCHEMES = {
    DIGITS: (FLOAT, "int8", "int4x8"),
    REFERENCE: (FLOAT, "int8", "int4x8"),
    TINY_GPT: (FLOAT, "int8x16", "int4x16"),
}
REFUSED = {(TINY_GPT, "TFLite int8"): "refused: a language model's step takes 16-bit activations"}
FEW_SIGNALS = (
    "weights have 4 bits, and of the 64 signals that the C is run on one is 1.6 %: the ONNX files hold the same "
    "integers and are run on all"
)
ONE_TOKEN = "one token of 64 is 1.6 %: the float model has two as good as equally likely there"
FOUR_BITS = "weights have 4 bits; two tokens of 64 are others, ours and the file's the same"
NARROW_TABLE = "TFLite has no weights of 16 bits, which our int8x16 gives the tied table; two tokens of 64 are others"
REASONS = {
    (REFERENCE, "C int4x8"): FEW_SIGNALS,
    (TINY_GPT, "QDQ int8x16"): ONE_TOKEN,
    (TINY_GPT, "C int8x16"): ONE_TOKEN,
    (TINY_GPT, "QDQ int4x16, DequantizeLinear"): FOUR_BITS,
    (TINY_GPT, "QDQ int4x16, MatMulNBits"): FOUR_BITS,
    (TINY_GPT, "C int4x16"): FOUR_BITS,
    (TINY_GPT, "TFLite 16x8"): NARROW_TABLE,
}
"""Model and form → why fewer than BOUND of the labels are the same."""
FIGURES = (
    "samples", "largest", "largest_steps", "same_as_ours", "same_as_float", "margin_ours", "margin_float", "sqnr_db",
    "bytes",
)  # fmt: skip
"""What a row says; a figure that was not measured is null."""
VARIANTS = (
    "S8S8 per channel", "S8S8 per tensor", "S8S8 symmetric", "U8S8 per channel", "U8U8 per channel", "QOperator",
    "S16S8 symmetric", "S16S8",
)  # fmt: skip
"""Of tests/onnxruntime_quantizer.py: what onnxruntime's quantize_static makes of our float file."""
COMPARED = 64
"""Samples that these are compared on: every operator is a run of its own."""


def expected_rows() -> list[tuple[str, str, str]]:
    """(model, form, runtime) of every row of the matrix."""
    found = []
    for model in MODELS:
        found += [(model, form.name, runtime) for form in ONNX[model] for runtime in (PLAIN, OPTIMIZED)]
        for form in TFLITE:
            runtimes = ["–"] if (model, form) in REFUSED else list(TFLITE_RUNTIMES.values())
            found += [(model, form, runtime) for runtime in runtimes]
        found += [(model, f"C {scheme}", runtime) for scheme in C_SCHEMES[model] for runtime in c_runtimes(model)]
    return found


def c_runtimes(model: str) -> tuple[str, str]:
    """What runs the C of a model."""
    return "gcc, this machine", "QEMU, Cortex-M7" if model == TINY_GPT else "QEMU, Cortex-M4"
