"""Where on a Raspberry Pi things go, and the names of what goes there: all by content."""

from __future__ import annotations

import re
from dataclasses import dataclass

from picoformer.deployment.pins import requirements
from picoformer.errors import ConfigError
from picoformer.files import content_hash

DEFAULT_FOLDER = "picoformer"
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_LONGEST = 200


@dataclass(frozen=True)
class Place:
    """A folder on a machine that ssh reaches.

    In it `current` and `previous` are links to versions; a version is a link to a bundle and one to an environment.
    """

    host: str
    """As ssh takes it: user@host, or a name of the user's ssh configuration."""
    folder: str
    """Absolute, or from the user's home."""
    bundle: str
    """16 hexadecimal digits of the bundle's content."""
    environment: str
    """The same of the libraries and of picoformer."""

    @property
    def version(self) -> str:
        """The same of both."""
        return content_hash(f"{self.bundle} {self.environment}".encode())[:16]

    @property
    def service(self) -> str:
        """The name of the systemd unit."""
        last = re.sub(r"[^A-Za-z0-9]+", "-", self.folder.rsplit("/", 1)[-1]).strip("-")[:64]
        return "picoformer.service" if last in ("", DEFAULT_FOLDER) else f"picoformer-{last}.service"


def find_place(host: str, folder: str, description: bytes, wheel: bytes) -> Place:
    """The place of a bundle, by its bundle.json (which has the hash of every file) and picoformer's wheel.

    Raises ConfigError for a host or a folder that ssh, rsync or a shell might take for something else.
    """
    if not _HOST.fullmatch(host):
        raise ConfigError(
            f"{host[:80]!r} is no USER@HOST (letters, digits, '.', '_' and '-', none of these in front); other "
            "addresses get a name in ~/.ssh/config"
        )
    folder = folder.rstrip("/") if folder.strip("/") else folder
    parts = folder.split("/")
    if (
        not folder.strip("/") or len(folder) > _LONGEST or folder[0] in "-~" or ".." in parts or "." in parts
        or not folder.isprintable() or not folder.isascii() or "\\" in folder
    ):  # fmt: skip
        raise ConfigError(
            f"--dir {folder[:80]!r}: give a folder of at most {_LONGEST} plain characters, from / or from the home "
            "there (without ~), without . and .. in it and with no - in front"
        )
    environment = content_hash("\n".join([*requirements(), content_hash(wheel)]).encode())[:16]
    return Place(host, folder, content_hash(description)[:16], environment)
