"""Transformers in torch: configuration (torch-free), module, checkpoint file, ONNX export; importers of decoders."""
