"""Backends: what a graph is written out as. Each is a flat table {operator: emitter}."""
