"""A finished project of ESP-IDF as an image: its flasher_args.json, of which nothing is believed unchecked."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from picoformer.errors import FitError, ModelError
from picoformer.flash.image import read_bounded
from picoformer.flash.interface import Image, Segment

ARGUMENTS = "flasher_args.json"
SECTOR = 4096
LARGEST_FLASH = 128 << 20
_MOST_JSON, _MOST_FILES = 1 << 20, 64
_IMAGE_MAGIC, _CHIP_ID = 0xE9, 12
"""First byte of an image and the offset of its chip's number, 16 bits (esp_app_format.h: esp_image_header_t)."""
_RESETS = {
    "before": {"default_reset", "usb_reset", "no_reset"},
    "after": {"hard_reset", "soft_reset", "no_reset", "watchdog_reset"},
}


@dataclass(frozen=True)
class EspImage(Image):
    """`segments` lie at offsets in the flash chip, one for every file, named by `files`. `chip` as esptool names it;
    the rest is what the project's settings say of the way there."""

    chip: str = ""
    files: tuple[str, ...] = ()
    before: str = "default_reset"
    after: str = "hard_reset"
    uses_stub: bool = True


def project_arguments(folder: Path) -> Path | None:
    """The flasher_args.json of a project or of its build folder; None where this is neither."""
    return next((path for path in (folder / ARGUMENTS, folder / "build" / ARGUMENTS) if path.is_file()), None)


def read_project(path: Path) -> EspImage:
    """The image that flasher_args.json describes; ModelError names what is wrong in it."""
    folder = path.parent.resolve()

    def broken(what: str) -> ModelError:
        return ModelError(f"{path}: {what}; build the project again with idf.py build")

    try:
        record = json.loads(read_bounded(path, _MOST_JSON))
    except (ValueError, RecursionError):
        raise broken("is no JSON") from None
    files = _mapping(record, "flash_files")
    extra = _mapping(record, "extra_esptool_args")
    if not files or len(files) > _MOST_FILES:
        raise broken(f"key 'flash_files' has {len(files)} files; 1 to {_MOST_FILES} are expected")
    chip = extra.get("chip")
    if not isinstance(chip, str) or not re.fullmatch(r"esp[a-z0-9]{1,12}", chip):
        raise broken("key 'extra_esptool_args.chip' names no chip")
    for part in record.values():
        if isinstance(part, dict) and str(part.get("encrypted", "false")).lower() not in ("false", ""):
            raise ModelError(f"{path}: the project is for encrypted flash, which is not covered; use idf.py flash")
    pieces = [
        (_offset(text, path), name, _file(folder, name, path)) for text, name in files.items()
    ]  # fmt: skip
    pieces.sort(key=lambda piece: piece[0])
    for (first, name, data), (second, other, _) in pairwise(pieces):
        if first + len(data) > second:
            raise broken(f"{name} ({len(data):,} bytes at {first:#x}) runs into {other} at {second:#x}")
    stub = extra.get("stub", True)
    if not isinstance(stub, bool):
        raise broken("key 'extra_esptool_args.stub' is neither true nor false")
    resets: dict[str, str] = {}
    for key, known in _RESETS.items():
        value = extra.get(key, "default_reset" if key == "before" else "hard_reset")
        if str(value).replace("-", "_") not in known:
            raise broken(f"key 'extra_esptool_args.{key}' is {value!r}, not one of {', '.join(sorted(known))}")
        resets[key] = str(value).replace("-", "_")
    return EspImage(
        path,
        tuple(Segment(offset, data) for offset, _, data in pieces),
        chip=chip,
        files=tuple(name for _, name, _ in pieces),
        uses_stub=stub,
        before=resets["before"],
        after=resets["after"],
    )


def refuse_other_chip(image: Image, number: int, board: str) -> None:
    """ModelError where the header of one of the images names another chip than `number`."""
    for segment in image.segments:
        if segment.data[:1] == bytes([_IMAGE_MAGIC]) and len(segment.data) >= 24:
            said = struct.unpack_from("<H", segment.data, _CHIP_ID)[0]
            if said != number:
                raise ModelError(
                    f"{image.source}: the image at {segment.address:#x} is for Espressif's chip number {said} and "
                    f"{board} has {number}; nothing was written: build it for this chip (idf.py set-target)"
                )


def refuse_beyond(image: Image, size: int, board: str) -> None:
    """FitError where a piece ends beyond the flash chip's `size`, ModelError where one does not begin at a sector."""
    for segment in image.segments:
        if segment.address % SECTOR:
            raise ModelError(
                f"{image.source}: {segment.address:#x} is not a multiple of {SECTOR}, a sector of the flash"
            )
        if segment.end > size:
            raise FitError(
                f"{image.source}: {len(segment.data):,} bytes at {segment.address:#x} end beyond the "
                f"{size:,} bytes of flash of {board}; nothing was written"
            )


def _mapping(record: Any, key: str) -> dict[str, Any]:
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, dict) else {}


def _offset(text: str, path: Path) -> int:
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", text) or int(text, 0) >= LARGEST_FLASH:
        raise ModelError(f"{path}: {text!r} is no offset in flash; build the project again with idf.py build")
    return int(text, 0)


def _file(folder: Path, name: Any, path: Path) -> bytes:
    """A file's bytes; ModelError where the name leads out of the build folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ModelError(f"{path}: key 'flash_files' holds {name!r}, which names no file; build the project again")
    place = (folder / name).resolve()
    if not place.is_relative_to(folder) or Path(name).is_absolute():
        raise ModelError(f"{path}: {name} leads out of the build folder; nothing outside of it is read")
    data = read_bounded(place, LARGEST_FLASH)
    if not data:
        raise ModelError(f"{path}: {name} is empty; build the project again with idf.py build")
    return data
