"""`picoformer pi serve`: a bundle loaded, a socket bound, and the process's own end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from picoformer.errors import ToolError
from picoformer.raspberry_pi import open_bundle, open_runner
from picoformer.serving.hosts import is_loopback
from picoformer.serving.model_app import ModelApp, default_body_bytes
from picoformer.serving.server import Limits, Server

OPEN = (
    "whoever reaches {host} may use this model: there is no password and no encryption; without --host it answers this "
    "machine only (`ssh -L {port}:localhost:{port}` leads to it from elsewhere)"
)


def serve_bundle(
    folder: Path,
    host: str,
    port: int,
    threads: int | None,
    limits: Limits,
    max_body: int | None,
    max_tokens: int,
    allowed: Collection[str],
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT. `say` gets the address, `warn` what to know of it.

    Raises ModelError for a bundle that cannot be loaded, ToolError for an address that cannot be had.
    """
    runner = open_runner(open_bundle(folder), threads)
    app = ModelApp(runner, max_body or default_body_bytes(runner), max_tokens)
    server = Server(app, limits, host, frozenset(allowed))

    def ready(address: str, at: int) -> None:
        if not is_loopback(address):
            warn(OPEN.format(host=address, port=at))
        shown = f"[{address}]" if ":" in address else address
        paths = " ".join(path for path in app.routes)
        say(f"serving {runner.bundle.name} on http://{shown}:{at}  {paths}")

    async def until_a_signal() -> bool:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await server.run(port, ready, stop)

    try:
        is_clean = asyncio.run(until_a_signal())
    except OSError as error:
        raise ToolError(
            f"{host} port {port}: cannot be served from ({error.strerror or error}); give another --port or --host"
        ) from None
    if not is_clean:
        # A thread computes what nobody waits for any more; the interpreter's own end would wait for it, or tear the
        # library's memory from under it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
