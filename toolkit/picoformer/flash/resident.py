"""The way in that picoformer brings itself: its resident bootloader, over the line that the firmware speaks too."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from picoformer.errors import ConfigError, DeviceError, FitError, ModelError
from picoformer.flash.interface import Flasher, Job, Outcome, Phase, Progress
from picoformer.link.boot import STATE_MEANING, BootInfo, Bootloader, SlotState
from picoformer.link.device import Device
from picoformer.link.exchange import NoAnswerError, RefusedError, RestartedError
from picoformer.link.messages import Status
from picoformer.link.transport import SerialTransport, Transport
from picoformer.slot_image import ERASED, IMAGE, ImageHeader, flat_content, split_image

_CONNECT_SECONDS = 30.0
_PATIENCE_SECONDS = 3.0
"""Then a person is told what may help."""
_ATTEMPTS = 4
"""How often a transfer that broke off is taken up again where it was."""
_REPEAT_SECONDS = 1.0
_BAUD = 115200
_MENDED = (SlotState.NONE, SlotState.BAD_HASH, Status.STALE, Status.UNKNOWN_TYPE)
"""Refusals that come of a line which carries old requests again, or of a restart that went unnoticed."""


@dataclass(frozen=True)
class Sent:
    """What a transfer did: pages of the image sent of those it has, requests said again, and how often it was taken up
    again."""

    sent: int
    pages: int
    resent: int = 0
    resumed: int = 0

    def __str__(self) -> str:
        line = f"pages sent {self.sent} of {self.pages}"
        if self.resent or self.resumed:
            line += f"; the line lost {self.resent} requests, which were sent again"
        return line + (f"; taken up again {self.resumed} times" if self.resumed else "")


class Resident(Flasher):
    """picoformer's own bootloader. Sends the pages that differ, so that a transfer that was cut short goes on where it
    was and a model whose numbers alone changed brings these only; the bootloader checks the whole before it counts."""

    kind: ClassVar[str] = "resident"
    hears = frozenset({"baud", "all"})

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        header, content = _image(job)
        page = job.target.bootloader.page_bytes if job.target.bootloader else 0
        pages = f"{-(-len(content) // page)} pages of {page} bytes" if page else "all of its pages"
        return (
            f"reach the bootloader of {job.target.name} on {job.port or 'the serial port'}, through firmware that runs",
            f"ask for the CRC-32 of {pages}, send those that differ (image version {header.version})",
            "let the bootloader check the image's SHA-256 and write its header",
            "start the firmware, and ask it which model it is",
        )

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        header, content = _image(job)
        if not job.port:
            raise ConfigError("the bootloader is reached over a serial port; say --port")
        transport = SerialTransport(job.port, job.baud or (job.target.uart.baud if job.target.uart else _BAUD))
        try:
            return self.flash_over(transport, header, content, job)
        finally:
            transport.close()

    def flash_over(self, transport: Transport, header: ImageHeader, content: bytes, job: Job) -> Outcome:
        """`flash` over a transport that is open."""
        job.progress(Phase.CONNECT, 0, 1)
        loader = Bootloader(transport, repeat_seconds=_REPEAT_SECONDS)
        try:
            info = loader.connect(_PATIENCE_SECONDS)
        except NoAnswerError:
            job.notice(f"neither bootloader nor firmware answers on {job.port}; press the board's reset button")
            info = loader.connect(_CONNECT_SECONDS)
        refuse_unfit(info, header)
        job.progress(Phase.CONNECT, 1, 1)
        sent = transfer(loader, info, header, content, send_all=job.whole, start=True, progress=job.progress)
        greeted = Device(transport).hello()
        if greeted.identity != header.identity:
            raise DeviceError(
                f"the board started {greeted.name} ({greeted.identity.hex()[:12]}), not the image that was sent "
                f"({header.identity.hex()[:12]}); flash it again with --all"
            )
        job.progress(Phase.START, 1, 1)
        had = STATE_MEANING.get(info.state, "something unknown")
        return Outcome(
            written=sent.sent * info.page_bytes,
            erased=sent.sent * info.page_bytes,
            verified="SHA-256 of the image, by the bootloader",
            started=True,
            found=f"bootloader of {info.target}, slot of {info.slot_bytes:,} bytes at {info.origin:#010x} with {had}",
            notes=(str(sent),),
        )


def refuse_unfit(info: BootInfo, header: ImageHeader) -> None:
    """DeviceError or FitError where an image is not for the board whose bootloader answered."""
    if info.target != header.target:
        raise DeviceError(
            f"the board's bootloader is that of {info.target}, the image is for {header.target}; nothing was written"
        )
    room = info.slot_bytes - info.page_bytes
    if header.length > room:
        raise FitError(f"the image has {header.length:,} bytes, the slot takes {room:,}; nothing was written")
    if header.load != info.origin + info.page_bytes:
        raise DeviceError(
            f"the image was linked for {header.load:#010x}, the board's slot takes it at "
            f"{info.origin + info.page_bytes:#010x}: its bootloader is another one; build again, or renew that"
        )


def transfer(
    loader: Bootloader,
    info: BootInfo,
    header: ImageHeader,
    content: bytes,
    *,
    send_all: bool = False,
    start: bool = False,
    progress: Progress | None = None,
) -> Sent:
    """Bring an image into the slot: the pages that differ, then the header, which the bootloader writes last; start it
    then, where `start` says so.

    A transfer that the line or a restart of the board broke off is taken up again, at most three times. Raises
    DeviceError (or a subclass) where it ends without an image that the bootloader takes for valid.
    """
    pages = _pages(content, info.page_bytes)
    done: set[int] = set()
    tick = progress or (lambda phase, count, total: None)
    for attempt in range(_ATTEMPTS):
        try:
            if attempt:
                info = loader.connect(_CONNECT_SECONDS)
                refuse_unfit(info, header)
            whole = send_all and attempt == 0
            differ = list(range(len(pages))) if whole else _differing(loader, info, pages)
            if differ or whole or info.state != SlotState.VALID or info.header != header.pack():
                loader.begin(header.pack())
                for count, page in enumerate(differ):
                    tick(Phase.WRITE, count * info.page_bytes, len(differ) * info.page_bytes)
                    _write_page(loader, info, page, pages[page])
                    done.add(page)
                tick(Phase.WRITE, len(differ) * info.page_bytes, len(differ) * info.page_bytes)
                tick(Phase.VERIFY, 0, 1)
                loader.finish()
                tick(Phase.VERIFY, 1, 1)
            if start:
                tick(Phase.START, 0, 1)
                loader.start()
            return Sent(len(done), len(pages), loader.resent, attempt)
        except (NoAnswerError, RestartedError) as error:
            if attempt == _ATTEMPTS - 1:
                raise DeviceError(
                    f"the transfer broke off {_ATTEMPTS} times, last: {error}; the board stays in its bootloader: "
                    "flash it again"
                ) from error
        except RefusedError as error:
            if error.status not in _MENDED or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _pages(content: bytes, page_bytes: int) -> list[bytes]:
    """The image in whole pages."""
    return [content[at : at + page_bytes].ljust(page_bytes, ERASED) for at in range(0, len(content), page_bytes)]


def _differing(loader: Bootloader, info: BootInfo, pages: Sequence[bytes]) -> list[int]:
    """Numbers of the image's pages of which the slot holds something else; page 0 of the slot is the header's."""
    crcs = loader.page_crcs(info, 1, len(pages))
    return [number for number, (page, crc) in enumerate(zip(pages, crcs, strict=True)) if zlib.crc32(page) != crc]


def _write_page(loader: Bootloader, info: BootInfo, number: int, page: bytes) -> None:
    start = (1 + number) * info.page_bytes
    for at in range(0, len(page), info.piece_bytes):
        loader.write(start + at, page[at : at + info.piece_bytes])


def _image(job: Job) -> tuple[ImageHeader, bytes]:
    """The image beside the firmware that a job names, checked against it."""
    path = job.image.source if job.image.source.name == IMAGE else job.image.source.with_name(IMAGE)
    try:
        data = path.read_bytes()
    except OSError:
        raise ModelError(
            f"{path} is missing: the firmware was not built for a bootloader; build with --bootloader"
        ) from None
    header, content = split_image(data, str(path))
    if path != job.image.source:
        segments = tuple((segment.address, segment.data) for segment in job.image.segments)
        linked = flat_content(segments, header.load, header.load + header.length)
        if linked.ljust(len(content), ERASED) != content:
            raise ModelError(f"{path} is not the image of {job.image.source.name} beside it; build again")
    if header.target != job.target.name:
        raise ModelError(f"{path} is for {header.target}, not for {job.target.name}; build it for that target")
    return header, content
