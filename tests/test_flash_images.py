"""Forms of firmware files: what goes in comes out, and files that lie are refused in a line."""

from __future__ import annotations

import binascii
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picoformer.errors import ConfigError, FitError, ModelError
from picoformer.flash.boot2 import crc32, with_boot2
from picoformer.flash.elf import read_elf
from picoformer.flash.image import join, read_image, refuse_outside, refuse_unfit
from picoformer.flash.intel_hex import read_hex, write_hex
from picoformer.flash.interface import Image, Segment
from picoformer.flash.uf2 import BLOCK, read_uf2, write_uf2
from picoformer.targets import load_target

RP2040 = 0xE48BFF56
ANY = Path("file")


@st.composite
def memories(draw: st.DrawFn) -> tuple[Segment, ...]:
    """Segments in ascending order that neither touch nor overlap, anywhere in 32 bits."""
    found: list[Segment] = []
    at = draw(st.integers(0, (1 << 32) - 4096))
    for _ in range(draw(st.integers(1, 5))):
        data = draw(st.binary(min_size=1, max_size=700))
        if at + len(data) > 1 << 32:
            break
        found.append(Segment(at, data))
        at = found[-1].end + draw(st.integers(1, 70000))
    return tuple(found)


def memory(segments: tuple[Segment, ...]) -> dict[int, int]:
    return {segment.address + i: byte for segment in segments for i, byte in enumerate(segment.data)}


@settings(max_examples=60, deadline=None)
@given(memories(), st.sampled_from([RP2040, 0xE48BFF59, 0xE48BFF5A]))
def test_whatever_goes_into_uf2_comes_out(segments: tuple[Segment, ...], family: int) -> None:
    found = read_uf2(write_uf2(segments, family), ANY)
    assert found.family == family
    wanted, pages = memory(segments), memory(found.segments)
    assert {address: byte for address, byte in pages.items() if address in wanted} == wanted
    assert {address & ~0xFF for address in pages} == {address & ~0xFF for address in wanted}
    assert not any(byte for address, byte in pages.items() if address not in wanted)


@settings(max_examples=60, deadline=None)
@given(memories())
def test_whatever_goes_into_hex_comes_out(segments: tuple[Segment, ...]) -> None:
    text = write_hex(segments)
    found, entry = read_hex(text.encode(), ANY)
    assert join(found, ANY) == segments and entry is None
    for line in text.splitlines():  # a record that runs over a 64 KB boundary would wrap around
        assert int(line[3:7], 16) + int(line[1:3], 16) <= 0x10000


def test_a_record_ends_where_64_kb_do() -> None:
    lines = write_hex((Segment(0x0800FFF8, bytes(20)),)).splitlines()
    assert [line[1:9] for line in lines] == ["02000004", "08FFF800", "02000004", "0C000000", "00000001"]


def test_others_read_our_hex(arm_tools: None, tmp_path: Path) -> None:
    """objcopy, byte for byte, across a 64 KB boundary."""
    data = bytes(range(256)) * 300
    (tmp_path / "x.hex").write_text(write_hex((Segment(0x0800F000, data),)))
    subprocess.run(
        ["arm-none-eabi-objcopy", "-I", "ihex", "-O", "binary", tmp_path / "x.hex", tmp_path / "x.bin"], check=True
    )
    assert (tmp_path / "x.bin").read_bytes() == data


def changed(at: int, data: bytes) -> Callable[[bytearray], None]:
    def change(file: bytearray) -> None:
        file[at : at + len(data)] = data

    return change


def word(number: int) -> bytes:
    return struct.pack("<I", number)


