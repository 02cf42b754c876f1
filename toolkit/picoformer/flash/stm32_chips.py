"""What the ROM's product id says of an STM32, and how its flash is erased and written: a table with its sources.

Product ids: AN2606 (STM32 system memory boot mode), the chapters' "PID" and the table of device-dependent parameters.
Sectors or pages and the unit of writing: the reference manual named, chapter "embedded flash memory".
"""

from __future__ import annotations

from dataclasses import dataclass

FLASH = 0x08000000


@dataclass(frozen=True)
class Chip:
    """`layout`: (how many, bytes of each) from the start of flash on; `unit`: bytes that are written at once."""

    name: str
    layout: tuple[tuple[int, int], ...]
    unit: int

    def sectors(self) -> list[tuple[int, int]]:
        """(address, bytes) of every sector, by the number that the ROM erases it by."""
        found, address = [], FLASH
        for count, size in self.layout:
            for _ in range(count):
                found.append((address, size))
                address += size
        return found


_K = 1 << 10
_F4_512K = ((4, 16 * _K), (1, 64 * _K), (3, 128 * _K))
_F4_1M = ((4, 16 * _K), (1, 64 * _K), (7, 128 * _K))
_F4_2M = (*_F4_1M, *_F4_1M)

CHIPS = {
    0x410: Chip("STM32F10x, medium density", ((128, _K),), 4),  # PM0075
    0x411: Chip("STM32F2xx", _F4_1M, 4),  # RM0033
    0x413: Chip("STM32F405, F407, F415, F417", _F4_1M, 4),  # RM0090
    0x419: Chip("STM32F42x, F43x", _F4_2M, 4),  # RM0090
    0x423: Chip("STM32F401xB, xC", ((4, 16 * _K), (1, 64 * _K), (1, 128 * _K)), 4),  # RM0368
    0x433: Chip("STM32F401xD, xE", _F4_512K, 4),  # RM0368
    0x431: Chip("STM32F411", _F4_512K, 4),  # RM0383
    0x441: Chip("STM32F412", _F4_1M, 4),  # RM0402
    0x421: Chip("STM32F446", _F4_512K, 4),  # RM0390
    0x463: Chip("STM32F413, F423", ((4, 16 * _K), (1, 64 * _K), (11, 128 * _K)), 4),  # RM0430
    0x449: Chip("STM32F74x, F75x", ((4, 32 * _K), (1, 128 * _K), (3, 256 * _K)), 4),  # RM0385
    0x450: Chip("STM32H74x, H75x", ((16, 128 * _K),), 32),  # RM0433
    0x440: Chip("STM32F030x8, F05x", ((64, _K),), 4),  # RM0091
    0x422: Chip("STM32F30x", ((128, 2 * _K),), 4),  # RM0316
    0x438: Chip("STM32F303x6, x8, F334", ((32, 2 * _K),), 4),  # RM0364
    0x415: Chip("STM32L47x, L48x", ((512, 2 * _K),), 8),  # RM0351
    0x435: Chip("STM32L43x, L44x", ((128, 2 * _K),), 8),  # RM0394
    0x460: Chip("STM32G07x, G08x", ((64, 2 * _K),), 8),  # RM0444
    0x468: Chip("STM32G431, G441", ((64, 2 * _K),), 8),  # RM0440
}
"""Product id → chip."""


def chip_name(product: int) -> str:
    """A product id as a person knows it."""
    chip = CHIPS.get(product)
    return f"{chip.name} (id {product:#05x})" if chip else f"an STM32 with the id {product:#05x}"
