"""Graph to Graph: what files spell out becomes the operators that a device runs."""

from picoformer.passes.canonical import CanonicalGraph, canonical, differences
from picoformer.passes.given import split_given
from picoformer.passes.order import ORDER, Pass, optimize
from picoformer.passes.valid_length import add_valid_length

__all__ = ["ORDER", "CanonicalGraph", "Pass", "add_valid_length", "canonical", "differences", "optimize", "split_given"]
