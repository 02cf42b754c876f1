"""The stages before a build, each from files to files: data, teacher, student, pruned, factorized, ONNX."""

from picoformer.stages.data import SOURCES, TextSettings, is_text, make_dataset, model_config, tokenizer_path
from picoformer.stages.export import (
    export_checkpoint,
    onnx_file,
    torch_outputs,
    write_samples,
    write_training_samples,
)
from picoformer.stages.shrinking import board_limits, factorize_model, prune_model, prune_vocabulary_files
from picoformer.stages.training import Notify, distill_model, generate_targets, judge_model, take_teacher, train_model

__all__ = [
    "SOURCES",
    "Notify",
    "TextSettings",
    "board_limits",
    "distill_model",
    "export_checkpoint",
    "factorize_model",
    "generate_targets",
    "is_text",
    "judge_model",
    "make_dataset",
    "model_config",
    "onnx_file",
    "prune_model",
    "prune_vocabulary_files",
    "take_teacher",
    "tokenizer_path",
    "torch_outputs",
    "train_model",
    "write_samples",
    "write_training_samples",
]
