"""Our own folder of an encoder-decoder, in the form of Hugging Face's: config.json and model.safetensors."""

from __future__ import annotations

from picoformer.errors import ConfigError, ModelError
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.encoder_decoder_weights import encoder_decoder_shapes
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors

KIND = "picoformer_encoder_decoder"
"""Its model_type."""


def convert_own(keys: Keys, tensors: Tensors) -> tuple[EncoderDecoderConfig, Weights]:
    """The configuration under 'config', and the tensors by the names that it asks for."""
    keys.value("decoder_start_token_id", default=None)
    given = keys.value("config")
    if not isinstance(given, dict):
        raise keys.error("config", given, "an object")
    try:
        config = EncoderDecoderConfig.from_dict(given)
    except ConfigError as error:
        raise ModelError(f"{keys.path}: bad configuration: {error}") from error
    return config, {name: tensors.take(name, *shape) for name, shape in encoder_decoder_shapes(config).items()}
