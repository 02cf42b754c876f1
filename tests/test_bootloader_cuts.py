"""Transfers to the bootloader that are cut short anywhere, or go over a bad line: the board always comes back."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from bootloader_board import BootloaderBoard, SmallFirmware, small_firmware
from faulty_transport import EVERYTHING, FaultyTransport
from picoformer.errors import DeviceError
from picoformer.flash.resident import transfer
from picoformer.link.boot import Bootloader, SlotState
from picoformer.link.device import Device
from picoformer.link.transport import Transport
from picoformer.slot_image import HEADER_BYTES, parse_header
from picoformer.targets import Target

POINTS = 50
SEED = 20
SEEDS = 8
EDGE = 320
"""Bytes at the beginning of a transfer until the header is erased, roughly."""
CONNECT_SECONDS = 10.0
PAST_THE_WINDOW = 0.45


class Cut(Exception):
    """The transfer ended here."""


class CutLine:
    """A line that takes `limit` bytes from the host; `wait` seconds later `happens`, and it is over."""

    def __init__(self, transport: Transport, limit: int, happens: Callable[[], None], wait: float = 0) -> None:
        self._transport, self._left, self.happens, self._wait = transport, limit, happens, wait
        self.written = 0

    def read(self, timeout: float) -> bytes:
        if self._left == 0:
            self._cut()
        return self._transport.read(timeout)

    def write(self, data: bytes, timeout: float) -> None:
        part = data[: self._left]
        self._transport.write(part, timeout)
        self.written += len(part)
        self._left -= len(part)
        if len(part) < len(data):
            self._cut()

    def _cut(self) -> NoReturn:
        time.sleep(self._wait)
        self.happens()
        raise Cut

    def close(self) -> None:
        self._transport.close()


@pytest.fixture(scope="module")
def pair(arm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> list[SmallFirmware]:
    """Two images for a micro:bit that share hardly a page."""
    found = [small_firmware("microbit", tmp_path_factory.mktemp("cuts") / str(number), number) for number in (0, 1)]
    assert found[0].parts[1][:1024] != found[1].parts[1][:1024]
    return found


def bootloader_of(firmware: SmallFirmware) -> Path:
    return firmware.elf.with_name("bootloader.elf")


def send(transport: Transport, firmware: SmallFirmware) -> None:
    """All pages of the image, from the bootloader's first word to the last; Cut may come in between."""
    loader = Bootloader(transport)
    info = loader.connect(CONNECT_SECONDS)
    transfer(loader, info, *firmware.parts, send_all=True)


def valid_image(slot: bytes, target: Target) -> bytes | None:
    """The model's identity where the slot holds a whole image, by hashlib alone; None where it does not."""
    assert target.bootloader is not None
    page = target.bootloader.page_bytes
    header = parse_header(slot)
    if header is None:
        return None
    image = slot[page : page + header.length]
    digest = hashlib.sha256(slot[: HEADER_BYTES - 32] + image).digest()
    return header.identity if digest == slot[HEADER_BYTES - 32 : HEADER_BYTES] else None


def runs(board: BootloaderBoard) -> bytes | None:
    """The identity of the firmware that runs once the bootloader has listened; None where that is still there."""
    time.sleep(PAST_THE_WINDOW)
    try:
        return Device(board.open(), repeat_seconds=0.2).hello().identity
    except DeviceError as error:
        assert "is in its bootloader" in str(error)
        return None


def check(board: BootloaderBoard, new: SmallFirmware, *, was_reset: bool, harmed: bool = False) -> bool:
    """What is there now runs if and only if it is whole, and gives way to `new`; True where it was whole.

    `harmed`: more was done to the slot than a cut does, so that it may hold a header of what is not there.
    """
    found = valid_image(board.slot(), board.target)
    if was_reset:
        assert runs(board) == found
    line = board.open()
    loader = Bootloader(line)
    info = loader.connect(CONNECT_SECONDS)
    assert (info.state == SlotState.VALID) == (found is not None)
    assert info.state in (SlotState.VALID, SlotState.NONE) or harmed, "a header came before its image was whole"
    transfer(loader, info, *new.parts)
    assert board.slot()[: len(new.laid_out)] == new.laid_out
    loader.start()
    assert Device(line).hello().identity == new.identity
    return found is not None


def place(rng: random.Random, total: int) -> int:
    """After how many of the transfer's bytes: anywhere, or at its edges, where the header is erased and written."""
    begin, end = range(EDGE), range(total - EDGE // 8, total + 1)
    return rng.choice([rng.randrange(total), rng.randrange(total), rng.choice(begin), rng.choice(end)])


@pytest.fixture
def board(pair: list[SmallFirmware]) -> Iterator[BootloaderBoard]:
    """The first image runs."""
    with BootloaderBoard(pair[0].target, bootloader_of(pair[0])) as board:
        line = board.open()
        board.go()
        send(line, pair[0])
        Bootloader(line).start()
        yield board


def test_a_transfer_may_end_anywhere(pair: list[SmallFirmware], board: BootloaderBoard) -> None:
    rng = random.Random(SEED)
    counted = CutLine(board.open(), 1 << 30, lambda: None)
    send(counted, pair[1])
    total, whole = counted.written, 0
    for point in range(POINTS):
        new, how = pair[point % 2], point % 5
        line = board.open()
        cut = CutLine(line, place(rng, total), line.close if how < 2 else board.stop, rng.random() * 0.003)
        try:
            send(cut, new)
        except Cut:
            pass
        else:  # fewer bytes than the first time: it is cut right behind its end
            cut.happens()
        if how < 2:  # the host is gone, the board goes on
            whole += check(board, new, was_reset=False)
            continue
        slot = bytearray(board.slot())
        board.reset()
        board.go()
        if how < 4:  # the plug, with RAM that happens to keep its contents
            whole += check(board, new, was_reset=True)
            continue
        page = 1024 * (1 + rng.randrange(len(new.laid_out) // 1024))  # the plug, a page half erased; RAM forgets
        slot[page : page + 512] = b"\xff" * 512
        with BootloaderBoard(board.target, bootloader_of(new), bytes(slot)) as fresh:
            fresh.go()
            whole += check(fresh, new, was_reset=True, harmed=True)
        check(board, new, was_reset=False)
    assert 0 < whole < POINTS, "the points are not all over the transfer"


def test_a_bad_line_ends_right_or_says_what_happened(pair: list[SmallFirmware], board: BootloaderBoard) -> None:
    """Frames lost, damaged, doubled, late and swapped, noise, and a board that resets: the slot is never wrong."""

    def restart() -> Transport:
        board.reset()
        return board.open()

    right = 0
    for seed in range(SEEDS):
        new = pair[seed % 2]
        line = FaultyTransport(board.open(), EVERYTHING.scaled(1 + seed % 3), seed, restart)
        loader = Bootloader(line, repeat_seconds=0.2)
        try:
            transfer(loader, loader.connect(CONNECT_SECONDS), *new.parts, send_all=True)
        except DeviceError as error:
            assert re.search("broke off|timeout|refused|restarted|does not answer", str(error)), error
        else:
            right += 1
            assert valid_image(board.slot(), board.target) == new.identity
        assert sum(line.happened.values()) > 0
        check(board, new, was_reset=False, harmed=True)
    assert right > SEEDS // 2
