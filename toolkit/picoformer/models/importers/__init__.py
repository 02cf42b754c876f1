"""Models that others trained, as a TransformerConfig and numpy arrays: one file per family or format; no torch."""

from picoformer.models.importers.encoder_parts import TASKS
from picoformer.models.importers.imported import ImportedModel
from picoformer.models.importers.load import load_decoder
from picoformer.models.importers.load_encoder import ImportedEncoder, is_encoder, load_encoder

__all__ = ["TASKS", "ImportedEncoder", "ImportedModel", "is_encoder", "load_decoder", "load_encoder"]
