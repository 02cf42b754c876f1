"""A child process that is always ended and reaped, and what can be said of it afterwards."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO


class Child:
    """A process with its standard error kept for `post_mortem`. `piped` connects its standard streams to
    us."""

    def __init__(self, name: str, command: Sequence[str], *, piped: bool) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self.popen = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else self._errors,
                stderr=self._errors,
                bufsize=0,
            )
        except BaseException:
            self._errors.close()
            raise

    def post_mortem(self) -> str:
        """How the process ended and the last line it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(2)
        code = self.popen.poll()
        if code is None:
            how = f"{self.name} closed the line but still runs"
        elif code < 0:
            how = f"{self.name} was ended by {signal.Signals(-code).name}"
        else:
            how = f"{self.name} ended with exit code {code}"
        last = ""
        if not self._errors.closed:
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            last = f"; its last words: {lines[-1].strip()}" if lines else "; it said nothing"
        return how + last

    def close(self) -> None:
        """End and reap the process."""
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._errors.close()
