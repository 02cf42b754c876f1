"""The protocol's messages as dataclasses; firmware/SPEC.md states their bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from picoformer.link.harmless import harmless

WIRE_VERSION = 3
REPLY = 0x80
LOG_FRAME = 0xFE
FAULT_FRAME = 0xFF
ALL_STEPS = 0xFFFF
NO_STEP = 0xFFFF
UNKNOWN = 0xFFFFFFFF
_MOST_BYTES = 1 << 28  # of one call of a model: no device has so much memory


class Message(IntEnum):
    """Requests of a model's firmware. A bootloader has 0x10 to 0x17, firmware that captures samples 0x30 to 0x37."""

    HELLO = 0x01
    DESCRIBE = 0x02
    WRITE_INPUT = 0x03
    RUN = 0x04
    READ_OUTPUT = 0x05
    STACK = 0x07
    RESET = 0x08
    TEXT_BEGIN = 0x20
    TEXT_FEED = 0x21
    TEXT_NEXT = 0x22
    TEXT_BEAM = 0x23
    FAULT_TEST = 0x7E


IN_PARTS = frozenset({Message.RUN, Message.TEXT_FEED, Message.TEXT_NEXT, Message.TEXT_BEAM})
"""Requests that run the model: their answers come in numbered parts."""


class Status(IntEnum):
    """What a reply says of its request."""

    OK = 0
    BAD_CRC = 1
    BAD_FRAME = 2
    TOO_LONG = 3
    UNKNOWN_TYPE = 4
    BAD_LENGTH = 5
    OUT_OF_RANGE = 6
    STALE = 7
    INPUT_MISSING = 8
    STEP_FAILED = 9
    NOT_THESE = 10


MEANING: dict[int, str] = {
    Status.BAD_CRC: "the frame arrived damaged (CRC); check the line",
    Status.BAD_FRAME: "the frame arrived broken; check the line",
    Status.TOO_LONG: "the frame is longer than the device takes",
    Status.UNKNOWN_TYPE: "the device does not know this message; rebuild its firmware",
    Status.BAD_LENGTH: "the request has the wrong length",
    Status.OUT_OF_RANGE: "an index, an offset or a flag is out of range",
    Status.STALE: "there are no outputs of the inputs as they are, or no text was begun",
    Status.INPUT_MISSING: "write every input before each run",
    Status.STEP_FAILED: "a step refused its input: an id is outside the rows of an embedding",
    Status.NOT_THESE: "its inputs or what it kept of earlier runs are not this host's: it restarted, or somebody else "
    "speaks to it; begin again",
}


class RunFlags(IntFlag):
    """What a run's reply carries besides the status."""

    CRC = 1
    CYCLES = 2
    OUTPUTS = 4
    STEP = 8


class Table(IntEnum):
    """The tables of tensors that `describe` lists."""

    INPUTS = 0
    OUTPUTS = 1
    STEPS = 2


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the device's arena: `offset` and `size` in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Hello:
    """Who the device is. `frame_bytes` is the longest body it takes; `clock_hz` 0 where unknown."""

    version: int
    frame_bytes: int
    identity: bytes
    input_count: int
    output_count: int
    step_count: int
    has_cycles: bool
    has_fault_tests: bool
    arena_bytes: int
    clock_hz: int
    name: str
    writes_text: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Hello:
        """From the payload of the reply."""
        head = struct.Struct("<HH16sHHHHII")
        version, frame, identity, inputs, outputs, steps, flags, arena, clock = head.unpack_from(data)
        name = harmless(data[head.size :].decode("utf-8", "replace"))
        has_cycles, has_tests = bool(flags & 1), bool(flags & 2)
        text = bool(flags & 4)
        return cls(version, frame, identity, inputs, outputs, steps, has_cycles, has_tests, arena, clock, name, text)


@dataclass(frozen=True)
class Stack:
    """Bytes of stack reserved and ever used; None where the device cannot tell."""

    size: int | None
    used: int | None

    @classmethod
    def parse(cls, data: bytes) -> Stack:
        """From the payload of the reply."""
        size, used = struct.unpack("<II", data)
        return cls(None if size == UNKNOWN else size, None if used == UNKNOWN else used)


@dataclass(frozen=True)
class RunResult:
    """One run: CRC-32 of each step's output, cycles of init and of each step, bytes of each output; None if not asked
    for, cycles also where the counter stood still. `calls` says which step each call of the model computed for; a step
    that has not run has CRC 0."""

    calls: tuple[int, ...]
    step_crcs: tuple[int, ...] | None
    init_cycles: int | None
    step_cycles: tuple[int, ...] | None
    outputs: tuple[bytes, ...] | None


