"""The teacher, whatever it is made of: a Transformer, a checkpoint, any torch module, or an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.fingerprint import add_weights
from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.files import file_hash
from picoformer.models.checkpoint import load_checkpoint, trained_tokenizer
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer

PARTS = ("query", "key", "value")
"""What is seen of an attention layer: (batch, rows, heads * head_dim) each."""


class Teacher(Protocol):
    """Answers batches of inputs with "logits" and, where it can, "hidden.0", "query.0" … of its layers."""

    name: str
    tokenizer: str  # SHA-256 of the tokenizer.json whose tokens it was trained on; "" where that is not known
    is_frozen: bool  # its answers have to be computed beforehand

    @property
    def config(self) -> TransformerConfig | None:
        """None where the inside is not known."""

    def answer(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """What it says of these names to inputs (batch, *input), without gradients, on the inputs' device."""

    def fingerprint(self) -> str:
        """The SHA-256 of what decides its answers."""

    def move(self, device: torch.device) -> None:
        """Compute there from now on."""


class TorchTeacher:
    """A torch module; only models.Transformer shows what is inside."""

    is_frozen = False

    def __init__(self, module: nn.Module, name: str = "", tokenizer: str = "") -> None:
        self.module, self.name, self.tokenizer = module, name or type(module).__name__, tokenizer

    @property
    def config(self) -> TransformerConfig | None:
        """Of a Transformer."""
        return self.module.config if isinstance(self.module, Transformer) else None

    def answer(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """As of Teacher. Raises DataError for a module whose output is no tensor."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                if isinstance(self.module, Transformer):
                    return observe(self.module, x, wanted)
                found = self.module(x)
        finally:
            self.module.train(training)
        if not isinstance(found, Tensor):
            found = getattr(found, "logits", found[0] if isinstance(found, (tuple, list)) and found else None)
        if not isinstance(found, Tensor):
            raise DataError(f"the teacher ({self.name}) gives no tensor; wrap it so that it returns logits")
        return {"logits": found}

    def fingerprint(self) -> str:
        """Of its structure and weights."""
        digest = hashlib.sha256(f"{self.module}\n{self.config}".encode())
        add_weights(digest, self.module)
        return digest.hexdigest()

    def move(self, device: torch.device) -> None:
        """As of Teacher."""
        self.module.to(device)


class OnnxTeacher:
    """An ONNX file with one input, run by onnxruntime: logits are its output "logits", or the first one.

    Outputs "hidden_0", "hidden_1", … (batch, rows, width) are taken as the hidden states of its layers.
    """

    config: TransformerConfig | None = None
    tokenizer = ""
    is_frozen = True

    def __init__(self, path: Path) -> None:
        """Raises ModelError for a file that onnxruntime cannot load or that has several inputs."""
        import onnxruntime

        if not path.is_file():
            raise ModelError(f"{path}: no such file; give the teacher's checkpoint or ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.path, self.name = path, path.name
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many types, none of them documented
            raise ModelError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"{path}: has {len(inputs)} inputs; a teacher takes one")
        self.input = inputs[0]
        self.outputs = [output.name for output in self.session.get_outputs()]

    @property
    def hidden_layers(self) -> int:
        """How many hidden states the file gives."""
        return sum(f"hidden_{layer}" in self.outputs for layer in range(len(self.outputs)))

    def answer(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """As of Teacher. Raises DataError for inputs that the file does not take."""
        names = [self._output(name) for name in wanted]
        samples = x.cpu().numpy()
        fixed = self.input.shape and isinstance(self.input.shape[0], int)
        size = int(self.input.shape[0]) if fixed else len(samples)
        if size < 1 or len(samples) % size:
            raise DataError(f"{self.path}: takes batches of {size}, here are {len(samples)}; export it for one sample")
        try:
            rows = [
                self.session.run(names, {self.input.name: samples[start : start + size]})
                for start in range(0, len(samples), size)
            ]
        except Exception as error:
            wanted_rows = self.input.shape[1] if len(self.input.shape) == 2 else None
            is_longer = (
                samples.dtype.kind in "iu" and isinstance(wanted_rows, int) and samples.shape[1:] != (wanted_rows,)
            )
            mend = (
                f"make it with `picoformer dataset --sequence {wanted_rows}`" if is_longer else "use data of its shape"
            )
            raise DataError(
                f"{self.path}: takes {self.input.type} {list(self.input.shape)}, the data has {samples.dtype} "
                f"{[1, *samples.shape[1:]]}; {mend} ({str(error).splitlines()[0]})"
            ) from error
        return {
            name: torch.from_numpy(np.concatenate([row[index] for row in rows])).to(x.device)
            for index, name in enumerate(wanted)
        }

    def fingerprint(self) -> str:
        """Of the file, and of the external data that exporters put beside it."""
        beside = self.path.with_name(f"{self.path.name}.data")
        return file_hash(self.path) + (file_hash(beside) if beside.is_file() else "")

    def move(self, device: torch.device) -> None:
        """onnxruntime computes on the CPU."""

    def _output(self, name: str) -> str:
        if name == "logits":
            return "logits" if "logits" in self.outputs else self.outputs[0]
        return name.replace(".", "_")


def load_teacher(path: Path) -> Teacher:
    """The teacher of a file: an .onnx, or a checkpoint (.safetensors). Raises ModelError."""
    if path.suffix == ".onnx":
        return OnnxTeacher(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give the teacher's checkpoint or ONNX file")
    model, extra = load_checkpoint(path)
    return TorchTeacher(model, path.name, trained_tokenizer(extra))


def as_teacher(teacher: nn.Module | Path | Teacher) -> Teacher:
    """Whatever may teach, as a Teacher."""
    if isinstance(teacher, Path):
        return load_teacher(teacher)
    return TorchTeacher(teacher) if isinstance(teacher, nn.Module) else teacher


def observe(model: Transformer, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Run `model` on x (batch, *input): "logits", "hidden.N" (batch, rows, d_model), and "query.N", "key.N", "value.N"
    (batch, rows, heads * head_dim) of its layers, those that are wanted."""
    found: dict[str, Tensor] = {}
    with _watched(model, wanted, found):
        logits, hidden = model.forward_with_hidden(x)
    found["logits"] = logits
    found |= {f"hidden.{layer}": rows for layer, rows in enumerate(hidden)}
    return {name: found[name] for name in wanted}


@contextmanager
def _watched(model: Transformer, wanted: Sequence[str], found: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = []
    for name in wanted:
        part, _, layer = name.partition(".")
        if part in PARTS:
            if model.config.shared_layers:
                raise ConfigError(f"'{name}' of a model with shared_layers cannot be told apart; compare hidden states")
            attention: Any = model.layers[int(layer)].attention
            handles.append(getattr(attention, part).register_forward_hook(keep(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_pair(teacher: Teacher, student: Transformer, x: NDArray[Any]) -> None:
    """Raise DataError unless both take samples like x (n, *input) and answer with logits of the same shape."""
    ours, theirs = student.config, teacher.config
    if theirs is not None:
        if theirs.vocab_size != ours.vocab_size and theirs.vocab_size and ours.vocab_size:
            raise DataError(
                f"teacher {teacher.name} has a vocabulary of {theirs.vocab_size} tokens, data and student have "
                f"{ours.vocab_size}; make the data with `picoformer dataset --tokenizer` and the teacher's tokenizer"
            )
        if theirs.classes != ours.classes:
            raise _other_classes(teacher, theirs.classes, ours.classes)
        check_takes(f"teacher {teacher.name}", theirs, x)
    device = next(student.parameters()).device
    sample = torch.from_numpy(x[:1]).to(device)
    with torch.no_grad():
        training = student.training
        wanted = tuple(student.eval()(sample).shape)
        student.train(training)
        teacher.move(device)
        try:
            found = tuple(teacher.answer(sample, ["logits"])["logits"].shape)
        except DataError as error:
            raise DataError(f"teacher {teacher.name}: {error}") from None
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"teacher {teacher.name} does not take samples {list(x.shape[1:])}: {reason}") from error
    if len(found) == len(wanted) and found[-1] != wanted[-1]:
        raise _other_classes(teacher, found[-1], wanted[-1])
    if found != wanted:
        raise DataError(
            f"teacher {teacher.name} gives logits {list(found)} to one sample, student {list(wanted)}; give both "
            "the same pooling and cls_token"
        )


def check_takes(what: str, config: TransformerConfig, x: NDArray[Any]) -> None:
    """Raise DataError, which names the model as `what`, unless a model of this configuration takes samples x
    (n, *input), with as many rows as it has or fewer."""
    is_tokens = x.dtype.kind in "iu"
    if is_tokens != bool(config.vocab_size):
        takes, has = ("tokens", "numbers") if config.vocab_size else ("numbers", "tokens")
        raise DataError(f"{what} takes {takes}, the data holds {has}; give the data that it was trained on")
    if is_tokens and x.ndim == 2 and x.shape[1] > config.sequence:
        raise DataError(
            f"{what} takes at most {config.sequence} tokens a sample, the data has {x.shape[1]}; make the data with "
            f"`picoformer dataset --sequence {config.sequence}`"
        )
    expected, found = config.input_shape, tuple(x.shape[1:])
    rows = range(expected[0] if config.image is not None else 1, expected[0] + 1)
    if len(found) != len(expected) or found[0] not in rows or found[1:] != expected[1:]:
        raise DataError(
            f"{what} takes samples {list(expected)}, the data has {list(found)}; give the data that it was trained on"
        )
    if is_tokens and not 0 <= int(x.min()) <= int(x.max()) < config.vocab_size:
        raise DataError(
            f"{what} takes tokens 0 to {config.vocab_size - 1}, the data has {x.min()} to {x.max()}; make the data "
            "with `picoformer dataset --tokenizer` and the tokenizer that it was trained with"
        )


def _other_classes(teacher: Teacher, theirs: int, ours: int) -> DataError:
    return DataError(
        f"teacher {teacher.name} has {theirs} classes, data and student have {ours}; distill on the data that it was "
        "trained on, or take a teacher of this data"
    )


def refuse_layers(teacher: Teacher, key: str) -> ConfigError:
    """The error for a loss that asks for what this teacher does not show."""
    what = "an ONNX file" if isinstance(teacher, OnnxTeacher) else f"a {teacher.name}"
    mend = "add outputs hidden_0, hidden_1, … to it, or " if isinstance(teacher, OnnxTeacher) else ""
    mend = mend if key == "hidden_weight" else ""
    return ConfigError(f"{key} looks inside the teacher, and {what} shows its logits only; {mend}set {key} = 0")
