"""A 64-bit Arm Linux without the board: Debian's arm64 Python and the aarch64 wheels in a folder, run by qemu-user.

`python tests/aarch64_machine.py` makes the folder; tests call `open_machine`, which makes it where it is not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from picoformer.deployment.pins import PINS, requirements
from picoformer.files import atomic_folder, atomic_write_text, content_hash, file_hash

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "aarch64"
EMULATOR = "qemu-aarch64-static"
CPU = "cortex-a72"
"""The core of a Raspberry Pi 4. Never "max": with SVE on, results of int8 models were seen to be silently wrong."""
DEBIAN = ("python3.11", "libstdc++6")
"""What is wanted of Debian 12; apt adds what these need."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
NEEDED = {
    EMULATOR: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar"
}  # fmt: skip
"""Program → the Debian package that has it."""

APT = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
Dir::State "{place}/state/";
Dir::State::Lists "lists/";
Dir::State::status "{place}/state/status";
Dir::Cache "{place}/cache/";
Dir::Cache::archives "archives/";
"""
"""The machine's own mirrors and keys, another architecture, and a state of its own in which nothing is installed."""

CORE = """\
processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""What a Cortex-A72 says in /proc/cpuinfo; onnxruntime asks it at import and dies of what an x86 says."""
CORES = 2


class MachineError(Exception):
    """The folder cannot be made here: what is missing, or what a program said."""


@dataclass(frozen=True)
class Machine:
    """A folder with `sys`, the root of an arm64 system, and `site`, the wheels."""

    folder: Path

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """The words of the Arm Python behind the emulator. -S: nothing of this machine's own Python comes along."""
        python = self.folder / "sys/usr/bin/python3.11"
        return [EMULATOR, "-L", str(self.folder / "sys"), "-cpu", CPU, str(python), "-S", *map(str, words)]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """This checkout's picoformer and the wheels, and nothing of the user's."""
        path = os.pathsep.join((str(ROOT / "toolkit"), str(self.folder / "site")))
        return {"PATH": os.defpath, "PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "LC_ALL": "C.UTF-8", **(more or {})}

    def run(self, *words: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the Arm Python to its end: exit code, output and errors as text."""
        return subprocess.run(
            self.command(words), env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip


def open_machine() -> Machine:
    """The machine, made where it is missing or older than what is asked for here; raises MachineError."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        packages = " ".join(NEEDED[name] for name in missing)
        raise MachineError(f"{', '.join(missing)} not installed: sudo apt-get install {packages}")
    with _alone():
        if not _is_made():
            with atomic_folder(FOLDER) as place:
                _make(place)
    return Machine(FOLDER)


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with open(FOLDER.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key() -> str:
    """Changes with everything that the folder is made of: this file and the versions."""
    return content_hash(Path(__file__).read_bytes() + "\n".join(requirements()).encode())


def _is_made() -> bool:
    try:
        return bool(json.loads((FOLDER / "made.json").read_text("utf-8"))["key"] == _key())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(place: Path) -> None:
    """Fill an empty folder; made.json, which says of what, comes last."""
    system, site, downloads = place / "sys", place / "site", place / "downloads"
    debian = _debian(downloads / "apt")
    wheels = _wheels(downloads / "wheels")
    (system / "usr/lib").mkdir(parents=True)
    (system / "lib").symlink_to("usr/lib")  # where packages say /lib they mean this one
    for package in debian:
        contents = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        unpack = ["tar", "-x", "-C", str(system), "--keep-directory-symlink", "--no-same-owner"]
        _call([*unpack], f"unpacking {package.name}", stdin=contents.stdout)
        if contents.wait() != 0:
            raise MachineError(f"{package.name}: is not a Debian package")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    cpus = system / "sys/devices/system/cpu"
    for name in ("possible", "present", "online"):
        atomic_write_text(cpus / name, f"0-{CORES - 1}\n")
    atomic_write_text(system / "proc/cpuinfo", "".join(CORE.format(index=index) for index in range(CORES)))
    made = {"key": _key(), "files": {path.name: file_hash(path) for path in (*debian, *wheels)}}
    shutil.rmtree(downloads)
    atomic_write_text(place / "made.json", json.dumps(made, indent=1) + "\n")


def _debian(place: Path) -> list[Path]:
    """Fetch the arm64 packages of Debian by the machine's own mirrors, beside its own apt."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True)
    (place / "state/status").touch()
    (place / "apt.conf").write_text(APT.format(place=place))
    apt = ["apt-get", "-c", str(place / "apt.conf"), "-qq", "-o", "Acquire::Retries=3"]
    _call([*apt, "update"], "reading what the mirrors have for arm64")
    fetch = [*apt, "install", "--download-only", "--yes", "--no-install-recommends", *DEBIAN]
    _call(fetch, f"fetching {' and '.join(DEBIAN)} for arm64, as Debian 12 has them")
    found = sorted((place / "cache/archives").glob("*.deb"))
    if not any(path.name.startswith("libc6_") for path in found):
        raise MachineError("apt fetched no libc6 for arm64")
    return found


def _wheels(place: Path) -> list[Path]:
    """Fetch the aarch64 wheels, in the very versions that `pi deploy` installs."""
    wanted = [word for name in PLATFORMS for word in ("--platform", name)]
    _call(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
         "--no-deps", "--python-version", "3.11", *wanted, "--dest", str(place), *requirements()],
        "fetching the aarch64 wheels",
    )  # fmt: skip
    found = sorted(place.glob("*.whl"))
    if len(found) != len(PINS):
        raise MachineError(f"pip fetched {len(found)} wheels for {len(PINS)} names")
    return found


def _call(command: list[str], what: str, **more: object) -> None:
    """Run a program of this machine; MachineError with what it was for and its last line where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "LC_ALL": "C"}, **more
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        raise MachineError(f"{what}: {command[0]}: {said[-1]}")


if __name__ == "__main__":
    assert sysconfig.get_platform().startswith("linux"), "qemu-user runs on Linux"
    try:
        print(open_machine().folder)
    except MachineError as error:
        print(f"NOT TESTED on aarch64: {error}", file=sys.stderr)
        sys.exit(1)
