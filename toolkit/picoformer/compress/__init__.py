"""Torch model to torch model: train, distil, prune, factorize; and what a model costs."""
