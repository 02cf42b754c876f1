"""A board that is a folder: `ssh` and `rsync` lead into it, commands run in it by a real shell with few programs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    "awk",
    "cat",
    "cp",
    "df",
    "dirname",
    "env",
    "id",
    "ln",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "rsync",
    "sh",
    "touch",
)
"""What there is on the board, of this machine's own; the rest is written here."""

SSH = """\
#!/bin/sh
# As ssh does: options, a host, and the rest joined by blanks for a shell on the other side, in the user's home.
echo "$@" >> '{board}/calls'
user=
while :; do case "$1" in -o) shift 2 ;; -l) user="$2@"; shift 2 ;; --) shift ;; -*) exit 64 ;; *) break ;; esac; done
echo "$user$1" >> '{board}/hosts'; shift
count=$(($(cat '{board}/count') + 1)); echo "$count" > '{board}/count'
if [ "$count" = "$(cat '{board}/drop-before')" ]; then echo "Connection closed by remote host" >&2; exit 255; fi
cd '{board}/home' || exit 1
case "$*" in rsync*) ;; *) echo "Welcome, pi free 1"; echo "pi is in this line" ;; esac
env -i HOME='{board}/home' PATH='{board}/bin' {environment} sh -c "$*"
status=$?
if [ "$count" = "$(cat '{board}/drop-after')" ]; then echo "Connection reset by peer" >&2; exit 255; fi
exit $status
"""

PYTHON = """\
#!/bin/sh
# Python as far as a deployment asks it: its version, and environments whose Python says what it was asked.
case "$*" in
  *version_info*) echo "${{BOARD_PYTHON:-3.11}}" ;;
  *ensurepip*) [ -e '{board}/no-venv' ] && exit 1; echo yes ;;
  "-m venv "*) mkdir -p "$3/bin" && cp '{board}/venv-python' "$3/bin/python" ;;
  *) exit 64 ;;
esac
"""

VENV_PYTHON = """\
#!/bin/sh
here="$(dirname "$0")"
case "$*" in
  "-c "*) ;;
  "-m pip install"*)
    printf '%s\\n' "$@" > "$here/../pip"
    [ -e '{board}/no-space' ] && {{ echo "ERROR: [Errno 28] No space left on device" >&2; exit 1; }}
    for last in "$@"; do :; done
    cp "$last" "$here/../wheel.whl" ;;
  "-m picoformer pi check"*)
    for last in "$@"; do :; done
    [ -e "$last/bundle.json" ] || {{ echo "picoformer: no bundle" >&2; exit 1; }}
    [ -e '{board}/unequal' ] && {{ echo "picoformer: NOT equal" >&2; exit 1; }}
    echo "  equal: as packed" ;;
  "-m picoformer pi bench"*) echo "  a table of $#" ;;
  *) exit 64 ;;
esac
"""


@dataclass(frozen=True)
class Board:
    """The sandbox; `path` goes in front of PATH here."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def path(self) -> Path:
        return self.folder / "here"

    def say(self, name: str, text: str = "") -> None:
        """Set a switch of the scripts."""
        (self.folder / name).write_text(text)

    def program(self, name: str, text: str) -> None:
        """Put a program on the board."""
        target = self.folder / "bin" / name
        target.unlink(missing_ok=True)
        target.write_text(text)
        target.chmod(0o755)

    def hosts(self) -> list[str]:
        """Whom every call of ssh so far went to, rsync's among them."""
        return self._lines("hosts")

    def copies(self) -> int:
        """How many of them were rsync's."""
        return sum(" rsync --server " in line for line in self._lines("calls"))

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        """Begin to count anew."""
        for name in ("calls", "hosts"):
            (self.folder / name).unlink(missing_ok=True)
        for name, text in {"count": "0", "drop-before": "-", "drop-after": "-"}.items():
            self.say(name, text)


def make_board(folder: Path, real_python: bool = False) -> Board:
    """An aarch64 with plenty of room and Python 3.11; its Python is this one where `real_python`."""
    board = Board(folder)
    for each in (board.home, board.path, folder / "bin"):
        each.mkdir(parents=True)
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found is not None, name
        (folder / "bin" / name).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "BOARD_PYTHON"}
    settings = Path.home() / ".config" / "pip" / "pip.conf"  # the board has another home
    kept |= {"PIP_CONFIG_FILE": str(settings)} if settings.is_file() else {}
    environment = shlex.join(f"{name}={value}" for name, value in kept.items()) if real_python else ""
    ssh = board.path / "ssh"
    ssh.write_text(SSH.format(board=folder, environment=environment))
    ssh.chmod(0o755)
    board.program("uname", "#!/bin/sh\necho aarch64\n")
    board.program("sleep", "#!/bin/sh\n")
    if real_python:
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        board.program("python3", f"#!/bin/sh\nexec '{base}' \"$@\"\n")
    else:
        board.program("python3", PYTHON.format(board=folder))
        board.say("venv-python", VENV_PYTHON.format(board=folder))
        (folder / "venv-python").chmod(0o755)
    for name in ("systemctl", "loginctl"):
        board.program(name, f"#!/bin/sh\necho {name} \"$@\" >> '{folder}/services'\necho active\n")
    board.forget()
    return board
