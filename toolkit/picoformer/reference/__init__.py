"""Executors in numpy: the float meaning of a graph, and the integer one, which is the definition of correct."""

from picoformer.reference.executor import LoweredGraph, lower_graph, run_float, run_integer

__all__ = ["LoweredGraph", "lower_graph", "run_float", "run_integer"]
