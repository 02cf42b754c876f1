"""Decoders that others trained, as a TransformerConfig and numpy arrays: one file per family or format; no torch."""

from picoformer.models.importers.imported import ImportedModel
from picoformer.models.importers.load import load_decoder

__all__ = ["ImportedModel", "load_decoder"]
