"""The ways in to a board by name; each is loaded when it is asked for."""

from __future__ import annotations

import importlib

from picoformer.errors import ConfigError
from picoformer.flash.interface import Flasher

FLASHERS = {
    "stm32": "picoformer.flash.stm32:Stm32Rom",
    "esptool": "picoformer.flash.esptool:Esptool",
    "uf2": "picoformer.flash.uf2_drive:Uf2Drive",
    "daplink": "picoformer.flash.daplink:Daplink",
    "jlink": "picoformer.flash.daplink:JlinkDrive",
    "bossac": "picoformer.flash.bossac:Bossac",
    "pyocd": "picoformer.flash.pyocd:Pyocd",
    "resident": "picoformer.flash.resident:Resident",
}
"""Kind → module and class."""


def flasher(kind: str) -> Flasher:
    """The flasher of a kind; ConfigError where there is none of that name."""
    if kind not in FLASHERS:
        raise ConfigError(f"unknown way of flashing {kind!r}; use one of {', '.join(FLASHERS)}")
    module, name = FLASHERS[kind].split(":")
    made: Flasher = getattr(importlib.import_module(module), name)()
    return made
