"""Several processes as one: who writes, how gradients become one, and which device computes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from picoformer.errors import ConfigError, ToolError
from picoformer.files import several_processes

WAIT_HOURS = 12
"""How long a process waits for the one that computes the teacher's outputs."""


class Processes:
    """The processes of one training: this one alone, or as many as torchrun (or `accelerate launch`) started.

    Hugging Face Accelerate brings them together (one GPU each, or gloo between CPUs); averaging stays here, because
    losses look inside models and not only at their outputs.
    """

    def __init__(self, device: str = "auto") -> None:
        """`device` is "auto", "cpu" or "cuda". Raises ConfigError without the GPU, ToolError without accelerate."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError('device = "cuda", but torch sees no GPU here; set device = "auto"')
        self._state: Any = None
        self.rank, self.count = 0, 1
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        if several_processes():
            self._join()

    def _join(self) -> None:
        import atexit
        from datetime import timedelta

        try:
            from accelerate import PartialState
        except ModuleNotFoundError as error:
            raise ToolError(
                "several processes need accelerate; pip install 'picoformer[train]' or start one process"
            ) from error
        self._state = PartialState(cpu=self.device.type == "cpu", timeout=timedelta(hours=WAIT_HOURS))
        self.rank, self.count, self.device = (
            self._state.process_index, self._state.num_processes, self._state.device,
        )  # fmt: skip
        atexit.register(self._state.destroy_process_group)
        if self.count != int(os.environ["WORLD_SIZE"]):
            raise ToolError(f"{os.environ['WORLD_SIZE']} processes were started and {self.count} found; use torchrun")

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of a batch of `count` samples that is this process's."""
        return slice(self.rank, count, self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over all processes, the same bits in each."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        total: Tensor = reduce(values, reduction="sum")
        return total

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes, in one message."""
        if self.count == 1:
            return
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        total = self.sum(torch.cat(flat))
        sizes = [part.numel() for part in flat]
        for parameter, part in zip(parameters, torch.split(total, sizes), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def from_first(self, value: float) -> float:
        """The first process's number, in all of them: decisions must not differ by a rounding."""
        if self.count == 1:
            return value
        return float(self.sum(torch.tensor([value if self.is_first else 0.0], dtype=torch.float64, device=self.device)))

    @contextlib.contextmanager
    def one_by_machine(self) -> Iterator[None]:
        """The first process of each machine goes through the block before the others enter it."""
        if self._state is None:
            yield
            return
        with self._state.local_main_process_first():
            yield

    def wait(self) -> None:
        """Until all have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()
