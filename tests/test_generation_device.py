"""The same seed gives the same tokens on an emulated core as in numpy; prints what a token costs there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from generation_library import FIRMWARE, TEXT, ToyModel, c_beam_settings, c_settings
from picoformer.emulator.counting import plugin_for
from picoformer.generation import BeamSettings, IntegerBeam, IntegerSampler, RandomNumbers, SamplerSettings
from picoformer.generation.scores import Array
from semihosting import ASK, MEMORY

SCALE = 0.001
DRAWS = 3
BEAM = BeamSettings(3, 0.7, False, 8, (2, 3, 5))
BEAM_VOCABULARY = 40
SETTINGS = {
    "greedy": SamplerSettings(greedy=True),
    "plain": SamplerSettings(seed=1),
    "top-k 40": SamplerSettings(temperature=0.8, top_k=40, seed=2),
    "top-p 0.9": SamplerSettings(temperature=0.8, top_p=0.9, seed=3),
    "top-k 40, top-p 0.9": SamplerSettings(temperature=0.8, top_k=40, top_p=0.9, seed=4),
    "penalty 1.2, top-k 40, top-p 0.9": SamplerSettings(0.8, 40, 0.9, 0.0, 1.2, 5),
}


@dataclass(frozen=True)
class Machine:
    """A machine of QEMU with code for `cpu`; the M3 of mps2-an385 runs what a Cortex-M0 has."""

    name: str
    cpu: str


M0, M7 = Machine("mps2-an385", "cortex-m0"), Machine("mps2-an500", "cortex-m7")

_LINK = """
MEMORY { code : ORIGIN = 0, LENGTH = 512K  data : ORIGIN = 0x20000000, LENGTH = 2M }
ENTRY(start)
SECTIONS { .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > code  .ARM.exidx : { *(.ARM.exidx*) } > code
           .bss (NOLOAD) : { *(.data*) *(.bss*) } > data }
"""
_MAIN = r"""
#include <string.h>
#include "picoformer/generate.h"
@SEMIHOSTING@
__asm__(".syntax unified\n.thumb\n.global counted, region_begin, region_end\n.thumb_func\n"
        "counted:\n push {r4, lr}\nregion_begin:\n bl pf_sample\nregion_end:\n pop {r4, pc}\n");
