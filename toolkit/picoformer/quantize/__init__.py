"""From a float graph and calibration data to a graph typed with quantization parameters."""

from picoformer.quantize.caches import cache_type, cache_types
from picoformer.quantize.calibrate import METHODS, Method
from picoformer.quantize.equalize import EQUALIZATIONS, Equalization
from picoformer.quantize.given import has_activations, quantize_given
from picoformer.quantize.observe import Observation, observe
from picoformer.quantize.ptq import QuantizeSettings, equalized, quantize, uniform_settings
from picoformer.quantize.rounding import ROUNDINGS, Rounding
from picoformer.quantize.schemes import SCHEMES, Scheme
from picoformer.quantize.sensitivity import Sensitivity, measure

__all__ = [
    "EQUALIZATIONS",
    "METHODS",
    "ROUNDINGS",
    "SCHEMES",
    "Equalization",
    "Method",
    "Observation",
    "QuantizeSettings",
    "Rounding",
    "Scheme",
    "Sensitivity",
    "cache_type",
    "cache_types",
    "equalized",
    "has_activations",
    "measure",
    "observe",
    "quantize",
    "quantize_given",
    "uniform_settings",
]
