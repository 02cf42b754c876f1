"""Arrays out of an .npz file: plain numbers, of a size that is known before it is read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError

Array = np.ndarray[Any, Any]
MOST_BYTES = 1 << 30


def read_arrays(path: Path, aside: Collection[str] = ()) -> dict[str, Array]:
    """The arrays of an .npz, plain numbers all of them but those `aside`, which are left out. Raises DataError for
    anything else."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an .npz with an array for each input of the model")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds a single array; save it with np.savez(path, <input name>=array)")
        with archive:
            size = sum(entry.file_size for entry in archive.zip.infolist()) if archive.zip is not None else 0
            if size > MOST_BYTES:
                raise DataError(f"{path}: holds {size} bytes of arrays; give at most {MOST_BYTES}, in several files")
            found = {name: np.asarray(archive[name]) for name in archive.files if name not in aside}
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error,
            MemoryError) as error:  # fmt: skip
        reason = (str(error).splitlines() or ["unreadable"])[0]
        reason = "Python objects, or no numpy file at all" if "pickle" in reason else reason
        raise DataError(f"{path}: is not a readable .npz file of numbers ({reason}); save it again") from None
    wrong = next((name for name, value in found.items() if value.dtype.kind not in "fiub"), None)
    if wrong is not None:
        raise DataError(f"{path}: array '{wrong[:80]}' holds no numbers; save it again")
    return found
