"""A graph as an ONNX file, and ONNX files under onnxruntime."""
