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
    from picoformer.errors import PicoformerError

__all__ = ["PicoformerError", "__version__", "build", "export", "finetune", "quantize_model", "run", "verify"]


def __getattr__(name: str) -> Any:
    if name == "PicoformerError":
        from picoformer.errors import PicoformerError

        return PicoformerError
    if name in __all__:
        from picoformer import api

        return getattr(api, name)
    raise AttributeError(f"module 'picoformer' has no attribute '{name}'")
