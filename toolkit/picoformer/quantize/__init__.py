"""From a float graph and calibration data to a graph typed with quantization parameters."""

from picoformer.quantize.calibrate import METHODS, Method
from picoformer.quantize.observe import Observation, observe
from picoformer.quantize.ptq import QuantizeSettings, quantize

__all__ = ["METHODS", "Method", "Observation", "QuantizeSettings", "observe", "quantize"]
