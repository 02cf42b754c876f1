"""Firmware that records a sensor: the C of one sensor and a target to an ELF that `capture` speaks to."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from picoformer.build_folder import refuse_to_replace
from picoformer.errors import ConfigError
from picoformer.files import atomic_folder, atomic_write_text, file_hash
from picoformer.firmware import FirmwareBuild, build_firmware, load_build
from picoformer.targets import Target

MARK = "capture.json"
"""What tells the folder of such firmware from one of a person's own files."""
SOURCES = ["capture/answer.c", "capture/pace.c", "capture/record.c"]


def build_capture_firmware(
    sensor: Path, target: Target, out: Path, *, toolchain: str = "auto", strict: bool = False
) -> FirmwareBuild:
    """Compile and link the C file `sensor`, which defines `pf_sensor_here` (firmware/include/picoformer/sensor.h), with
    the headers beside it, for `target` into the folder `out`, whole or not at all.

    Raises ConfigError for a file or a target that cannot be, ToolError naming the compiler's first error.
    """
    if not sensor.is_file():
        raise ConfigError(f"{sensor}: no such file; give the C file of a sensor, as in examples/capture/synthetic.c")
    if sensor.suffix != ".c":
        raise ConfigError(f"{sensor}: is no .c file; give the C file of a sensor")
    if target.is_library:
        raise ConfigError(
            f"{target.name} is started by {target.library_sdk}, and firmware that records is an image of its own; "
            "take a target that is started here (`picoformer targets`: builds an image)"
        )
    refuse_to_replace(out, (MARK,))
    with atomic_folder(out) as folder:
        source = folder / target.name / "source"
        source.mkdir(parents=True)
        for path in (sensor, *sorted(sensor.parent.glob("*.h"))):
            shutil.copyfile(path, source / path.name)
        listing = {"model": False, "model_sources": [sensor.name], "sources": SOURCES}
        atomic_write_text(source / "sources.json", json.dumps(listing, indent=1) + "\n")
        build_firmware(source, target, folder / target.name, toolchain=toolchain, strict=strict)
        atomic_write_text(folder / "target.json", target.model_dump_json(indent=1) + "\n")
        record = {"sensor": sensor.name, "sensor_sha256": file_hash(sensor), "target": target.name}
        atomic_write_text(folder / MARK, json.dumps(record, indent=1) + "\n")
    return load_build(out / target.name, target)


def capture_firmware_record(build: FirmwareBuild, sensor: Path, out: Path) -> dict[str, Any]:
    """What `capture-firmware` prints."""
    sizes = asdict(build.sizes)
    return {
        "sensor": sensor.name,
        "target": build.target,
        "folder": str(out),
        "elf": str(build.elf),
        "flash_bytes": sizes["flash"]["total"],
        "ram_bytes": sizes["ram"]["total"],
        "compiler": build.compiler,
    }
