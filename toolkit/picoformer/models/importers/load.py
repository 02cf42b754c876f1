"""A path to an ImportedModel, by what lies there: a folder, a `.safetensors` file, or a `.bin`."""

from __future__ import annotations

from pathlib import Path

from picoformer.errors import ModelError
from picoformer.models.importers.huggingface import load_folder
from picoformer.models.importers.imported import ImportedModel
from picoformer.models.importers.llama2c import load_llama2c
from picoformer.models.importers.own import load_own


def load_decoder(path: Path) -> ImportedModel:
    """A causal language model from a Hugging Face folder, a llama2.c `.bin` or a checkpoint of our own.

    Sizes and shapes are checked before memory is taken, numbers for being finite. Raises ModelError for anything amiss,
    one line that names the file and the key or tensor.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder; give a Hugging Face folder, a .bin or a .safetensors file")
    if path.suffix == ".safetensors":
        return load_own(path)
    if path.suffix == ".bin":
        return load_llama2c(path)
    raise ModelError(
        f"{path}: '{path.suffix}' is no kind of checkpoint that is read; give a Hugging Face folder, a llama2.c "
        ".bin or a .safetensors file of picoformer"
    )
