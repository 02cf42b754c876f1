"""The libraries that a Raspberry Pi gets, each in the one version that the tests run on aarch64."""

from __future__ import annotations

PINS = {"click": "8.5.1", "numpy": "2.4.6", "onnxruntime": "1.32.0", "tokenizers": "0.23.3"}
"""All that picoformer.raspberry_pi imports; they have wheels for aarch64 and Python 3.11 to 3.14. What their own
metadata asks for besides (protobuf, huggingface-hub and more) they do not import, so they are installed without it."""


def requirements() -> list[str]:
    """The pins as pip takes them."""
    return [f"{name}=={version}" for name, version in sorted(PINS.items())]
