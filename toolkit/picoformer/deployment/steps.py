"""What a deployment does, command by command: nothing is run that could not be printed before.

Each script is a constant; folders and names reach it as arguments of `sh`, quoted once for the shell there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from picoformer.deployment.pins import requirements
from picoformer.deployment.place import Place

SSH = ("ssh", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
"""Besides these all is as the user's own configuration says."""
RSYNC = ("rsync", "-s", "--recursive", "--times", "--timeout=60", "--rsh", shlex.join(SSH))

_PROBE = """\
set -eu; cd
echo "pi machine $(uname -m)"
echo "pi python $(python3 -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null || echo none)"
echo "pi venv $(python3 -c 'import ensurepip, venv; print("yes")' 2>/dev/null || echo no)"
echo "pi rsync $(command -v rsync >/dev/null && echo yes || echo no)"
at="$1"; while [ ! -d "$at" ]; do at="$(dirname -- "$at")"; done
echo "pi free $(df -Pk -- "$at" | awk 'NR == 2 { print $4 }')"
ok=no; if [ -e "$1/venvs/$2/complete" ]; then if "$1/venvs/$2/bin/python" -c "" 2>/dev/null; then ok=yes; fi; fi
echo "pi environment $ok"
echo "pi bundle $(if [ -e "$1/bundles/$3/bundle.json" ]; then echo yes; else echo no; fi)"
echo "pi current $(if [ "$(readlink -- "$1/current")" = "versions/$4" ]; then echo yes; else echo no; fi)"
"""
_FOLDERS = """\
set -eu; cd; umask 077
mkdir -p -- "$1/wheels" "$1/venvs" "$1/bundles" "$1/versions"
"""
_ENVIRONMENT = """\
set -eu; cd; umask 077
venv="$1/venvs/$2"; wheel="$1/wheels/$3"; shift 3
rm -rf -- "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: \\
  "$@" "$wheel"
rm -f -- "$wheel"
: > "$venv/complete"
"""
_PICOFORMER = """\
set -eu; cd
bundle="$1/bundles/$3"; if [ ! -d "$bundle" ]; then bundle="$bundle.part"; fi
python="$1/venvs/$2/bin/python"; shift 3
echo "pi says"
exec "$python" -m picoformer pi "$@" "$bundle"
"""
_SWITCH = """\
set -eu; cd; umask 077
if [ ! -d "$1/bundles/$3" ]; then mv -T -- "$1/bundles/$3.part" "$1/bundles/$3"; fi
mkdir -p -- "$1/versions/$4"
ln -sfn -- "../../bundles/$3" "$1/versions/$4/bundle"
ln -sfn -- "../../venvs/$2" "$1/versions/$4/venv"
old="$(readlink -- "$1/current" || :)"
if [ "$old" != "versions/$4" ]; then
  if [ -n "$old" ]; then ln -sfn -- "$old" "$1/previous.new"; mv -T -- "$1/previous.new" "$1/previous"; fi
  ln -sfn -- "versions/$4" "$1/current.new"; mv -T -- "$1/current.new" "$1/current"
fi
"""
_TIDY = """\
set -eu; cd
now="$(readlink -- "$1/current")"; before="$(readlink -- "$1/previous" || :)"
for each in "$1"/versions/*; do
  case "versions/${each##*/}" in "$now" | "$before") ;; *) rm -rf -- "$each" ;; esac
done
for kind in bundle venv; do
  for each in "$1/${kind}s"/*; do
    keep=no
    for link in "$1"/versions/*/"$kind"; do
      if [ "$(readlink -- "$link")" = "../../${kind}s/${each##*/}" ]; then keep=yes; fi
    done
    if [ "$keep" = no ]; then rm -rf -- "$each"; fi
  done
done
"""
_SERVICE = """\
set -eu; cd; umask 077
XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; export XDG_RUNTIME_DIR
mkdir -p -- "$HOME/.config/systemd/user"
mv -- "$1/$2" "$HOME/.config/systemd/user/$2"
loginctl enable-linger || echo "it ends when you log out; sudo loginctl enable-linger $(id -un) keeps it"
systemctl --user daemon-reload
systemctl --user enable --quiet -- "$2"
systemctl --user restart -- "$2"
sleep 3
systemctl --user is-active -- "$2"
"""
_BACK = """\
set -eu; cd; old="$(readlink -- "$1/previous")"; now="$(readlink -- "$1/current")"
ln -sfn -- "$old" "$1/current.new"; mv -T -- "$1/current.new" "$1/current"
ln -sfn -- "$now" "$1/previous.new"; mv -T -- "$1/previous.new" "$1/previous"
"""


@dataclass(frozen=True)
class Step:
    """One command on this machine: what for, its words, and how long it may take."""

    what: str
    key: str
    command: tuple[str, ...]
    seconds: float


def steps(
    place: Place, bundle_files: Sequence[Path], wheel: Path, unit: Path | None = None, as_json: bool = False
) -> list[Step]:
    """All that a deployment may run, in order; `deploy` leaves out what is done already.

    `bundle_files`, `wheel` and `unit` are absolute paths of files here; `unit` None: no service.
    """
    names = (place.folder, place.environment, place.bundle, place.version)
    json = ["--json"] if as_json else []
    found = [
        Step("see what is there", "probe", _remote(place, _PROBE, *names), 60),
        Step("make the folders", "folders", _remote(place, _FOLDERS, place.folder), 60),
        Step("copy picoformer", "wheel", _copy(place, [wheel], f"wheels/{wheel.name}"), 600),
        Step("make the virtual environment", "environment", _remote(
            place, _ENVIRONMENT, place.folder, place.environment, wheel.name, *requirements()), 1800),
        Step("copy the bundle", "bundle", _copy(place, bundle_files, f"bundles/{place.bundle}.part/"), 3600),
        Step("check the model there", "check", _remote(place, _PICOFORMER, *names[:3], "check", *json), 900),
        Step("make it the current version", "switch", _remote(place, _SWITCH, *names), 60),
        Step("remove all but this version and the one before", "tidy", _remote(place, _TIDY, place.folder), 120),
    ]  # fmt: skip
    if unit is not None:
        found += [
            Step("copy the service", "unit", _copy(place, [unit], place.service), 60),
            Step("start the service", "service", _remote(place, _SERVICE, place.folder, place.service), 120),
        ]
    return [*found, Step("measure", "bench", _remote(place, _PICOFORMER, *names[:3], "bench", *json), 900)]


def way_back(place: Place) -> tuple[str, ...]:
    """The command that makes the version before the current one again."""
    return _remote(place, _BACK, place.folder)


def as_text(command: Sequence[str]) -> str:
    """A command as a shell would take it."""
    return shlex.join(command)


def _remote(place: Place, script: str, *words: str) -> tuple[str, ...]:
    return (*SSH, "--", place.host, shlex.join(["sh", "-c", script, "sh", *words]))


def _copy(place: Place, files: Sequence[Path], to: str) -> tuple[str, ...]:
    return (*RSYNC, "--", *map(str, files), f"{place.host}:{place.folder}/{to}")
