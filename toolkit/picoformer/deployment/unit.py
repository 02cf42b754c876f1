"""The systemd unit of a served bundle, in the user's own systemd: no root, and little that it may do."""

from __future__ import annotations

import ipaddress

from picoformer.deployment.place import Place
from picoformer.errors import ConfigError

_UNIT = """\
# Written by `picoformer pi deploy --systemd`.
[Unit]
Description=picoformer: a model behind HTTP on port {port}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
ExecStart={python} -m picoformer pi serve {bundle} --host {host} --port {port}
Environment=PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
Restart=on-failure
RestartSec=5
TimeoutStopSec=30
UMask=0077
# All of these hold without root; those that need a namespace come with PrivateUsers.
PrivateUsers=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectKernelTunables=yes
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
TasksMax=64

[Install]
WantedBy=default.target
"""


def unit_text(place: Place, port: int, host: str) -> str:
    """The unit that serves what `current` leads to when it starts.

    Raises ConfigError for a host that is no address, and for a folder whose name systemd takes for no program's.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"--listen {host[:80]!r}: give an IP address, such as 127.0.0.1 or 0.0.0.0") from None
    if set("\"'$") & set(place.folder):
        raise ConfigError(
            f"--dir {place.folder!r}: systemd starts no program with quotation marks or $ in its path; choose another "
            "folder for a service"
        )
    name = place.folder.replace("%", "%%")  # the one character that systemd.unit(5) reads as its own in what is left
    folder = name if name.startswith("/") else f"%h/{name}"
    python, bundle = (f'"{folder}/current/{path}"' for path in ("venv/bin/python", "bundle"))
    return _UNIT.format(python=python, bundle=bundle, port=port, host=host)
