"""Which emulator runs a board's firmware here."""

from __future__ import annotations

import importlib.util
import os
import shutil

from picoformer.compilers import PACKAGES, find_program
from picoformer.errors import ConfigError, DeviceError, ToolError
from picoformer.targets import Target

EMULATORS = ("auto", "qemu", "unicorn")
UNICORN_MEND = "pip install 'picoformer[emulator]'"
UNICORN_CORES = {"cortex-m0plus": "UC_CPU_ARM_CORTEX_M0", "rv32imc": "UC_CPU_RISCV32_ANY"} | {
    f"cortex-m{number}": f"UC_CPU_ARM_CORTEX_M{number}" for number in (0, 3, 4, 7, 33)
}
"""cpu of a target → the name of unicorn's model. A Cortex-M55 it has not."""


def asked_emulator(choice: str = "auto") -> str:
    """`choice`; where that is "auto", $PICOFORMER_EMULATOR if it is set. ConfigError when there is no such emulator."""
    if choice == "auto":
        choice = os.environ.get("PICOFORMER_EMULATOR") or "auto"
    if choice not in EMULATORS:
        raise ConfigError(f"unknown emulator '{choice}'; use one of {', '.join(EMULATORS)}")
    return choice


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
    choice = asked_emulator(choice)
    program = target.emulator.program
    if choice == "qemu":
        find_program(program)
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