@dataclass(frozen=True)
class Fault:
    """The device's last words. Registers that its machine does not have are 0; `step` None outside a step."""

    kind: int
    exception: int
    step: int | None
    pc: int
    lr: int
    sp: int
    address: int
    cfsr: int
    hfsr: int
    mmfar: int
    bfar: int

    @classmethod
    def parse(cls, data: bytes) -> Fault:
        """From the payload of a fault frame."""
        kind, exception, step, *registers = struct.unpack("<BBHQQQQIIII", data)
        return cls(kind, exception, None if step == NO_STEP else step, *registers)


def parse_describe(data: bytes) -> list[TensorInfo]:
    """The records of a `describe` reply."""
    tensors = []
    at = 0
    while at < len(data):
        offset, size, length = struct.unpack_from("<IIB", data, at)
        at += 9
        tensors.append(TensorInfo(harmless(data[at : at + length].decode("utf-8", "replace")), offset, size))
        at += length
    return tensors


def write_input_body(index: int, offset: int, data: bytes) -> bytes:
    """Payload of a `write input` request."""
    return struct.pack("<HI", index, offset) + data


def run_body(flags: RunFlags, until: int | None, check: int) -> bytes:
    """Payload of a `run` request; `until` is the last step to run to its end, None for all; see `run_check`."""
    return struct.pack("<BHI", flags, ALL_STEPS if until is None else until, check)


def run_check(mark: int, inputs: Iterable[bytes]) -> int:
    """CRC-32 of the mark of the last reset (0 without one) and of all inputs in order: what a run is meant for."""
    crc = zlib.crc32(struct.pack("<I", mark))
    for data in inputs:
        crc = zlib.crc32(data, crc)
    return crc


def read_body(index: int, offset: int, length: int) -> bytes:
    """Payload of a `read output` request."""
    return struct.pack("<HIH", index, offset, length)


def parse_run(data: bytes, flags: RunFlags, until: int | None, outputs: list[TensorInfo]) -> RunResult:
    """The joined stream of a run's reply frames: a record for each call, folded to figures for each step up to `until`;
    ValueError when its length is off."""
    has_crc, has_cycles = bool(flags & RunFlags.CRC), bool(flags & RunFlags.CYCLES)
    record = struct.Struct("<H" + "II" * has_crc + "I" * has_cycles)
    tail = sum(tensor.size for tensor in outputs) if flags & RunFlags.OUTPUTS else 0
    body = len(data) - 4 * has_cycles - tail
    if body < 0 or body % record.size:
        raise ValueError(f"the reply has {len(data)} bytes, which is no whole number of calls")
    calls = [record.unpack_from(data, 4 * has_cycles + at) for at in range(0, body, record.size)]
    last = max((call[0] for call in calls), default=-1) if until is None else until
    crcs, cycles = [0] * (last + 1), [0] * (last + 1)
    for step, *figures in calls:
        if step > last:
            continue  # begun, and not asked for
        if has_crc:
            size, crc = figures[:2]
            if size > _MOST_BYTES:
                raise ValueError(f"a call that computes {size:,} bytes")
            crcs[step] = joined_crc(crcs[step], crc, size)
        if has_cycles:
            cycles[step] += figures[-1]
    results = None
    if flags & RunFlags.OUTPUTS:
        parts, at = [], len(data) - tail
        for tensor in outputs:
            parts.append(data[at : at + tensor.size])
            at += tensor.size
        results = tuple(parts)
    init_cycles: int = struct.unpack_from("<I", data)[0] if has_cycles else 0
    has_counted = init_cycles > 0 or any(cycles)
    return RunResult(
        tuple(call[0] for call in calls),
        tuple(crcs) if has_crc else None,
        init_cycles if has_counted else None,
        tuple(cycles) if has_counted else None,
        results,
    )


def joined_crc(first: int, second: int, size: int) -> int:
    """CRC-32 of two pieces one behind the other, from that of each and the second one's size in bytes.

    Checksums of messages of one length add up (without carry): with zeros in place of a piece, those of both sum up to
    that of the whole, but for that of zeros alone.
    """
    zeros = bytes(size)
    return zlib.crc32(zeros, first) ^ zlib.crc32(zeros) ^ second
