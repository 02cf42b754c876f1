"""The bootloader's C on this machine, under sanitizers: SHA-256, and requests that nobody vouches for."""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from c_host import FIRMWARE, STRICT, run
from picoformer.link.boot import NOT_WRITTEN, STARTING, BootInfo, BootMessage, SlotState
from picoformer.link.messages import Message, Status
from picoformer.slot_image import HEADER_BYTES, ImageHeader, make_image, parse_header, split_image

TARGET, ORIGIN, SLOT, PAGE = "small", 0x2000, 8192, 512
RAM, RAM_BYTES = 0x20000000, 0x4000
ROOM = SLOT - PAGE
SEQUENCES, REQUESTS = 60, 40
HASH = 0

# abort() where hardware would do harm: erasing or writing outside of the slot, writing onto what is not erased.
DRIVER_C = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bootloader/boot.h"
#include "bootloader/flash.h"
#include "bootloader/sha256.h"
#include "picoformer/port.h"

static uint8_t memory[PF_SLOT_BYTES] __attribute__((aligned(8)));
const pf_slot pf_boot_slot = {memory, PF_SLOT_ORIGIN, PF_SLOT_BYTES, PF_PAGE_BYTES,
                              PF_RAM_ORIGIN, PF_RAM_BYTES, PF_BOOT_TARGET};

int pf_port_read(void) { return -1; }
void pf_port_write(uint8_t byte) { (void)byte; }
void pf_port_flush(void) {}
void pf_clock_set(uint32_t milliseconds) { (void)milliseconds; }

static uint8_t *at(uint32_t address, uint32_t bytes) {
    const uint32_t offset = address - PF_SLOT_ORIGIN;
    if (offset > PF_SLOT_BYTES || bytes > PF_SLOT_BYTES - offset) abort();
    return memory + offset;
}

void pf_flash_erase(uint32_t address) {
    if (address % PF_PAGE_BYTES) abort();
    memset(at(address, PF_PAGE_BYTES), 0xFF, PF_PAGE_BYTES);
}

void pf_flash_write(uint32_t address, const uint8_t *data, uint32_t bytes) {
    uint8_t *to = at(address, bytes);
    if (address % 4u || bytes % 4u) abort();
    for (uint32_t i = 0; i < bytes; i++) {
        if (to[i] != 0xFF) abort();
        to[i] = data[i];
    }
}

static void take(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(0);
}

int main(void) {
    static pf_reply reply;
    memset(memory, 0xFF, sizeof memory);
    for (;;) {
        uint32_t length;
        uint8_t type, status = 0;
        take(&length, 4);
        take(&type, 1);
        uint8_t *payload = malloc(length); /* exactly as long: whoever reads past its end is seen */
        take(payload, length);
        pf_reply_open(&reply, 1, type, 0);
        if (type == 0) { /* SHA-256 of all but the first byte, in pieces as long as that says */
            pf_sha256 hash;
            pf_sha256_begin(&hash);
            for (uint32_t i = 1; i < length;) {
                const uint32_t part = length - i < payload[0] + 1u ? length - i : payload[0] + 1u;
                pf_sha256_add(&hash, payload + i, part);
                i += part;
            }
            pf_sha256_end(&hash, reply.body + reply.length);
            reply.length += PF_SHA256_BYTES;
        } else if (type == 0xFF) { /* what the slot is from now on */
            if (length != sizeof memory) abort();
            memcpy(memory, payload, length);
        } else {
            const pf_call call = {1, type, payload, length};
            status = pf_boot_answer(&call, &reply);
        }
        const uint32_t sent = status ? 0 : reply.length - PF_REPLY_HEADER;
        const uint8_t asked = (uint8_t)pf_boot_is_start_asked();
        free(payload);
        fwrite(&status, 1, 1, stdout);
        fwrite(&asked, 1, 1, stdout);
        fwrite(&sent, 4, 1, stdout);
        fwrite(reply.body + PF_REPLY_HEADER, 1, sent, stdout);
        fwrite(memory, 1, type == 0 ? 0 : sizeof memory, stdout);
        fflush(stdout);
    }
}
"""


class Boot:
    """The process; `slot` is what its memory holds after the last request."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.slot = b"\xff" * SLOT
        self.start_asked = False

    def ask(self, kind: int, payload: bytes = b"") -> tuple[int, bytes]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(struct.pack("<IB", len(payload), kind) + payload)
        self._process.stdin.flush()
        head = self._process.stdout.read(6)
        assert len(head) == 6, f"the bootloader died of request {kind:#x} {payload[:120].hex()}"
        status, asked, sent = struct.unpack("<BBI", head)
        self.start_asked = bool(asked)
        reply = self._process.stdout.read(sent)
        if kind != HASH:
            self.slot = self._process.stdout.read(SLOT)
        return status, reply

    def put(self, slot: bytes) -> None:
        """Fill the slot past all checks, as another bootloader or a debugger may have."""
        self.ask(0xFF, slot.ljust(SLOT, b"\xff"))

    def info(self) -> BootInfo:
        status, reply = self.ask(BootMessage.IDENTIFY)
        assert status == Status.OK
        return BootInfo.parse(reply)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boot")
    (folder / "driver.c").write_text(DRIVER_C)
    sizes = {"PF_SLOT_ORIGIN": ORIGIN, "PF_SLOT_BYTES": SLOT, "PF_PAGE_BYTES": PAGE, "PF_RAM_ORIGIN": RAM,
             "PF_RAM_BYTES": RAM_BYTES, "PF_BOOT_WINDOW_MS": 300, "PF_FRAME_BYTES": 320}  # fmt: skip
    defines = [*(f"-D{name}={value}u" for name, value in sizes.items()), f'-DPF_BOOT_TARGET="{TARGET}"']
    own = [FIRMWARE / "bootloader" / f"{name}.c" for name in ("serve", "image", "sha256")]
    wire = [FIRMWARE / "protocol" / f"{name}.c" for name in ("crc32", "frame", "reply")]
    run(
        "gcc", *STRICT, "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *defines,
        f"-I{FIRMWARE}", f"-I{FIRMWARE / 'include'}", folder / "driver.c", *own, *wire, "-o", folder / "driver",
    )  # fmt: skip
    return folder / "driver"


