"""Models to bundles for a Raspberry Pi, on the workstation: ONNX, what text needs, and a sample to check it by."""
