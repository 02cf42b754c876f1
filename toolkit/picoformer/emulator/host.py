"""The host target: the firmware is a native process whose standard streams are the wire."""

from __future__ import annotations

from pathlib import Path

from picoformer.emulator.interface import Instructions
from picoformer.emulator.process import Child
from picoformer.errors import ToolError
from picoformer.link.transport import DescriptorTransport, Transport
from picoformer.targets import Target


class HostProcess:
    """See interface.Running; a native process is not counted."""

    name = "a native process"
    uncounted = "instructions of a native process are not counted; use an emulated target"

    def __init__(self, elf: Path) -> None:
        try:
            self._child = Child(elf.name, [str(elf.resolve())], piped=True)
        except OSError as error:
            raise ToolError(f"{elf} cannot be run ({error.strerror}); build it again") from error
        output, source = self._child.popen.stdout, self._child.popen.stdin
        assert output is not None and source is not None
        self.transport: Transport = DescriptorTransport(output.fileno(), source.fileno(), self._child.close)

    def instructions(self, steps: int) -> Instructions | None:
        """None: not counted."""
        return None

    def last_call(self) -> int | None:
        """None: not counted."""
        return None

    def post_mortem(self) -> str:
        """See interface.Running."""
        return self._child.post_mortem()

    def close(self) -> None:
        """See interface.Running."""
        self._child.close()


class HostEmulator:
    """Runs firmware of the host target."""

    def start(self, elf: Path, target: Target) -> HostProcess:
        """Start the process."""
        return HostProcess(elf)
