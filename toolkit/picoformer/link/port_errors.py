"""What a person is told of a serial port that cannot be opened: the port, why, and what helps."""

from __future__ import annotations

import re

from picoformer.errors import DeviceError

_URL = re.compile(r"[a-z0-9+]+://", re.IGNORECASE)
_SOCKET = re.compile(r"(socket|rfc2217)://[^/:]+:(\d{1,5})\b.*", re.IGNORECASE)


def cannot_open(url: str, error: BaseException) -> DeviceError:
    """The error of `url`, a device or a URL of pyserial, that pyserial failed to open with `error`."""
    name = url or "--port ''"
    shape = _SOCKET.fullmatch(url)
    if re.match(r"(socket|rfc2217)://", url, re.IGNORECASE) and (shape is None or not 0 < int(shape[2]) < 1 << 16):
        return DeviceError(f"{name} cannot be opened: it is no address; write {url.partition(':')[0]}://HOST:PORT")
    return DeviceError(f"{name} cannot be opened ({reason_of(error)}); {_mend(url, error)}")


def reason_of(error: BaseException) -> str:
    """Why a port failed, without the wrapping of pyserial, which says some of it twice."""
    text = str(getattr(error, "strerror", "") or error)
    if "Inappropriate ioctl" in text or "Is a directory" in text:
        return "it is no serial port"
    if "exclusively lock" in text:
        return "another program has it open"
    return re.sub(r": '.*'$", "", re.sub(r"^.*\[Errno -?\d+\] ", "", text)).strip()


def _mend(url: str, error: BaseException) -> str:
    """What helps against an errno; 13: permission, 16: busy."""
    number, text = getattr(error, "errno", None), str(error)
    if number == 13 or "ermission" in text:
        return "your user may not: sudo usermod -a -G dialout $USER, then log in again"
    if number == 16 or "busy" in text or "exclusively lock" in text:
        return "close the program that has it open"
    if _URL.match(url):
        return "check the address, and that something listens there"
    return "`picoformer devices` lists what is connected"
