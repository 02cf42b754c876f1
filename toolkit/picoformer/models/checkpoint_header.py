"""What our checkpoints say in their metadata: the configuration and what was kept beside it; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picoformer.errors import ConfigError, ModelError
from picoformer.models.config import TransformerConfig

FORMAT = "picoformer-1"


def read_checkpoint_header(path: Path, metadata: Mapping[str, Any] | None) -> tuple[TransformerConfig, dict[str, Any]]:
    """Configuration and extra of a file's metadata. Raises ModelError, naming `path`, for what is not ours."""
    text = (metadata or {}).get("picoformer")
    if not isinstance(text, str):
        raise ModelError(f"{path}: no picoformer configuration in its metadata; write it with save_checkpoint")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its configuration is not JSON; save the checkpoint again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelError(f"{path}: its configuration is not of format '{FORMAT}'; save the checkpoint again")
    config, extra = header.get("config"), header.get("extra")
    if not isinstance(config, dict) or not isinstance(extra, dict):
        raise ModelError(f"{path}: its metadata lacks 'config' or 'extra'; save the checkpoint again")
    try:
        return TransformerConfig.from_dict(config), extra
    except ConfigError as error:
        raise ModelError(f"{path}: bad configuration: {error}") from error