int32_t counted(pf_sampler *s, const pf_logits *logits);
static const pf_sampler_settings settings[] = {@SETTINGS@};
static const int32_t stops[] = {@STOPS@};
static const pf_beam_settings beam_settings = {@BEAM@};
static int16_t values[@VOCABULARY@];
static float reals[@VOCABULARY@];
static uint64_t scratch[PF_SAMPLER_SCRATCH(@VOCABULARY@) / 8 + 1];
static uint64_t beam_scratch[1000];
static int32_t results[4096];
static uint32_t states[8];
/* Peaked, as those of a trained model: the sixth power of a uniform number. */
static void fill(int16_t *to, int32_t count, uint32_t x)
{
    for (int32_t i = 0; i < count; i++) {
        x = x * 1664525u + 1013904223u;
        const uint32_t u = x >> 16, cube = (u * u >> 16) * u >> 16;
        to[i] = (int16_t)((cube * cube >> 16) * 3 >> 3);
    }
}
static int decode(void *model, int32_t slot, const int32_t *tokens, int32_t count, int32_t position)
{
    (void)model;
    uint32_t h = position == 0 ? 0 : states[slot];
    for (int32_t i = 0; i < count; i++) h = h * 31u + (uint32_t)tokens[i] + 1u;
    states[slot] = h;
    fill(values, @BEAM_VOCABULARY@, h);
    return 0;
}
static pf_logits logits_of(void *model)
{
    (void)model;
    const pf_logits l = {values, @BEAM_VOCABULARY@, 0};
    return l;
}
static void copy(void *model, int32_t from, int32_t to) { (void)model; states[to] = states[from]; }
void start(void)
{
    int32_t *r = results;
    for (uint32_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        pf_sampler s;
        pf_sampler_init(&s, settings + i, @VOCABULARY@, scratch, sizeof scratch);
        for (uint32_t draw = 0; draw < @DRAWS@; draw++) {
            fill(values, @VOCABULARY@, i * 100u + draw);
            for (int32_t v = 0; v < @VOCABULARY@; v++) reals[v] = (float)values[v] * 0.0009765625f;
            const void *place = settings[i].is_float ? (void *)reals : (void *)values;
            const pf_logits l = {place, @VOCABULARY@, settings[i].is_float};
            *r = counted(&s, &l);
            pf_sampler_accept(&s, *r++);
        }
    }
    const pf_decoder d = {NULL, decode, logits_of, copy, 8, 64, @BEAM_VOCABULARY@};
    const int32_t prompt[] = {7, 1};
    pf_beam b;
    const int32_t count = pf_beam_search(&b, &beam_settings, &d, prompt, 2, beam_scratch, sizeof beam_scratch);
    *r++ = count;
    for (int32_t i = 0; i < count; i++) {
        const int32_t length = *r++ = b.finished[i].length;
        memcpy(r, &b.finished[i].score, 8);
        pf_beam_text(&b, i, r + 2);
        r += 2 + length;
    }
    const struct { const char *name; uint32_t mode, length; } file = {"result.bin", 5, 10};
    const uint32_t handle = ask(1, &file);
    const uint32_t block[3] = {handle, (uint32_t)results, (uint32_t)(r - results) * 4u};
    ask(5, block);
    ask(2, &handle);
    ask(0x18, (void *)0x20026);
    for (;;) {}
}
static void fault(void)
{
    ask(0x18, (void *)0x20023);
    for (;;) {}
}
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    (void *)0x20200000, (void *)start, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
"""


def samplers() -> list[IntegerSampler]:
    return [IntegerSampler.from_settings(s, scale) for scale in (SCALE, None) for s in SETTINGS.values()]


def filled(count: int, x: int) -> Array:
    """What `fill` leaves."""
    values = np.empty(count, np.int16)
    for i in range(count):
        x = (x * 1664525 + 1013904223) % 2**32
        u = x >> 16
        cube = ((u * u >> 16) * u) >> 16
        values[i] = ((cube * cube >> 16) * 3) >> 3
    return values


def initializer(structure: object) -> str:
    """The C initializer of a ctypes struct of numbers."""
    fields = []
    for name, kind in structure._fields_:  # type: ignore[attr-defined]
        value = getattr(structure, name)
        nested = hasattr(kind, "_fields_")
        fields.append(f"{{{initializer(value)}}}" if nested else "stops" if name == "stop_tokens" else f"{value}u")
    return ", ".join(fields)


def run_on(machine: Machine, vocabulary: int, folder: Path) -> tuple[Array, list[int]]:
    """The words that the device leaves, and instructions of each draw where QEMU counts them."""
    beam, stops = c_beam_settings(IntegerBeam.from_settings(BEAM, SCALE), False)
    main = _MAIN
    for name, value in (
        ("SEMIHOSTING", ASK + MEMORY),
        ("SETTINGS", ", ".join(f"{{{initializer(c_settings(s))}}}" for s in samplers())),
        ("STOPS", ", ".join(map(str, stops))),
        ("BEAM_VOCABULARY", BEAM_VOCABULARY),
        ("BEAM", initializer(beam)),
        ("VOCABULARY", vocabulary),
        ("DRAWS", DRAWS),
    ):
        main = main.replace(f"@{name}@", str(value))
    (folder / "main.c").write_text(main)
    (folder / "link.ld").write_text(_LINK)
    flags = ["-std=c99", "-mthumb", f"-mcpu={machine.cpu}", "-ffreestanding", "-O2", "-Wall", "-Wextra", "-nostdlib"]
    include = [f"-I{FIRMWARE / 'include'}", f"-I{FIRMWARE / 'freestanding'}"]
    command = ["arm-none-eabi-gcc", *flags, *include, "-Wl,-T,link.ld", "main.c", *map(str, TEXT)]
    subprocess.run([*command, "-lgcc", "-o", "text.elf"], cwd=folder, check=True)
    symbols = subprocess.run(["arm-none-eabi-nm", "text.elf"], cwd=folder, check=True, capture_output=True, text=True)
    places = {name: int(place, 16) for place, _, name in (line.split() for line in symbols.stdout.splitlines())}
    plugin, _ = plugin_for("qemu-system-arm")
    options = ["-plugin", f"{plugin},begin={places['region_begin']:#x},end={places['region_end']:#x},out=counts.bin"]
    command = ["qemu-system-arm", "-M", machine.name, "-nographic", "-semihosting-config", "enable=on,target=native"]
    command += [*(options if plugin else []), "-kernel", "text.elf"]
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdin=subprocess.DEVNULL)
    counts = np.fromfile(folder / "counts.bin", "<u8").tolist() if plugin else []
    return np.fromfile(folder / "result.bin", "<i4"), counts


@pytest.mark.parametrize("vocabulary", [512, pytest.param(32000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", [M0, M7], ids=lambda m: m.cpu)
def test_host_and_device_write_the_same_text(
    arm_tools: None, machine: Machine, vocabulary: int, tmp_path: Path
) -> None:
    words, counts = run_on(machine, vocabulary, tmp_path)
    expected: list[int] = []
    for i, sampler in enumerate(samplers()):
        numbers, history = RandomNumbers(sampler.seed), list[int]()
        for draw in range(DRAWS):
            values = filled(vocabulary, i * 100 + draw)
            logits = values.astype(np.float32) / np.float32(1024) if sampler.is_float else values
            history.append(sampler.sample(logits, history, numbers))
        expected += history
    assert words[: len(expected)].tolist() == expected
    assert len(set(expected)) > 20

    def function(tokens: tuple[int, ...]) -> Array:
        h = 0
        for token in tokens:
            h = (h * 31 + token + 1) % 2**32
        return filled(BEAM_VOCABULARY, h)

    model = ToyModel(function, BEAM_VOCABULARY, 64, BEAM.beams)
    texts = IntegerBeam.from_settings(BEAM, SCALE).search(model, [7, 1])
    rest = [len(texts)]
    for text in texts:
        rest += [len(text.tokens), *np.array([text.score], "<i8").view("<i4").tolist(), *text.tokens]
    assert words[len(expected) :].tolist() == rest
    for i, name in enumerate([*SETTINGS, *(f"{name}, float32" for name in SETTINGS)]):
        print(f"{machine.cpu} {vocabulary} {name}: {counts[i * DRAWS : (i + 1) * DRAWS]}")
