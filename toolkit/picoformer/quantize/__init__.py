"""From a float graph and calibration data to a graph typed with quantization parameters."""

from picoformer.quantize.calibrate import METHODS, Method
from picoformer.quantize.observe import Observation, observe
from picoformer.quantize.ptq import QuantizeSettings, quantize
from picoformer.quantize.rounding import ROUNDINGS, Rounding

__all__ = ["METHODS", "ROUNDINGS", "Method", "Observation", "QuantizeSettings", "Rounding", "observe", "quantize"]
