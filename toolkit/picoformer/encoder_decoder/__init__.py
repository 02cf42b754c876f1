"""Encoder-decoders: the encoder as a prologue of the decode step, calibrated, built and written with as one model."""
