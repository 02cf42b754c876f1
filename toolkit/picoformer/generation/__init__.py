"""Logits to text: sampling, beam search and stopping, in integers that are the same on host and device. No torch."""

from picoformer.generation.beam import BeamText, IntegerBeam, beam_search
from picoformer.generation.loop import End, Generated, generate
from picoformer.generation.random_numbers import RandomNumbers
from picoformer.generation.sampler import IntegerSampler
from picoformer.generation.session import Session
from picoformer.generation.settings import BeamSettings, SamplerSettings, Stopping
from picoformer.generation.stop_strings import StopStrings

__all__ = [
    "BeamSettings",
    "BeamText",
    "End",
    "Generated",
    "IntegerBeam",
    "IntegerSampler",
    "RandomNumbers",
    "SamplerSettings",
    "Session",
    "StopStrings",
    "Stopping",
    "beam_search",
    "generate",
]