HOSTILE_UF2 = {
    "first magic": (changed(0, b"X"), "block 0: the magic numbers are wrong"),
    "second magic": (changed(BLOCK + 4, b"X"), "block 1: the magic numbers are wrong"),
    "last magic": (changed(2 * BLOCK - 1, b"X"), "block 1: the magic numbers are wrong"),
    "family": (changed(2 * BLOCK + 28, word(0xE48BFF59)), "block 2: is for RP2350, Arm (0xe48bff59)"),
    "no family": (changed(8, word(0)), "block 0: does not say which chip"),
    "file": (changed(8, word(0x3000)), "block 0: holds a file"),
    "number twice": (changed(BLOCK + 20, word(0)), "block 1: is numbered 0 of 3"),
    "number beyond": (changed(BLOCK + 20, word(3)), "block 1: is numbered 3 of 3"),
    "count": (changed(BLOCK + 24, word(4)), "block 1: is numbered 1 of 4"),
    "overlap": (changed(BLOCK + 12, word(0x10000000)), "block 1: writes 0x10000000 a second time"),
    "misaligned": (changed(BLOCK + 12, word(0x10000180)), "block 1: 256 bytes at 0x10000180"),
    "size": (changed(BLOCK + 16, word(0xFFFFFFFF)), "block 1: 4294967295 bytes at"),
    "short": (changed(BLOCK + 16, word(128)), "block 1: 128 bytes at"),
    "cut": (lambda file: file.__delitem__(slice(BLOCK, 2 * BLOCK)), "block 1 of 3 is missing"),
    "half a block": (lambda file: file.__delitem__(slice(1000, None)), "no whole blocks of 512"),
    "nothing": (lambda file: file.__delitem__(slice(None)), "0 bytes are no whole blocks"),
    "not for flash": (
        lambda file: [changed(BLOCK * n + 8, word(0x2001))(file) for n in range(3)],
        "holds no block for the main flash",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_UF2)
def test_a_uf2_that_lies_is_refused(case: str) -> None:
    change, said = HOSTILE_UF2[case]
    file = bytearray(write_uf2((Segment(0x10000000, bytes(700)),), RP2040))
    read_uf2(bytes(file), ANY)
    change(file)
    with pytest.raises(ModelError) as caught:
        read_uf2(bytes(file), ANY)
    assert said in str(caught.value) and str(caught.value).startswith("file: ")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_blocks_and_lines_end_in_an_answer_or_a_line(data: st.DataObject) -> None:
    segments = (Segment(0x1000FF80, bytes(range(256)) * 2),)
    reader, file = data.draw(
        st.sampled_from([(read_uf2, write_uf2(segments, RP2040)), (read_hex, write_hex(segments).encode())])
    )
    changed = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        reader(bytes(changed), ANY)
    except ModelError as error:
        assert str(error).startswith("file:")


def test_the_block_against_an_erratum_is_no_part_of_the_program() -> None:
    program = write_uf2((Segment(0x10000000, bytes(range(256)) * 2),), 0xE48BFF59)
    extra = bytearray(write_uf2((Segment(0x10FFFF00, b"\xef" * 256),), 0xE48BFF57))
    extra[24:28] = word(2)
    found = read_uf2(bytes(extra) + program, ANY)
    assert found.family == 0xE48BFF59 and found.segments[0].address == 0x10000000 and len(found.segments) == 2


BOOT2 = bytes(range(1, 253))


def pico(boot2: bytes, rest: bytes = b"program", start: int = 0x10000000) -> Image:
    return Image(ANY, (Segment(start, boot2 + rest),))


def test_the_crc_is_that_of_the_rom() -> None:
    """A CRC-32/MPEG-2: its check value, and zlib's CRC-32, which is the same with all bits the other way around."""
    assert crc32(b"123456789") == 0x0376E6E7
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in BOOT2)
    assert crc32(BOOT2) == int(f"{binascii.crc32(mirrored) ^ 0xFFFFFFFF:032b}"[::-1], 2)


@pytest.mark.parametrize("slot", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_second_stage_without_its_crc_is_given_it(slot: bytes) -> None:
    mended, note = with_boot2(pico(BOOT2 + slot))
    assert mended.segments[0].data == BOOT2 + word(crc32(BOOT2)) + b"program"
    assert f"{crc32(BOOT2):#010x}" in note
    again, silent = with_boot2(mended)
    assert again is mended and silent == ""


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (pico(BOOT2 + b"\1\2\3\4"), "say 0x04030201"),
        (pico(bytes(256)), "is empty"),
        (pico(b"\xff" * 256), "is empty"),
        (pico(BOOT2 + bytes(4), start=0x10000100), "nothing lies at 0x10000000"),
        (pico(BOOT2[:200], b""), "nothing lies at 0x10000000"),
    ],
)
def test_a_program_that_the_rom_would_not_start_is_refused(image: Image, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        with_boot2(image)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("01:00000001FF", "not hexadecimal"),
        (":00000001", "no record"),
        (":00000001FE\n:00000001FF", "checksum"),
        ("hello", "not hexadecimal"),
        (":0400000001020304F2", "cut short"),
        (":0400000001020304F2\n:0400020001020304F0\n:00000001FF", "two pieces want the memory at 0x00000002"),
        (":00000001FF\n:00000001FF", "2: a record after"),
        (":0400000A4130FFFF83", "of type 10 that only boards' own tools know"),
        (":0200000212EC00", "checksum"),
        (":01000004FAFF\n", "checksum"),
        (":0100000401FA\n", "wrong length"),
        (":02000004FFFFFC\n:02FFFF000102FD\n:00000001FF", "beyond 4 GiB"),
        (":00000001FF", "holds nothing"),
    ],
)
def test_a_hex_that_lies_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.hex"
    path.write_text(text)
    with pytest.raises(ModelError, match=said):
        read_image(path)


_ELF = struct.Struct("<16sHHIIIIIHHHHHH")


