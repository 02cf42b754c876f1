"""Whom a request may call by name: a page in a browser must not reach a model through a name that leads here.

A name of somebody else's that suddenly points at this machine (DNS rebinding) stands in the Host field, whatever it
points at; a page of another origin says so in Origin. Programs send neither."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection

from picoformer.serving.http import Head, HttpError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._-]{1,253})(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(more: Collection[str], loopback: bool) -> frozenset[str]:
    """The names that a request may call this machine by, in lower case."""
    names = {"localhost", *(name.lower() for name in more)}
    if not loopback:
        own = socket.gethostname().lower()
        names |= {own, f"{own}.local"}
    return frozenset(names)


def check_origin(head: Head, names: frozenset[str], loopback: bool) -> None:
    """Raise HttpError for a request that a page of somebody else's may have sent."""
    host = head.fields["host"]
    match = _HOST.fullmatch(host)
    if match is None:
        raise HttpError(400, "bad_host", "the header field Host is not a name or an address", True)
    name = match[1].strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
        known = address.is_loopback or not loopback
    except ValueError:
        known = name.removesuffix(".") in names
    if not known:
        raise HttpError(421, "unknown_host", "Host names another machine than this one; --allow-host adds a name", True)
    origin = head.fields.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise HttpError(403, "cross_origin", "requests of pages from elsewhere are not answered", True)
    if head.fields.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HttpError(403, "cross_origin", "requests of pages from elsewhere are not answered", True)
