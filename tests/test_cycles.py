"""Cycles: published timings on known instruction sequences, and a profile that accounts for every instruction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware
from picoformer.cycles import count_cycles, timings_of
from picoformer.cycles.disassembly import Instruction, disassemble
from picoformer.cycles.model import _Code
from picoformer.cycles.timings import CORES, Timings
from picoformer.emulator.interface import Block, Region
from picoformer.emulator.session import open_device
from picoformer.firmware import build_firmware
from picoformer.targets import load_target


def cycles_of(core: str | Timings, *lines: str, taken: int = 0, runs: int = 1) -> tuple[int, int]:
    """Cycles of one block of Thumb instructions, four bytes each, without the call that enters the region."""
    code = {}
    for index, line in enumerate(lines):
        name, _, operands = line.partition(" ")
        code[4 * index] = Instruction(name, operands)
    timings = core if isinstance(core, Timings) else CORES[core]
    low, high = _Code(code, timings).region(Region((Block(0, 4 * len(lines), runs, taken),), 0))
    return low - 1 - timings.refill[0], high - 1 - timings.refill[1]


@pytest.mark.parametrize(
    ("core", "lines", "cycles"),
    [
        ("cortex-m4", ("nop", "add r0, r1", "smlad r0, r1, r2, r3"), (3, 3)),
        ("cortex-m4", ("nop", "ldmia r0!, {r1, r2, r3, r4, r5}"), (7, 7)),
        ("cortex-m4", ("nop", "ldr r0, [r1]", "ldr r2, [r3, #4]"), (4, 5)),  # neighbours overlap
        ("cortex-m4", ("nop", "ldr r0, [r1]", "ldr r2, [r0]"), (5, 6)),  # but not where one is the other's address
        ("cortex-m4", ("adds r1, #4", "ldr r0, [r1]"), (3, 4)),  # an address just computed may wait
        ("cortex-m4", ("nop", "udiv r0, r1, r2"), (3, 13)),
        ("cortex-m4", ("nop", "vfma s0, s1, s2", "vdiv s0, s1, s2"), (18, 20)),
        ("cortex-m4", ("nop", "vldmia r0!, {s0-s7}"), (10, 10)),
        ("cortex-m3", ("nop", "mla r0, r1, r2, r3", "smull r0, r1, r2, r3"), (6, 8)),
        ("cortex-m4", ("nop", "smull r0, r1, r2, r3", "smlald r0, r1, r2, r3"), (3, 3)),
        ("cortex-m0", ("nop", "muls r0, r1", "ldr r0, [r1]", "str r0, [r1]"), (6, 37)),
        (
            "cortex-m3",
            ("nop", "mls r0, r1, r2, r3", "mlsls r0, r1, r2, r3"),
            (4, 5),
        ),  # `ls` is the condition of the second
        ("cortex-m0", ("push {r4, r5, lr}", "bl 100"), (8, 8)),
        ("cortex-m0plus", ("nop", "bl 100"), (4, 4)),
        ("cortex-m0", ("nop", "pop {r4, pc}"), (7, 7)),  # 1 + 4 + N
        ("cortex-m0plus", ("nop", "pop {r4, pc}"), (6, 6)),
        ("cortex-m4", ("nop", "pop {r4, pc}"), (5, 7)),
    ],
)
def test_a_sequence_takes_what_the_manual_says(core: str, lines: tuple[str, ...], cycles: tuple[int, int]) -> None:
    assert cycles_of(core, *lines) == cycles


def test_a_branch_costs_more_when_it_is_taken() -> None:
    assert cycles_of("cortex-m4", "subs r0, #1", "bne 0", runs=10) == (20, 20)
    assert cycles_of("cortex-m4", "subs r0, #1", "bne 0", runs=10, taken=9) == (29, 47)
    assert cycles_of("cortex-m0", "subs r0, #1", "bne 0", runs=10, taken=9) == (38, 38)
    assert cycles_of("cortex-m4", "nop", "b 0", runs=10) == (30, 50)  # always taken


def test_a_loop_of_known_length_is_modelled_whole(arm_tools: None, tmp_path: Path) -> None:
    model = device_fixture.write_model(
        tmp_path / "model", device_c=device_fixture.EXACT_DEVICE_C, extra_c=device_fixture.EXACT_C
    )
    target, turns = load_target("mps2-an386"), 1000
    build = build_firmware(model, target, tmp_path / "out")
    with open_device(build, target, profile=True) as session:
        for _ in range(2):  # the last run counts
            session.device.write_input(0, turns.to_bytes(4, "little"))
            session.device.run()
        profile, counts = session.profile, session.instructions
    assert profile is not None and counts is not None and len(profile) == 2
    code = disassemble(build.elf, "arm-none-eabi-objdump")
    executed = sum(b.executed * sum(b.start <= a < b.end for a in code) for b in profile[1].blocks)
    assert executed + 1 == counts.per_step[0]  # the call that enters is not in a block
    cycles = count_cycles(build.elf, target, profile)
    assert not isinstance(cycles, str)
    # blx 1+P, loads 1..3 (a literal may wait) and 2..3, subs and bne, movs, bx 1+P
    assert cycles.per_step[0] == (
        2 + 3 + 2 * turns + (turns - 1) + 1 + 2,
        4 + 6 + 2 * turns + 3 * (turns - 1) + 1 + 4,
    )
    assert cycles.total == tuple(a + b for a, b in zip(cycles.init, cycles.per_step[0], strict=True))


def test_a_profile_adds_up_to_the_instructions_counted(arm_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    with open_device(build, target, profile=True) as session:
        session.device.write_input(0, bytes(2000))
        session.device.write_input(1, bytes(4))
        session.device.run()
        profile, counts = session.profile, session.instructions
    assert profile is not None and counts is not None
    code = disassemble(build.elf, "arm-none-eabi-objdump")
    for region, count in zip(profile, (counts.init, *counts.per_step), strict=True):
        assert 1 + sum(b.executed * sum(b.start <= a < b.end for a in code) for b in region.blocks) == count


def test_a_chip_states_how_its_core_multiplies() -> None:
    plain = load_target("microbit").model_copy(update={"cpu": "cortex-m0plus"})
    lines = ("nop", "muls r0, r1", "lsls r0, r1")
    for chosen, cycles in ((0, (3, 34)), (1, (3, 3)), (32, (34, 34))):
        timings = timings_of(plain.model_copy(update={"multiply_cycles": chosen}))
        assert isinstance(timings, Timings) and cycles_of(timings, *lines) == cycles
    pico = timings_of(load_target("rp2040-pico"))
    assert isinstance(pico, Timings) and pico.source.endswith("MUL takes 1 cycle on this chip")


def test_where_no_timings_are_published_there_are_no_cycles(tmp_path: Path) -> None:
    target = load_target("mps2-an386")
    for cpu in ("cortex-m7", "cortex-m33", "cortex-m55", "rv32imc"):
        other = target.model_copy(update={"cpu": cpu})
        assert timings_of(other) == f"no instruction timings are published for {cpu}"
        assert count_cycles(tmp_path / "none", other, ()) == timings_of(other)


def test_slower_loads_are_more_cycles() -> None:
    slow = replace(CORES["cortex-m0"], loads=(3, 3))
    assert cycles_of(slow, "nop", "ldr r0, [r1]") == (4, 4)
