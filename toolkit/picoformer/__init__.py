"""picoformer: trained transformer in, verified microcontroller firmware out.

    import picoformer
    made = picoformer.build("model.onnx", calibration="calib.npz", target="mps2-an386", out="out")
    found = picoformer.verify("out", inputs="test.npz")
    print(found.report.passed, found.to_json()["links"])

`build`, `verify`, `quantize_model`, `finetune`, `export` and `run` do what the commands do; what they need is imported
when they are called. They raise `PicoformerError`, its message the one line that the command prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from picoformer.api import build, export, finetune, quantize_model, run, verify
    from picoformer.encoder.opening import EncoderChoice
    from picoformer.errors import PicoformerError
    from picoformer.exported import OnnxOptions, PackageOptions
    from picoformer.exporting_tflite import TfliteOptions

__all__ = [
    "EncoderChoice", "OnnxOptions", "PackageOptions", "PicoformerError", "TfliteOptions", "__version__", "build",
    "export", "finetune", "quantize_model", "run", "verify",
]  # fmt: skip

_ELSEWHERE = {
    "EncoderChoice": "encoder.opening",
    "OnnxOptions": "exported",
    "PackageOptions": "exported",
    "PicoformerError": "errors",
    "TfliteOptions": "exporting_tflite",
}
"""Names that are not of `api` → the module that has them."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'picoformer' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"picoformer.{_ELSEWHERE.get(name, 'api')}"), name)