def elf(
    programs: list[tuple[int, ...]], data: bytes = bytes(64), kind: int = 2, machine: int = 40, size: int = 32
) -> bytes:
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = _ELF.pack(ident, kind, machine, 1, 0x08000101, 52, 0, 0, 52, size, len(programs), 40, 0, 0)
    return header + b"".join(struct.pack("<8I", *row) for row in programs) + data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (elf([(1, 0x54, 0, 0x08000000, 0x1000, 0x1000, 5, 4)]), "cut short"),
        (elf([(1, 0xFFFFFFF0, 0, 0x08000000, 0xFFFFFFFF, 0, 5, 4)]), "cut short"),
        (elf([(1, 0x54, 0, 0xFFFFFFF0, 0x20, 0x20, 5, 4)]), "beyond 4 GiB"),
        (elf([], kind=1), "not linked to run"),
        (elf([(1, 0, 0, 0, 0, 0, 0, 0)], size=4), "make no sense"),
        (elf([(1, 0x54, 0, 0x08000000, 0, 0, 5, 4)]), "holds nothing"),
        (elf([(1, 0x54, 0, 0x08000000, 8, 8, 5, 4), (1, 0x54, 0, 0x08000004, 8, 8, 5, 4)]), "two pieces"),
        (b"\x7fELF\x02\x01" + bytes(100), "no 32-bit"),
        (b"\x7fELF", "no 32-bit"),
        (elf([])[:44] + struct.pack("<H", 60000) + elf([])[46:], "make no sense"),
    ],
)
def test_an_elf_that_lies_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.elf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=said):
        read_image(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_headers_end_in_an_answer_or_a_line(data: st.DataObject) -> None:
    file = bytearray(elf([(1, 0x54, 0, 0x08000000, 32, 32, 5, 4)]))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(4, 83))] = data.draw(st.integers(0, 255))
    try:
        read_elf(bytes(file), ANY)
    except ModelError as error:
        assert str(error).startswith("file: ")


def test_headers_that_ld_puts_in_front_are_no_part_of_the_image(arm_tools: None, tmp_path: Path) -> None:
    """GNU ld with its own script: the segment begins with the file's headers, below; objcopy has what is right."""
    (tmp_path / "a.s").write_text(".thumb\n.global _start\n_start: .word 0x20020000, 0x8008009\n")
    words = ["arm-none-eabi-gcc", "-nostdlib", "-mcpu=cortex-m4", "-Wl,-Ttext=0x08000100", "-Wl,--build-id=none"]
    subprocess.run([*words, str(tmp_path / "a.s"), "-o", str(tmp_path / "a.elf")], check=True)
    subprocess.run(["arm-none-eabi-objcopy", "-O", "ihex", tmp_path / "a.elf", tmp_path / "a.hex"], check=True)
    found = read_image(tmp_path / "a.elf").segments
    assert found == read_image(tmp_path / "a.hex").segments
    assert found[0].address == 0x08000100


def test_what_says_nothing_of_its_place_is_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="give --address"):
        read_image(tmp_path / "x.bin")
    with pytest.raises(ConfigError, match="beyond 4 GiB"):
        read_image(tmp_path / "x.bin", 0xFFFFFFFE)
    assert read_image(tmp_path / "x.bin", 0x100).segments == (Segment(0x100, b"abc"),)
    (tmp_path / "x.hex").write_text(write_hex((Segment(0, b"abc"),)))
    with pytest.raises(ConfigError, match="leave --address away"):
        read_image(tmp_path / "x.hex", 0)
    (tmp_path / "x.uf2").write_bytes(b"no blocks")
    with pytest.raises(ModelError, match=r"does not begin as a \.uf2"):
        read_image(tmp_path / "x.uf2")
    with pytest.raises(ModelError, match="cannot be read"):
        read_image(tmp_path / "none.bin", 0)
    with pytest.raises(ModelError, match="is a folder"):
        read_image(tmp_path, 0)


def test_an_image_for_another_board_is_refused(tmp_path: Path) -> None:
    board, pico_board = load_target("stm32f446-nucleo"), load_target("rp2040-pico")
    last = 0x08080000
    refuse_outside(Image(ANY, (Segment(last - 4, b"1234"),)), board)
    for segment in (Segment(last - 3, b"1234"), Segment(0x07FFFFFF, b"12"), Segment(0x20000000, b"1")):
        with pytest.raises(FitError, match="outside the flash of stm32f446-nucleo"):
            refuse_outside(Image(ANY, (segment,)), board)
    path = tmp_path / "x.elf"
    path.write_bytes(elf([(1, 0x54, 0, 0x10000000, 32, 32, 5, 4)], machine=243))
    with pytest.raises(ModelError, match="is for RISC-V and rp2040-pico is Arm"):
        refuse_unfit(read_image(path), pico_board)
