"""The keys of a config.json, read with their types; those that nobody asked for are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.models.config import MAX_SIZE

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names of activations in transformers → ours."""

HARMLESS = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_softmax_in_fp32", "auto_map",
    "bias_dropout_fusion", "bos_token_id", "cls_token_id", "dtype", "eos_token_id", "gradient_checkpointing",
    "id2label", "initializer_range", "label2id", "mask_token_id", "masked_softmax_fusion", "model_type", "offset_alibi",
    "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type", "reorder_and_upcast_attn",
    "router_aux_loss_coef", "router_jitter_noise", "sep_token_id", "skip_bias_add", "skip_bias_add_qkv",
    "slow_but_exact", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "unk_token_id",
    "use_cache",
}  # fmt: skip
"""Keys that do not change what a trained model computes in float32, or that say it a second time."""
HARMLESS_ENDS = ("dropout", "dropout_prob", "pdrop")
HARMLESS_STARTS = ("summary_",)

MISSING: Any = object()
LARGEST = 1e300


class Keys:
    """The keys of one JSON object; `names` of one key are its spellings. Every reader raises ModelError."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self._values = path, values
        self._asked: set[str] = set()

    def value(self, *names: str, default: Any = MISSING) -> Any:
        """The value under the first spelling that is there; spellings may not disagree."""
        self._asked.update(names)
        found = {name: self._values[name] for name in names if name in self._values}
        if not found:
            if default is MISSING:
                raise ModelError(f"{self.path}: lacks the key '{names[0]}'; add it")
            return default
        (first, value), *others = found.items()
        for name, other in others:
            if other != value:
                raise ModelError(f"{self.path}: '{first}' and '{name}' disagree; keep one of them")
        return value

    def integer(self, *names: str, default: int = MISSING) -> int:
        """An integer of 1 to MAX_SIZE; null stands for the default."""
        value = self.value(*names, default=default)
        if value is None and default is not MISSING:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
            raise self.error(names[0], value, f"an integer of 1 to {MAX_SIZE}")
        return value

    def number(self, *names: str, default: float = MISSING) -> float:
        """A finite number above 0; null stands for the default."""
        value = self.value(*names, default=default)
        if value is None and default is not MISSING:
            value = default
        if not is_positive(value):
            raise self.error(names[0], value, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false; null stands for the default."""
        value = self.value(name, default=default)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return default if value is None else value

    def activation(self, *names: str, default: str) -> str:
        """One of our activations."""
        value = self.value(*names, default=default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.error(names[0], value, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def refuse(self, name: str, *allowed: Any, mend: str) -> None:
        """Raise ModelError unless the key is missing, null, false or one of `allowed`."""
        value = self.value(name, default=None)
        if value is not None and value is not False and value not in allowed:
            raise ModelError(f"{self.path}: '{name}' = {_short(value)} is not covered; {mend}")

    def tokens(self, name: str, vocabulary: int) -> tuple[int, ...]:
        """The token ids under `name`, one or a list; those that the vocabulary does not have are left out."""
        value = self.value(name, default=None)
        ids = value if isinstance(value, list) else [value]
        return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocabulary)

    def error(self, name: str, value: Any, wanted: str) -> ModelError:
        """What to raise for a value of another kind."""
        return ModelError(f"{self.path}: '{name}' = {_short(value)}; write {wanted}")

    def close(self) -> None:
        """Raise ModelError for a key that was not asked for, is set, and might change what the model computes."""
        for name, value in self._values.items():
            known = name in self._asked or name in HARMLESS or value is None or value is False
            if not known and not name.endswith(HARMLESS_ENDS) and not name.startswith(HARMLESS_STARTS):
                raise ModelError(
                    f"{self.path}: '{name}' = {_short(value)} is not known and may change what the model computes; "
                    "remove the key if it does not"
                )


def is_positive(value: Any) -> bool:
    """Whether a value is a number above 0 that a float holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= LARGEST


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
