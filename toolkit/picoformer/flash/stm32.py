"""STM32 chips by the bootloader in their ROM, over a UART (AN3155): erase what is needed, write, read back, start."""

from __future__ import annotations

import time
from collections.abc import Iterator

from picoformer.errors import ConfigError, DeviceError
from picoformer.flash.image import refuse_unfit, vectors
from picoformer.flash.interface import Flasher, Image, Job, Outcome, Phase, Segment
from picoformer.flash.serial_line import SerialLine, parse_wiring
from picoformer.flash.stm32_chips import CHIPS, Chip, chip_name
from picoformer.flash.stm32_rom import MOST, Refused, Silent, Stm32Bootloader, Waits

BAUD = 115200
_AT_ONCE = 8
"""Pages that one command erases, so that the wait for it stays short."""


class Stm32Rom(Flasher):
    """Speaks to the ROM; `waits` are for tests."""

    kind = "stm32"
    hears = frozenset({"baud", "wiring"})

    def __init__(self, waits: Waits | None = None) -> None:
        self._waits = waits or Waits()

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        chip = self._chip(job)
        image = padded(job.image, chip.unit)
        sectors = needed(image, chip, job)
        erased = sum(size for _, _, size in sectors)
        start = vectors(job.image, job.target)
        return (
            f"open {job.port or 'a serial port'} at {job.baud or BAUD} baud, 8 bits, even parity",
            f"ask the ROM whether the chip is {chip_name(self._product(job))}",
            f"erase {len(sectors)} {'sector' if len(sectors) == 1 else 'sectors'} ({erased:,} bytes): "
            f"{_numbers([number for number, _, _ in sectors])}",
            f"write {image.size:,} bytes at {image.start:#010x}, and read them back",
            f"start at {start[1]:#010x}, by the vectors at {image.start:#010x}" if start
            else "not start it: the image leaves the vectors alone",
        )  # fmt: skip

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        self.plan(job)
        chip = self._chip(job)
        image = padded(job.image, chip.unit)
        wiring = parse_wiring(job.wiring)
        line = SerialLine(job.port, job.baud or BAUD, even_parity=True)
        try:
            job.progress(Phase.CONNECT, 0, 1)
            _reset(line, wiring, into_bootloader=True)
            rom = Stm32Bootloader(line, self._waits)
            self._meet(rom, line, job)
            job.progress(Phase.CONNECT, 1, 1)
            erased = _erase(rom, needed(image, chip, job), job)
            _write(rom, image, job)
            _verify(rom, image, job)
            started = _start(rom, job)
            if not started and "reset" in wiring:
                started = _reset(line, wiring, into_bootloader=False)
        finally:
            line.close()
        found = f"{chip_name(self._product(job))}, bootloader version {rom.version >> 4}.{rom.version & 15}"
        return Outcome(image.size, "read back, every byte", started, erased, found)

    def _meet(self, rom: Stm32Bootloader, line: SerialLine, job: Job) -> None:
        """The ROM answers, is of the right chip, and lets its flash be read; nothing was changed before."""
        if not rom.synchronize():
            parity = f"; {line.url} also refuses even parity, which the ROM speaks" if line.parity_refused else ""
            raise DeviceError(f"no STM32 bootloader answers on {line.url}; {job.enter}{parity}")
        wanted, product = self._product(job), rom.product_id()
        if product != wanted:
            raise DeviceError(
                f"the chip on {line.url} is {chip_name(product)} and {job.target.name} has {chip_name(wanted)}; "
                "nothing was erased: is it another board?"
            )
        try:
            rom.read(job.image.start & ~0xFF, 4)
        except Refused as error:
            if error.stage != "the command":
                raise
            raise DeviceError(
                f"the flash of the chip on {line.url} is read-protected, so its bootloader neither shows nor changes "
                "it; nothing was erased: take the protection away with STM32CubeProgrammer, which erases the chip"
            ) from None

    def _product(self, job: Job) -> int:
        choice = job.target.flasher
        if choice is None or len(choice.chip_ids) != 1:
            raise ConfigError(f"{job.target.name} has no STM32 product id; give [flasher] kind = 'stm32' and chip_ids")
        return choice.chip_ids[0]

    def _chip(self, job: Job) -> Chip:
        product = self._product(job)
        if product not in CHIPS:
            raise ConfigError(
                f"{job.target.name}: the sectors of {chip_name(product)} are not known; add a line to stm32_chips.py"
            )
        refuse_unfit(job.image, job.target)
        return CHIPS[product]


