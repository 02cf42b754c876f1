"""From a float graph and calibration data to a graph typed with quantization parameters."""

from picoformer.quantize.calibrate import METHODS, Method
from picoformer.quantize.observe import Observation, observe
from picoformer.quantize.ptq import QuantizeSettings, quantize
from picoformer.quantize.rounding import ROUNDINGS, Rounding
from picoformer.quantize.schemes import SCHEMES, Scheme

__all__ = [
    "METHODS",
    "ROUNDINGS",
    "SCHEMES",
    "Method",
    "Observation",
    "QuantizeSettings",
    "Rounding",
    "Scheme",
    "observe",
    "quantize",
]
