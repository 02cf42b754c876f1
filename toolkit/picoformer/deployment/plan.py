"""A deployment before it runs: the bundle looked at, the wheel and the service's unit written, commands laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from picoformer.deployment.place import Place, find_place
from picoformer.deployment.steps import Step, steps
from picoformer.deployment.unit import unit_text
from picoformer.deployment.wheel import wheel_bytes, wheel_name
from picoformer.files import atomic_write_bytes, atomic_write_text, cache_root
from picoformer.raspberry_pi import open_bundle
from picoformer.raspberry_pi.bundle import DESCRIPTION


@dataclass(frozen=True)
class Plan:
    """Where a bundle goes, what brings it there, and its bytes."""

    place: Place
    steps: tuple[Step, ...]
    bytes: int


def prepare(bundle: Path, host: str, folder: str, service: tuple[int, str] | None, as_json: bool) -> Plan:
    """Lay out the commands. `service`: port and address of a systemd service, None for none.

    Writes the wheel and the unit into picoformer's cache. Raises ModelError for a bundle that is not as it was packed,
    ConfigError for a host or folder that cannot be.
    """
    opened = open_bundle(bundle)
    here = bundle.resolve()
    files = [here / DESCRIPTION, *(here / name for name in sorted(opened.manifest.files))]
    wheel = wheel_bytes()
    place = find_place(host, folder, files[0].read_bytes(), wheel)
    cache = cache_root().resolve() / "deploy" / place.environment
    wheel_file, unit_file = cache / wheel_name(), None
    atomic_write_bytes(wheel_file, wheel)
    if service is not None:
        unit_file = cache / place.service
        atomic_write_text(unit_file, unit_text(place, *service))
    return Plan(
        place, tuple(steps(place, files, wheel_file, unit_file, as_json)), sum(path.stat().st_size for path in files)
    )