def padded(image: Image, unit: int) -> Image:
    """Every segment from a multiple of `unit` to one, filled up as erased flash is; segments that then meet are one."""
    runs: list[tuple[int, bytearray]] = []
    for segment in image.segments:
        start, end = segment.address // unit * unit, -(-segment.end // unit) * unit
        if runs and start <= runs[-1][0] + len(runs[-1][1]):
            first, data = runs[-1]
        else:
            first, data = start, bytearray()
            runs.append((first, data))
        data.extend(b"\xff" * (end - first - len(data)))
        data[segment.address - first : segment.end - first] = segment.data
    segments = tuple(Segment(address, bytes(data)) for address, data in runs)
    return Image(image.source, segments, image.entry, image.elf, image.family)


def needed(image: Image, chip: Chip, job: Job) -> list[tuple[int, int, int]]:
    """(number, address, bytes) of the sectors that the image touches."""
    found = [
        (number, address, size)
        for number, (address, size) in enumerate(chip.sectors())
        if any(segment.address < address + size and address < segment.end for segment in image.segments)
    ]
    last = max((address + size for _, address, size in found), default=0)
    if last < image.end:
        raise ConfigError(f"{job.target.name}: its flash is larger than that of {chip.name}; correct chip_ids")
    return found


def _erase(rom: Stm32Bootloader, sectors: list[tuple[int, int, int]], job: Job) -> int:
    job.progress(Phase.ERASE, 0, len(sectors))
    for done in range(0, len(sectors), step := _AT_ONCE if len(sectors) > 2 * _AT_ONCE else 1):
        rom.erase([number for number, _, _ in sectors[done : done + step]])
        job.progress(Phase.ERASE, min(done + step, len(sectors)), len(sectors))
    return sum(size for _, _, size in sectors)


def pieces(image: Image) -> Iterator[tuple[int, bytes]]:
    """(address, at most 256 bytes) in order, none across a multiple of 256."""
    for segment in image.segments:
        at = 0
        while at < len(segment.data):
            address = segment.address + at
            piece = segment.data[at : at + MOST - address % MOST]
            yield address, piece
            at += len(piece)


def _write(rom: Stm32Bootloader, image: Image, job: Job) -> None:
    done = 0
    for address, piece in pieces(image):
        job.progress(Phase.WRITE, done, image.size)
        if piece.strip(b"\xff"):
            rom.write(address, piece)
        done += len(piece)
    job.progress(Phase.WRITE, done, image.size)


def _verify(rom: Stm32Bootloader, image: Image, job: Job) -> None:
    done = 0
    for address, piece in pieces(image):
        job.progress(Phase.VERIFY, done, image.size)
        found = rom.read(address, len(piece))
        if found != piece:
            at = next(index for index in range(len(piece)) if found[index] != piece[index])
            raise DeviceError(
                f"the board holds {found[at]:#04x} at {address + at:#010x} where {piece[at]:#04x} was written; "
                "flash it again, and if that does not help its flash is worn out or write-protected"
            )
        done += len(piece)
    job.progress(Phase.VERIFY, done, image.size)


def _start(rom: Stm32Bootloader, job: Job) -> bool:
    if vectors(job.image, job.target) is None:
        return False
    job.progress(Phase.START, 0, 1)
    try:
        rom.go(job.target.region("code").origin)
    except (Silent, Refused):
        return False
    job.progress(Phase.START, 1, 1)
    return True


def _reset(line: SerialLine, wiring: dict[str, tuple[str, bool]], into_bootloader: bool) -> bool:
    """Press what is wired: BOOT0 held while reset is let go; False where nothing is."""
    if not wiring:
        return False

    def level(pin: str, active: bool) -> dict[str, bool]:
        name, inverted = wiring.get(pin, ("", False))
        return {name: active != inverted} if name else {}

    if not line.set_modem_lines({**level("boot0", into_bootloader), **level("reset", True)}):
        raise DeviceError(f"{line.url} has no RTS and DTR; leave --wiring away and press the buttons")
    time.sleep(0.1)
    line.set_modem_lines(level("reset", False))
    time.sleep(0.2)
    return True


def _numbers(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
