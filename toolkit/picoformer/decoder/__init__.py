"""Language models token by token: the decode step as a graph with caches, quantized, built, and run to write text."""
