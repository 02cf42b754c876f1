"""Which board is behind a USB vendor and product id: a table with its sources.

Sources: [a] ArduinoCore-mbed, boards.txt; [r] Raspberry Pi, usb-pid (github.com/raspberrypi/usb-pid) and pico-sdk; [e]
Espressif, ESP-IDF programming guide, USB Serial/JTAG console, and github.com/espressif/usb-pids; [s] ST, UM1724, UM2407
and stsw-link009's driver files; [n] SEGGER, J-Link USB ids (wiki.segger.com) for boards of Nordic; [m] microbit.org,
developer documentation: the interface chip; [u] the USB-serial drivers of Linux (ftdi_sio, cp210x, ch341, pl2303).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What an id stands for. `targets`: those it can be; none for an adapter, behind which may be anything.
    `is_bootloader`: the board waits for an image."""

    name: str
    targets: tuple[str, ...] = ()
    is_bootloader: bool = False


_NUCLEO = ("stm32f411-nucleo", "stm32f446-nucleo", "stm32h743-nucleo")
_PICOS = ("rp2040-pico", "rp2350-pico2")
_ESPRESSIF = ("esp32-c3", "esp32-s3")
_ADAPTER = "a USB serial adapter"
_ANY = -1

IDS = {
    (0x2341, 0x805A): Known("Arduino Nano 33 BLE", ("arduino-nano-33-ble",)),  # [a]
    (0x2341, 0x005A): Known("Arduino Nano 33 BLE, bootloader", ("arduino-nano-33-ble",), True),  # [a]
    (0x0D28, 0x0204): Known("a DAPLink board, as the BBC micro:bit", ("microbit",)),  # [m]
    (0x0483, 0x374B): Known("ST-LINK V2-1 (Nucleo, Discovery)", _NUCLEO),  # [s]
    (0x0483, 0x3752): Known("ST-LINK V2-1 without a drive (Nucleo, Discovery)", _NUCLEO),  # [s]
    (0x0483, 0x374E): Known("ST-LINK V3 (Nucleo, Discovery)", _NUCLEO),  # [s]
    (0x0483, 0x374F): Known("ST-LINK V3 (Nucleo, Discovery)", _NUCLEO),  # [s]
    (0x0483, 0x3753): Known("ST-LINK V3 with two ports (Nucleo, Discovery)", _NUCLEO),  # [s]
    (0x0483, 0x5740): Known("firmware of an STM32 with a USB serial port"),  # [s]
    (0x0483, 0xDF11): Known("an STM32's ROM, USB DFU"),  # [s]
    (0x1366, 0x0105): Known("J-Link (Nordic development kit)", ("nrf52840-dk",)),  # [n]
    (0x1366, 0x1015): Known("J-Link on board (Nordic development kit)", ("nrf52840-dk",)),  # [n]
    (0x1366, 0x1051): Known("J-Link on board (Nordic development kit)", ("nrf52840-dk",)),  # [n]
    (0x1366, 0x1061): Known("J-Link on board (Nordic development kit)", ("nrf52840-dk",)),  # [n]
    (0x1366, _ANY): Known("J-Link"),  # [n]
    (0x2E8A, 0x0003): Known("RP2040 in BOOTSEL", ("rp2040-pico",), True),  # [r]
    (0x2E8A, 0x000F): Known("RP2350 in BOOTSEL", ("rp2350-pico2",), True),  # [r]
    (0x2E8A, 0x0004): Known("Raspberry Pi Debug Probe (picoprobe)"),  # [r]
    (0x2E8A, 0x000C): Known("Raspberry Pi Debug Probe"),  # [r]
    (0x2E8A, 0x0005): Known("MicroPython on a Raspberry Pi Pico", _PICOS),  # [r]
    (0x2E8A, 0x0009): Known("firmware of the Pico SDK on an RP2350", ("rp2350-pico2",)),  # [r]
    (0x2E8A, 0x000A): Known("firmware of the Pico SDK on an RP2040", ("rp2040-pico",)),  # [r]
    (0x2E8A, _ANY): Known("a board with an RP2040 or RP2350", _PICOS),  # [r]
    (0x303A, 0x1001): Known("USB Serial/JTAG of an Espressif chip", _ESPRESSIF),  # [e]
    (0x303A, 0x0002): Known("an ESP32-S2 in its bootloader, by USB", (), True),  # [e]
    (0x303A, 0x1002): Known("ESP32-S3 in its bootloader, by USB", ("esp32-s3",), True),  # [e]
    (0x303A, _ANY): Known("a board with a chip of Espressif's", _ESPRESSIF),  # [e]
    (0x10C4, 0xEA60): Known(f"CP210x, {_ADAPTER}"),  # [u]
    (0x10C4, 0xEA70): Known(f"CP2105, {_ADAPTER} with two ports"),  # [u]
    (0x1A86, 0x7523): Known(f"CH340, {_ADAPTER}"),  # [u]
    (0x1A86, 0x5523): Known(f"CH341, {_ADAPTER}"),  # [u]
    (0x1A86, 0x55D3): Known(f"CH343, {_ADAPTER}"),  # [u]
    (0x1A86, 0x55D4): Known(f"CH9102, {_ADAPTER}"),  # [u]
    (0x0403, _ANY): Known(f"FTDI, {_ADAPTER}"),  # [u]
    (0x067B, _ANY): Known(f"PL2303, {_ADAPTER}"),  # [u]
}
"""(vendor, product) → board; product _ANY for the vendor's others."""


def known(vendor: int | None, product: int | None) -> Known:
    """What the ids say; a nameless entry where they say nothing."""
    if vendor is None or product is None:
        return Known("")
    return IDS.get((vendor, product)) or IDS.get((vendor, _ANY)) or Known("")
