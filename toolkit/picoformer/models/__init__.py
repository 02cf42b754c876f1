"""Transformers in torch: the configuration (torch-free), the module, its checkpoint file, its ONNX export; and importers
of decoders that others trained (torch-free)."""