@pytest.fixture
def boot(program: Path) -> Iterator[Boot]:
    found = Boot(program)
    yield found
    found.close()


def content(rng: random.Random, length: int) -> bytes:
    """An image: a vector table that can be one, then anything."""
    return struct.pack("<II", RAM + RAM_BYTES, ORIGIN + PAGE + 9) + rng.randbytes(length - 8)


def image(rng: random.Random, length: int = 1000) -> tuple[ImageHeader, bytes]:
    return split_image(make_image(content(rng, length), TARGET, ORIGIN + PAGE, bytes(16), 3), "it")


def resealed(header: ImageHeader, data: bytes, **changes: object) -> ImageHeader:
    """A header that tells something else, and whose hash is right again."""
    changed = replace(header, **changes)  # type: ignore[arg-type]
    return replace(changed, sha256=changed.hash_with(data[: changed.length]))


def write(boot: Boot, data: bytes) -> None:
    for at in range(0, len(data), 256):
        assert boot.ask(BootMessage.WRITE, struct.pack("<I", PAGE + at) + data[at : at + 256])[0] == Status.OK


def laid_out(header: ImageHeader, data: bytes) -> bytes:
    return header.pack().ljust(PAGE, b"\xff") + data


def test_sha256_is_hashlibs(boot: Boot) -> None:
    rng = random.Random(1)
    for length in [*range(200), *(rng.randrange(200, 5000) for _ in range(100))]:
        data, pieces = rng.randbytes(length), rng.randrange(256)
        assert boot.ask(HASH, bytes([pieces]) + data)[1] == hashlib.sha256(data).digest(), length


def test_an_image_is_taken(boot: Boot) -> None:
    header, data = image(random.Random(2))
    info = boot.info()
    assert (info.origin, info.slot_bytes, info.page_bytes, info.target) == (ORIGIN, SLOT, PAGE, TARGET)
    assert info.state == SlotState.NONE and not info.is_receiving
    assert boot.ask(BootMessage.START) == (SlotState.NONE, b"") and not boot.start_asked
    assert boot.ask(Message.HELLO) == (SlotState.NONE, b"") and not boot.start_asked
    assert boot.ask(BootMessage.BEGIN, header.pack())[0] == Status.OK
    assert boot.info().is_receiving
    write(boot, data)
    assert parse_header(boot.slot) is None
    assert boot.ask(BootMessage.FINISH) == (Status.OK, b"")
    assert boot.slot[: PAGE + len(data)] == laid_out(header, data)
    info = boot.info()
    assert info.state == SlotState.VALID and parse_header(info.header) == header and not info.is_receiving
    assert boot.ask(BootMessage.START) == (Status.OK, b"") and boot.start_asked
    assert boot.ask(Message.HELLO) == (STARTING, b"") and boot.start_asked
    assert boot.ask(Message.RUN)[0] == Status.UNKNOWN_TYPE and not boot.start_asked


