"""The commands `pi serve` and `pi deploy`: a bundle behind HTTP, and a bundle on its way to the board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import FOLDER, json_option
from picoformer.cli_output import notice, show
from picoformer.errors import ConfigError

SECONDS = click.FloatRange(min=0.1, max=3600)
PORT = click.IntRange(0, 65535)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--port", type=PORT, default=8080, show_default=True, help="0 takes a free one and says which.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--allow-host", "allowed", multiple=True, metavar="NAME", help="Another name for this machine; repeatable."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Cores for one answer; all of them where none is given.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers computed at a time.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=8, show_default=True, help="Requests that may wait.")
@click.option("--connections", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Open at a time.")
@click.option("--timeout", type=SECONDS, default=60.0, show_default=True, help="Seconds for an answer.")
@click.option("--grace", type=SECONDS, default=10.0, show_default=True, help="Seconds to finish in when it is stopped.")
@click.option("--max-body", type=click.IntRange(1024, 1 << 28), help="Bytes of a request; what the inputs take.")
@click.option("--max-tokens", type=click.IntRange(1, 1 << 16), default=512, show_default=True,
              help="Tokens of one answer of a language model.")  # fmt: skip
def serve(
    bundle: Path,
    port: int,
    host: str,
    allowed: tuple[str, ...],
    threads: int | None,
    workers: int,
    queue: int,
    connections: int,
    timeout: float,
    grace: float,
    max_body: int | None,
    max_tokens: int,
) -> None:
    """Answer requests over HTTP, JSON in and out.

    POST /v1/run, /v1/classify, /v1/embed or /v1/generate, as the BUNDLE's task is; GET /health and /openapi.json. Ends
    at SIGTERM or Ctrl-C, after what is being computed. One line of log per request on standard error.
    """
    from picoformer.serving.command import serve_bundle
    from picoformer.serving.server import Limits

    limits = Limits(
        connections=connections, workers=workers, waiting=queue, request_seconds=timeout, grace_seconds=grace
    )
    serve_bundle(bundle, host, port, threads, limits, max_body, max_tokens, allowed, _say, notice)


def _say(line: str) -> None:
    click.echo(line)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("host", metavar="USER@HOST")
@click.option(
    "--dir", "folder", default="picoformer", show_default=True, help="Where to: absolute, or from the home there."
)
@click.option("--systemd", is_flag=True, help="Serve it from a service of the user's own systemd.")
@click.option("--port", type=click.IntRange(1024, 65535), help="The service's port; 8080.")
@click.option("--listen", help="The service's address; 127.0.0.1.")
@click.option("--dry-run", is_flag=True, help="Print the commands and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def deploy(
    bundle: Path,
    host: str,
    folder: str,
    systemd: bool,
    port: int | None,
    listen: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring a bundle to a Raspberry Pi, check and measure it there.

    By your own ssh and rsync. A virtual environment with picoformer and what it needs is made there once; a new bundle
    takes the place of the last one in one step, which stays beside it. Prints all commands first and asks. What is
    there already is not copied again.
    """
    if not systemd and (port is not None or listen is not None):
        raise ConfigError("--port and --listen are the service's; give --systemd too")
    from picoformer.deployment import as_text, deploy, prepare, way_back

    plan = prepare(bundle, host, folder, (port or 8080, listen or "127.0.0.1") if systemd else None, as_json)
    if dry_run:
        commands = [{"what": step.what, "command": list(step.command)} for step in plan.steps]
        show({"commands": commands}, as_json, lambda: _print(plan.steps))
        return
    if not yes:
        if as_json:
            raise ConfigError("--json asks nothing; give --yes, or --dry-run to see the commands")
        _print(plan.steps)
        click.confirm(f"Run these on {host}?", abort=True)
    done = deploy(plan.steps, host, plan.bytes, notice if as_json else _say, not as_json)
    back = way_back(plan.place)
    record: dict[str, Any] = {
        "host": host, "dir": plan.place.folder, "version": plan.place.version, "ran": list(done.ran),
        "there_already": list(done.there_already), "check": done.check, "bench": done.bench, "back": list(back),
    }  # fmt: skip
    show(record, as_json, lambda: click.echo(f"\nthe version before, if there is one:\n  {as_text(back)}"))


def _print(steps: Any) -> None:
    from picoformer.deployment import as_text

    for step in steps:
        click.echo(f"# {step.what}\n{as_text(step.command)}\n")


COMMANDS = (serve, deploy)
