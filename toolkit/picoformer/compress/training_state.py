"""The state of a training on disk: what a killed run needs to end with the weights it would have had."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from picoformer.files import atomic_write_bytes, atomic_write_text

FORMAT = "picoformer-training-1"


def _silent(_line: str) -> None:
    pass


@dataclass(frozen=True)
class RunFiles:
    """Where a training keeps what outlives it, None for nowhere, and who hears of it. No weight depends on these."""

    state: Path | None = None  # saved now and then; a run that finds its own goes on from there
    curves: Path | None = None  # losses over steps, JSON
    teacher_outputs: Path | None = None  # folder, shared by all runs that ask the same teacher about the same samples
    notify: Callable[[str], None] = _silent

    @classmethod
    def beside(cls, output: Path, notify: Callable[[str], None] = _silent) -> RunFiles:
        """Those of a training whose result is the file `output`."""
        return cls(
            output.with_name(f"{output.stem}.resume"),
            output.with_name(f"{output.stem}.curves.json"),
            output.with_name("teacher-outputs"),
            notify,
        )

    def finish(self) -> None:
        """Remove the state, once the result is where it belongs."""
        if self.state is not None:
            self.state.unlink(missing_ok=True)


def save_state(path: Path, key: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON `record` under the `key` of their training, atomically."""
    import safetensors.torch

    header = json.dumps({"format": FORMAT, "key": key, "record": dict(record)})
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomic_write_bytes(path, safetensors.torch.save(plain, metadata={"picoformer": header}))


def load_state(files: RunFiles, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_state` wrote for the same key; None, with a line to the listener, for anything else."""
    import safetensors

    path = files.state
    if path is None or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["picoformer"])
            if header["format"] != FORMAT or header["key"] != key:
                files.notify(f"{path}: left by a run with other settings, data or models; training starts anew")
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, header["record"]  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
        files.notify(f"{path}: not the state of a training; training starts anew")
        return None


def save_curves(path: Path, record: Mapping[str, Any]) -> None:
    """Write losses over steps as JSON, atomically."""
    atomic_write_text(path, json.dumps(record, indent=1) + "\n")
