"""Encoders that others trained: their folder as a graph and an ONNX file, and from there like any other model."""
