"""A serial port as bootloaders want it: even parity, modem lines that may be missing, the 1200-baud touch."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from picoformer.errors import ConfigError, DeviceError
from picoformer.link.port_errors import cannot_open, reason_of

_MODEM = ("rts", "dtr")
TOUCH_BAUD = 1200


class SerialLine:
    """An open port; every read and write ends. Raises DeviceError when the port is gone or never was."""

    def __init__(self, url: str, baud: int, even_parity: bool = False) -> None:
        import serial

        self.url = url
        self._gone = (serial.SerialException, OSError)
        self.parity_refused = False
        try:
            self._port: Any = serial.serial_for_url(url, baudrate=baud, timeout=0, write_timeout=5, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise cannot_open(url, error) from None
        if even_parity:
            try:
                self._port.parity = serial.PARITY_EVEN
            except Exception as error:  # termios.error, which is no OSError, from pseudo-terminals and some adapters
                if type(error).__name__ != "error" and not isinstance(error, self._gone):
                    self._port.close()
                    raise
                self.parity_refused = True
                with contextlib.suppress(*self._gone):
                    self._port.parity = serial.PARITY_NONE

    def read(self, count: int, seconds: float) -> bytes:
        """Up to `count` bytes: fewer when `seconds` are over."""
        with self._alive():
            self._port.timeout = max(seconds, 0)
            return bytes(self._port.read(count))

    def write(self, data: bytes) -> None:
        """All of `data`."""
        with self._alive():
            self._port.write(data)

    def drop_input(self, quiet: float) -> None:
        """Forget what came, until nothing comes for `quiet` seconds; at most 64 KiB of it."""
        for _ in range(256):
            if not self.read(256, quiet):
                return

    def set_modem_lines(self, levels: Mapping[str, bool]) -> bool:
        """Set RTS or DTR; False where the port has no such lines (sockets, pseudo-terminals)."""
        try:
            for name, level in levels.items():
                setattr(self._port, name, level)
        except self._gone:
            return False
        return True

    def close(self) -> None:
        """Let go of the port; may be called twice."""
        with contextlib.suppress(*self._gone):
            self._port.close()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except self._gone as error:
            raise DeviceError(f"{self.url} is gone ({reason_of(error)}); plug the board in again") from None


def touch(url: str) -> None:
    """Open and close a port at 1200 baud: firmware of Arduino and of the Pico's SDK then starts its bootloader."""
    line = SerialLine(url, TOUCH_BAUD)
    line.set_modem_lines({"dtr": False})
    time.sleep(0.1)
    line.close()


def parse_wiring(text: str) -> dict[str, tuple[str, bool]]:
    """`boot0=!rts,reset=dtr` as {pin: (line, inverted)}, empty where nothing is wired; ConfigError for the rest."""
    wiring: dict[str, tuple[str, bool]] = {}
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"\s*(boot0|reset)\s*=\s*(!?)(rts|dtr)\s*", part)
        if found is None or found[1] in wiring or any(line == found[3] for line, _ in wiring.values()):
            raise ConfigError(
                f"--wiring {text}: write boot0=LINE,reset=LINE with rts or dtr, each once, ! before an inverted one"
            )
        wiring[found[1]] = (found[3], bool(found[2]))
    return wiring
