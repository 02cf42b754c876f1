"""Byte pipes to a device: pipes, sockets, serial ports. Every wait ends."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Any, Protocol

from picoformer.errors import DeviceError
from picoformer.link.port_errors import cannot_open

DEFAULT_BAUD = 115200


class TransportClosed(DeviceError):
    """The other end is gone."""


class Transport(Protocol):
    """A byte pipe in both directions."""

    def read(self, timeout: float) -> bytes:
        """At least one byte, or none after `timeout` seconds. Raises TransportClosed when the other end is
        gone."""

    def write(self, data: bytes, timeout: float) -> None:
        """All of `data`; DeviceError when the other end does not take it within `timeout` seconds."""

    def close(self) -> None:
        """Let go of the pipe; may be called twice."""


class DescriptorTransport:
    """A pipe pair or a socket, by file descriptors; `closer` releases whatever owns them."""

    def __init__(self, read_descriptor: int, write_descriptor: int, closer: Callable[[], None]) -> None:
        self._read = read_descriptor
        self._write = write_descriptor
        self._closer = closer
        os.set_blocking(read_descriptor, False)
        os.set_blocking(write_descriptor, False)

    def read(self, timeout: float) -> bytes:
        """See Transport."""
        ready, _, _ = select.select([self._read], [], [], max(timeout, 0))
        if not ready:
            return b""
        try:
            data = os.read(self._read, 65536)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise TransportClosed("the device closed the line") from error
        if not data:
            raise TransportClosed("the device closed the line")
        return data

    def write(self, data: bytes, timeout: float) -> None:
        """See Transport."""
        left = memoryview(data)
        end = time.monotonic() + timeout
        while left:
            _, ready, _ = select.select([], [self._write], [], max(end - time.monotonic(), 0))
            if not ready:
                raise DeviceError(f"the device took no bytes for {timeout:g} s; it hangs")
            try:
                left = left[os.write(self._write, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise TransportClosed("the device closed the line") from error

    def close(self) -> None:
        """See Transport."""
        with contextlib.suppress(OSError):
            self._closer()


class SerialTransport:
    """A serial port, or any URL that pyserial knows (/dev/ttyACM0, socket://host:port, loop://)."""

    def __init__(self, url: str, baud: int = DEFAULT_BAUD) -> None:
        import serial

        try:
            self._port: Any = serial.serial_for_url(url, baudrate=baud, timeout=0, write_timeout=10, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise cannot_open(url, error) from error
        self._url = url
        self._closed = (serial.SerialException, OSError)

    def read(self, timeout: float) -> bytes:
        """See Transport."""
        try:
            self._port.timeout = max(timeout, 0)
            first: bytes = self._port.read(1)
            if not first:
                return b""
            self._port.timeout = 0
            return first + bytes(self._port.read(4096))
        except self._closed as error:
            raise TransportClosed(f"{self._url} is gone ({error})") from error

    def write(self, data: bytes, timeout: float) -> None:
        """See Transport."""
        import serial

        try:
            self._port.write_timeout = timeout
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise DeviceError(f"{self._url} took no bytes for {timeout:g} s; the device hangs") from error
        except self._closed as error:
            raise TransportClosed(f"{self._url} is gone ({error})") from error

    def close(self) -> None:
        """See Transport."""
        self._port.close()


def reopen_serial(url: str, baud: int, seconds: float) -> SerialTransport:
    """A port that went away, once it is back; DeviceError when it is not within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return SerialTransport(url, baud)
        except DeviceError as error:
            if time.monotonic() >= end:
                raise DeviceError(f"{url} went away and did not come back within {seconds:g} s ({error})") from error
            time.sleep(min(0.2, seconds))
