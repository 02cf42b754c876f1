"""Torch model to torch model: train, distil, prune; and what a model costs."""