LIES = {
    "magic": ({}, SlotState.NONE),
    "another target": ({"target": "other"}, SlotState.FOREIGN),
    "a longer name": ({"target": TARGET + "er"}, SlotState.FOREIGN),
    "a name without end": ({"target": "x" * 32}, SlotState.BAD_HEADER),
    "no image": ({"length": 0}, SlotState.OUTSIDE),
    "half a word": ({"length": 998}, SlotState.OUTSIDE),
    "longer than the slot": ({"length": ROOM + 4}, SlotState.OUTSIDE),
    "as long as can be": ({"length": 0xFFFFFFFC}, SlotState.OUTSIDE),
    "another place": ({"load": ORIGIN}, SlotState.OUTSIDE),
    "entry before": ({"entry": ORIGIN + PAGE - 1}, SlotState.OUTSIDE),
    "entry behind": ({"entry": ORIGIN + PAGE + 1001}, SlotState.OUTSIDE),
    "entry in Arm state": ({"entry": ORIGIN + PAGE + 8}, SlotState.OUTSIDE),
    "entry of its own": ({"entry": ORIGIN + PAGE + 11}, SlotState.BAD_VECTORS),
    "shorter than it is": ({"length": 996, "entry": ORIGIN + PAGE + 9}, SlotState.VALID),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(boot: Boot, lie: str) -> None:
    """Announced, or found in the slot though its hash is right: nothing is started, and nothing was erased in vain."""
    changes, state = LIES[lie]
    header, data = image(random.Random(3))
    packed = resealed(header, data, **changes).pack()
    if lie == "magic":
        packed = b"PFIN" + packed[4:]
    good = laid_out(header, data).ljust(SLOT, b"\xff")
    boot.put(good)
    if state in (SlotState.VALID, SlotState.BAD_VECTORS):  # the header alone says nothing of these
        assert boot.ask(BootMessage.BEGIN, packed)[0] == Status.OK
        write(boot, data)
        assert boot.ask(BootMessage.FINISH)[0] == state
    else:
        assert boot.ask(BootMessage.BEGIN, packed)[0] == state
        assert boot.slot == good
        assert boot.ask(BootMessage.FINISH)[0] == Status.STALE
        assert boot.ask(BootMessage.WRITE, struct.pack("<I", PAGE) + data[:4])[0] == Status.STALE


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_in_the_slot(program: Path, lie: str) -> None:
    changes, state = LIES[lie]
    header, data = image(random.Random(3))
    packed = resealed(header, data, **changes).pack()
    boot = Boot(program)
    boot.put((b"PFIN" + packed[4:] if lie == "magic" else packed).ljust(PAGE, b"\xff") + data)
    assert boot.ask(BootMessage.START)[0] == state == boot.info().state
    boot.close()


@pytest.mark.parametrize("vectors", [(RAM - 8, 9), (RAM + RAM_BYTES + 8, 9), (RAM + 12, 9)])
def test_a_stack_that_cannot_be(boot: Boot, vectors: tuple[int, int]) -> None:
    header, data = image(random.Random(4))
    data = struct.pack("<I", vectors[0]) + data[4:]
    boot.put(laid_out(resealed(header, data), data))
    assert boot.ask(BootMessage.START)[0] == SlotState.BAD_VECTORS


def test_every_bit_counts(program: Path) -> None:
    """One bit of header or image turned over, anywhere: it is not started."""
    rng = random.Random(5)
    header, data = image(rng, 400)
    good = laid_out(header, data)
    for bit in rng.sample(range(8 * HEADER_BYTES), 60) + [8 * PAGE + rng.randrange(3200) for _ in range(60)]:
        harmed = bytearray(good)
        harmed[bit // 8] ^= 1 << bit % 8
        boot = Boot(program)
        boot.put(bytes(harmed))
        assert boot.ask(BootMessage.START)[0] != Status.OK and not boot.start_asked, bit
        boot.close()


def test_pieces_that_do_not_fit(boot: Boot) -> None:
    header, data = image(random.Random(6))
    four = bytes(4)

    def piece(offset: int, content: bytes = four) -> int:
        return boot.ask(BootMessage.WRITE, struct.pack("<I", offset) + content)[0]

    assert piece(PAGE) == Status.STALE, "before a begin"
    assert boot.ask(BootMessage.FINISH)[0] == Status.STALE
    assert boot.ask(BootMessage.BEGIN, header.pack())[0] == Status.OK
    for offset in (0, 4, PAGE - 4, SLOT, SLOT + PAGE, 0x80000000, 0xFFFFFFFC):
        assert piece(offset) == Status.OUT_OF_RANGE, "the header's page, or outside of the slot"
    assert piece(PAGE + 2) == Status.OUT_OF_RANGE and piece(PAGE, bytes(6)) == Status.BAD_LENGTH
    assert piece(PAGE, b"") == Status.BAD_LENGTH and boot.ask(BootMessage.WRITE, bytes(3))[0] == Status.BAD_LENGTH
    assert piece(PAGE + 4) == Status.STALE, "a page that was not begun"
    assert piece(2 * PAGE - 4, bytes(8)) == Status.OUT_OF_RANGE, "across a page's end"
    assert piece(PAGE) == Status.OK and piece(PAGE + 4) == Status.OK
    assert piece(PAGE + 4) == Status.STALE and piece(PAGE + 12) == Status.STALE, "twice, or with a gap"
    assert piece(SLOT - PAGE) == Status.OK, "the last page"
    write(boot, data)
    assert boot.ask(BootMessage.FINISH)[0] == Status.OK


def test_pages_are_told(boot: Boot) -> None:
    import zlib

    rng = random.Random(7)
    boot.put(rng.randbytes(SLOT))
    count = SLOT // PAGE
    status, reply = boot.ask(BootMessage.PAGES, struct.pack("<IH", 0, count))
    assert status == Status.OK
    assert list(struct.unpack(f"<{count}I", reply)) == [
        zlib.crc32(boot.slot[at : at + PAGE]) for at in range(0, SLOT, PAGE)
    ]
    for first, some in ((0, count + 1), (count, 1), (count + 1, 0), (0xFFFFFFFF, 1), (1, 0xFFFF)):
        assert boot.ask(BootMessage.PAGES, struct.pack("<IH", first, some))[0] == Status.OUT_OF_RANGE
    assert boot.ask(BootMessage.PAGES, bytes(5))[0] == Status.BAD_LENGTH


def test_any_requests_in_any_order(program: Path) -> None:
    """Nothing is touched outside of the slot or written twice (the driver aborts); what starts is whole by hashlib."""
    started = 0
    for seed in range(SEQUENCES):
        rng = random.Random(1000 + seed)
        boot = Boot(program)
        boot.put(rng.choice([b"", rng.randbytes(SLOT), laid_out(*image(rng))]))
        header, data = image(rng, rng.choice([12, 512, 600, 1024, ROOM]))
        for _ in range(REQUESTS):
            kind = rng.choice([0x10, 0x11, 0x12, 0x12, 0x13, 0x13, 0x13, 0x13, 0x14, 0x15, 0x16, 0x17, 1, 4])
            boot.ask(kind, request(rng, kind, header, data))
            if boot.start_asked:
                found = parse_header(boot.slot)
                assert found is not None
                assert found.hash_with(boot.slot[PAGE : PAGE + found.length]) == found.sha256
                started += 1
        for kind, payload in ((0x12, header.pack()), *pieces(data), (0x14, b"")):
            assert boot.ask(kind, payload)[0] == Status.OK, "it can be mended"
        assert boot.slot[: PAGE + len(data)] == laid_out(header, data)
        boot.close()
    assert started > 5


def pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(data), 256):
        yield BootMessage.WRITE, struct.pack("<I", PAGE + at) + data[at : at + 256]


def request(rng: random.Random, kind: int, header: ImageHeader, data: bytes) -> bytes:
    """A request as it should be, as a rule, or a mutated one, or anything."""
    if kind == BootMessage.BEGIN:
        good = header.pack()
    elif kind == BootMessage.WRITE:
        good = rng.choice(list(pieces(data)))[1]
    elif kind == BootMessage.PAGES:
        good = struct.pack("<IH", rng.randrange(20), rng.randrange(20))
    else:
        good = b""
    chance = rng.random()
    if chance < 0.6:
        return good
    if chance < 0.9 and good:
        changed = bytearray(good)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed[: rng.choice([len(good), len(good), rng.randrange(len(good) + 1)])])
    return rng.randbytes(rng.choice([0, 1, 3, 4, 6, 8, HEADER_BYTES, 320]))


def test_the_constants_are_those_of_the_c() -> None:
    text = "".join((FIRMWARE / name).read_text() for name in ("bootloader/boot.h", "bootloader/image.h"))
    text += (FIRMWARE / "include/picoformer/wire.h").read_text()
    for message in BootMessage:
        assert f"PF_BOOT_{message.name} = {message.value:#04x}" in text
    for state in SlotState:
        if state:
            assert f"PF_IMAGE_{state.name} = {state.value:#04x}" in text
    for name, value in (("NOT_WRITTEN", NOT_WRITTEN), ("STARTING", STARTING)):
        assert f"PF_BOOT_{name} {value:#04x}u" in " ".join(text.split())
