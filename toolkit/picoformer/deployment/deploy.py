"""The steps of a deployment run one after the other; what is there already is left out, what fails is named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from picoformer.deployment.steps import Step
from picoformer.errors import FitError, ToolError

LEAST_PYTHON = (3, 11)
ENVIRONMENT_BYTES = 400 << 20
"""What a virtual environment with the pinned libraries takes, with room for pip's own files while it works."""
SPARE_BYTES = 32 << 20
_LOST = {"ssh": (255,), "rsync": (10, 12, 30, 35, 255)}
"""Exit codes of a connection that fails: of a socket, a stream, a timeout, and ssh's own."""


@dataclass(frozen=True)
class Deployed:
    """What was done: the keys of the steps that ran and of those that were done before, and what they printed."""

    ran: tuple[str, ...]
    there_already: tuple[str, ...]
    check: str
    bench: str


@dataclass(frozen=True)
class _Found:
    """What the first step saw."""

    machine: str
    python: str
    venv: bool
    rsync: bool
    free: int
    """Bytes."""
    environment: bool
    bundle: bool
    current: bool


def deploy(
    steps: Sequence[Step], host: str, bundle_bytes: int, say: Callable[[str], None], shows_results: bool = True
) -> Deployed:
    """Run the steps. `say` gets a line as each begins and, where `shows_results`, what checking and measuring print.

    Raises ToolError where a program is missing or a step fails, FitError where there is too little room.
    """
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            raise ToolError(f"{program} is not installed; sudo apt-get install {_PACKAGES[program]}")
    probe, *rest = steps
    say(probe.what)
    found = _read(_call(probe, host), host)
    _check(found, host, bundle_bytes)
    done = {
        "folders": found.environment and found.bundle,
        "wheel": found.environment,
        "environment": found.environment,
        "bundle": found.bundle,
        "switch": found.current,
        "tidy": found.current,
    }
    said = {}
    for step in rest:
        if done.get(step.key):
            say(f"{step.what}: done before, nothing to do")
            continue
        say(step.what)
        output = _call(step, host)
        said[step.key] = output.rpartition(_SAYS)[2].rstrip("\n")
        if shows_results and step.key in ("check", "bench"):
            say(said[step.key])
    skipped = tuple(step.key for step in rest if step.key not in said)
    return Deployed((probe.key, *said), skipped, said["check"], said["bench"])


_PACKAGES = {"ssh": "openssh-client", "rsync": "rsync"}


def _call(step: Step, host: str) -> str:
    """Run a step's command to its end; its output. Raises ToolError with what it said last."""
    try:
        done = subprocess.run(
            step.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=step.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{host}: {step.what}: not done after {step.seconds:g} s; {AGAIN}") from None
    output, errors = (data.decode("utf-8", "replace") for data in (done.stdout, done.stderr))
    if done.returncode == 0:
        return output
    lines = [line.strip() for line in (errors or output).splitlines() if line.strip()]
    at = 0 if step.command[0] == "rsync" else -1  # what rsync says last is which of its lines said so
    last = "".join(c for c in (lines[at] if lines else "nothing said") if c.isprintable())[:300]
    if any("No space left on device" in line for line in lines):
        raise FitError(f"{host}: {step.what}: no space left on its disk; make room, then {AGAIN}")
    if done.returncode in _LOST[step.command[0]]:
        raise ToolError(f"{host}: {step.what}: the connection failed ({last}); {AGAIN}")
    raise ToolError(
        f"{host}: {step.what}: failed with exit code {done.returncode} ({last}); `--dry-run` shows the command; {AGAIN}"
    )


_SAYS = "pi says\n"
"""What stands between whatever a login prints and what was asked for."""
AGAIN = "run the same command again, it goes on from here"


def _read(output: str, host: str) -> _Found:
    """The lines of the first step among whatever else a login prints."""
    values = {}
    for line in output.splitlines():
        mark, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if mark == "pi":
            values[name] = value.strip()
    try:
        return _Found(
            values["machine"], values["python"], values["venv"] == "yes", values["rsync"] == "yes",
            1024 * int(values["free"]), values["environment"] == "yes", values["bundle"] == "yes",
            values["current"] == "yes",
        )  # fmt: skip
    except (KeyError, ValueError):
        raise ToolError(f"{host}: did not answer as a Linux with a POSIX shell does; try `ssh {host} true`") from None


def _check(found: _Found, host: str, bundle_bytes: int) -> None:
    """Raise for a machine that cannot run a bundle, before anything is written there."""
    if found.machine != "aarch64":
        raise ToolError(
            f"{host}: is {found.machine[:40]}, and onnxruntime's wheels are for aarch64; put the 64-bit Raspberry Pi "
            "OS on it"
        )
    words = found.python.split(".")
    version = tuple(map(int, words)) if len(words) == 2 and all(word.isdecimal() for word in words) else ()
    if version < LEAST_PYTHON:
        raise ToolError(
            f"{host}: has {'Python ' + found.python if version else 'no python3'}, and 3.11 or newer is needed; "
            "Raspberry Pi OS 12 (bookworm) brings it"
        )
    if not found.venv and not found.environment:
        raise ToolError(
            f"{host}: its Python makes no virtual environments; ssh {host} sudo apt-get install python3-venv"
        )
    if not found.rsync:
        raise ToolError(f"{host}: has no rsync; ssh {host} sudo apt-get install rsync")
    need = SPARE_BYTES + (0 if found.environment else ENVIRONMENT_BYTES) + (0 if found.bundle else bundle_bytes)
    if found.free < need:
        raise FitError(f"{host}: {need:,} bytes are needed on its disk and {found.free:,} are free; make room")
