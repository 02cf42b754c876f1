"""Which emulator runs a board's firmware here."""

from __future__ import annotations

import importlib.util
import os
import shutil

from picoformer.compilers import PACKAGES
from picoformer.errors import ConfigError, DeviceError, ToolError
from picoformer.targets import Target

EMULATORS = ("auto", "qemu", "unicorn")
UNICORN_MEND = "pip install 'picoformer[emulator]'"
UNICORN_CORES = ("cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")
"""The `cpu` of targets that unicorn has. A Cortex-M55 it has not."""


def choose_emulator(target: Target, choice: str = "auto") -> str:
    """ "host", "qemu" or "unicorn". "auto" is $PICOFORMER_EMULATOR, else QEMU if it is installed, else unicorn.

    Raises ToolError when what was chosen, or each of the two, is missing or has no such core: it names what brings one.
    """
    if target.emulator is None:
        raise DeviceError(
            f"{target.name} has no emulator; run the firmware of {target.stands_in}, which stands in for it"
        )
    if target.emulator.kind == "host":
        return "host"
    if choice == "auto":
        choice = os.environ.get("PICOFORMER_EMULATOR") or "auto"
    if choice not in EMULATORS:
        raise ConfigError(f"unknown emulator '{choice}'; use one of {', '.join(EMULATORS)}")
    program = target.emulator.program
    if choice == "qemu" or (choice == "auto" and shutil.which(program)):
        return "qemu"
    mend = f"get it with: sudo apt-get install {PACKAGES.get(program, program)}"
    if target.cpu not in UNICORN_CORES:
        raise ToolError(f"{target.name} ({target.cpu}) runs in QEMU only, unicorn has no such core; {mend}")
    if importlib.util.find_spec("unicorn") is None:
        if choice == "unicorn":
            raise ToolError(f"unicorn is not installed; {UNICORN_MEND}")
        raise ToolError(f"{program} is not installed; {mend}, or without root, unicorn: {UNICORN_MEND}")
    return "unicorn"
