"""A teacher's answers, computed once and kept on disk under what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picoformer.compress.processes import Processes
from picoformer.compress.samples import hash_arrays
from picoformer.compress.teacher import Teacher
from picoformer.errors import DataError
from picoformer.files import atomic_folder, atomic_write_text

BATCH = 64
FORMAT = "teacher-outputs-1"


class TeacherOutputs:
    """What a teacher said to each view of the samples: name -> one memory-mapped array (n, ...) a view."""

    def __init__(self, arrays: dict[str, list[NDArray[Any]]], were_read: bool) -> None:
        self.arrays, self.were_read = arrays, were_read

    def __call__(self, chosen: NDArray[np.int64], view: int) -> dict[str, Tensor]:
        """For samples by index: name -> float32 (len(chosen), ...)."""
        return {
            name: torch.from_numpy(np.asarray(views[view][chosen], dtype=np.float32))
            for name, views in self.arrays.items()
        }


def teacher_outputs(
    teacher: Teacher,
    views: Sequence[NDArray[Any]],
    wanted: Sequence[str],
    kind: str,
    root: Path | None,
    processes: Processes,
) -> TeacherOutputs:
    """The teacher's outputs `wanted` for all views (n, *input), read from the folder `root` if they are there.

    They lie as one .npy for each name and view, of `kind` "float32" or "float16" (a logit of 20 is then off by 0.008 at
    most), in a folder named after the SHA-256 of teacher, samples, names and kind. One process of each machine computes
    them, the others wait. With nowhere to keep them they stay in memory. Raises DataError for outputs that are not
    finite or do not fit float16.
    """
    if root is None:
        return TeacherOutputs(_compute(teacher, views, wanted, kind, None, processes), were_read=False)
    about = {"format": FORMAT, "teacher": teacher.fingerprint(), "samples": hash_arrays(list(views)),
             "outputs": sorted(wanted), "type": kind}  # fmt: skip
    folder = root / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    with processes.one_by_machine():
        found = _read(folder, about, views, wanted)
        if found is None:
            with atomic_folder(folder) as fresh:
                _compute(teacher, views, wanted, kind, fresh, processes)
                atomic_write_text(fresh / "about.json", json.dumps(about, indent=1) + "\n")
            found = _read(folder, about, views, wanted)
            if found is not None:
                found.were_read = False
    if found is None:
        raise DataError(f"{folder}: cannot be read back; is the disk full?")
    return found


def _read(
    folder: Path, about: dict[str, Any], views: Sequence[NDArray[Any]], wanted: Sequence[str]
) -> TeacherOutputs | None:
    """What lies in `folder`; None unless all that `about` says is there, one shape in all views."""
    if not (folder / "about.json").is_file():
        return None
    arrays: dict[str, list[NDArray[Any]]] = {}
    try:
        if json.loads((folder / "about.json").read_text("utf-8")) != about:
            return None
        for name in wanted:
            arrays[name] = [
                np.load(folder / f"{name}.{view}.npy", mmap_mode="r", allow_pickle=False) for view in range(len(views))
            ]
            for array, view in zip(arrays[name], views, strict=True):
                if array.shape != (len(view), *arrays[name][0].shape[1:]) or array.dtype != np.dtype(about["type"]):
                    return None
    except (OSError, ValueError, EOFError):
        return None
    return TeacherOutputs(arrays, were_read=True)


def _compute(
    teacher: Teacher,
    views: Sequence[NDArray[Any]],
    wanted: Sequence[str],
    kind: str,
    folder: Path | None,
    processes: Processes,
) -> dict[str, list[NDArray[Any]]]:
    """One array for each name and view, in files of `folder` or in memory."""
    written: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for view, x in enumerate(views):
        arrays: dict[str, Any] = {}
        for start in range(0, len(x), BATCH):
            inputs = torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH])).to(processes.device)
            for name, values in teacher.answer(inputs, wanted).items():
                with np.errstate(over="ignore"):  # what does not fit is refused below
                    part = values.float().cpu().numpy().astype(kind)
                if not np.isfinite(part).all():
                    mend = '; set cache_type = "float32"' if kind == "float16" else ""
                    raise DataError(f"teacher {teacher.name}: '{name}' is not finite near sample {start}{mend}")
                if name not in arrays:
                    shape = (len(x), *part.shape[1:])
                    arrays[name] = np.empty(shape, kind) if folder is None else np.lib.format.open_memmap(
                        folder / f"{name}.{view}.npy", mode="w+", dtype=kind, shape=shape
                    )  # fmt: skip
                arrays[name][start : start + len(part)] = part
        for name, array in arrays.items():
            if folder is not None:
                array.flush()
            written[name].append(array)
    return written
