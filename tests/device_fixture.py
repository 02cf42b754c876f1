"""A tiny hand-written model for the tests of wire, ports and emulators: three steps over a small arena."""

from __future__ import annotations

import json
from pathlib import Path

ARENA_BYTES = 4096
IDENTITY = bytes(range(16))

MODEL_H = """\
/* The test model. */
#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>
typedef struct test_state { uint32_t next; } test_state;
extern uint8_t test_arena[4096];
extern test_state test_model_state;
extern const uint8_t test_weights[256];
void test_init(void *state);
int test_step(void *state);
#endif
"""

MODEL_C = """\
/* Three steps: a table look-up plus a scale, a sum per block of 100, the complement of the sums. */
#include "model.h"

uint8_t test_arena[4096] __attribute__((aligned(16)));
test_state test_model_state;

static void look_up(void)
{
    for (uint32_t i = 0; i < 2000u; i++)
        test_arena[2048u + i] = (uint8_t)(test_weights[test_arena[i]] + test_arena[2000u + (i & 3u)]);
}

static void sum_blocks(void)
{
    for (uint32_t block = 0; block < 20u; block++) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < 100u; i++)
            sum += test_arena[2048u + block * 100u + i];
        test_arena[2u * block] = (uint8_t)(sum & 0xFFu); /* over the inputs, as a memory plan may do */
        test_arena[2u * block + 1u] = (uint8_t)(sum >> 8);
    }
}

void test_init(void *state)
{
    ((test_state *)state)->next = 0;
}

int test_step(void *state)
{
    test_state *self = state;
    switch (self->next++) {
    case 0:
        look_up();
        return 1;
    case 1:
        sum_blocks();
        return 1;
    default:
        for (uint32_t i = 0; i < 40u; i++)
            test_arena[i] = (uint8_t)~test_arena[i]; /* in place */
        return 0;
    }
}
"""

DEVICE_C = """\
/* The test model as the device runtime sees it. */
#include "picoformer/device.h"
#include "model.h"

static const pf_tensor_info inputs[] = {{"pixels", 0, 2000}, {"scale", 2000, 4}};
static const pf_tensor_info outputs[] = {{"inverted", 0, 40}, {"looked_up", 2048, 2000}};
static const pf_tensor_info steps[] = {{"looked_up", 2048, 2000}, {"sums", 0, 40}, {"inverted", 0, 40}};

static void test_next(const void *state, pf_piece *piece)
{
    piece->step = ((const test_state *)state)->next;
    piece->data = test_arena + steps[piece->step].offset;
    piece->bytes = steps[piece->step].bytes;
}

const pf_device_model pf_device = {
    .name = "tiny",
    .identity = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    .input_count = 2,
    .output_count = 2,
    .step_count = 3,
    .inputs = inputs,
    .outputs = outputs,
    .steps = steps,
    .arena_bytes = sizeof test_arena,
    .arena = test_arena,
    .state = &test_model_state,
    .init = test_init,
    .step = test_step,
    .next = test_next,
};
"""


# One step of known length: it counts the 32-bit input down in assembly. The call (blx), two loads, two instructions a
# turn, the result and the return.
EXACT_INIT_INSTRUCTIONS = 2  # blx and bx
EXACT_FIXED_INSTRUCTIONS = 5
EXACT_C = """
__attribute__((naked)) void exact_init(void *state)
{
    __asm__ volatile("bx lr");
}
__attribute__((naked)) int exact_step(void *state)
{
    __asm__ volatile(".syntax unified\\n ldr r1, =test_arena\\n ldr r1, [r1]\\n 1: subs r1, #1\\n bne 1b\\n"
                     " movs r0, #0\\n bx lr\\n .ltorg");
}
"""
EXACT_DEVICE_C = """\
/* The step of known length as the device runtime sees it. */
#include "picoformer/device.h"
#include "model.h"
void exact_init(void *state);
int exact_step(void *state);
static const pf_tensor_info one[] = {{"turns", 0, 4}};
static void exact_next(const void *state, pf_piece *piece)
{
    (void)state;
    *piece = (pf_piece){0, test_arena, 4};
}
const pf_device_model pf_device = {
    .name = "exact",
    .input_count = 1,
    .output_count = 1,
    .step_count = 1,
    .inputs = one,
    .outputs = one,
    .steps = one,
    .arena_bytes = sizeof test_arena,
    .arena = test_arena,
    .init = exact_init,
    .step = exact_step,
    .next = exact_next,
};
"""


# The sums by tiles of 8 blocks, inverted tile by tile, and the looked-up table computed again for each.
TILED_MODEL_C = """\
/* Steps by tiles: look up everything; then for 8 blocks at a time look up again, sum up, invert. */
#include "model.h"

uint8_t test_arena[4096] __attribute__((aligned(16)));
test_state test_model_state;

static void look_up(uint32_t first, uint32_t last)
{
    for (uint32_t i = first; i < last; i++)
        test_arena[2048u + i] = (uint8_t)(test_weights[test_arena[i]] + test_arena[2000u + (i & 3u)]);
}

void test_init(void *state)
{
    ((test_state *)state)->next = 0;
}

int test_step(void *state)
{
    test_state *self = state;
    const uint32_t call = self->next++, first = call == 0 ? 0 : (call - 1u) / 3u * 8u;
    const uint32_t last = first + 8u < 20u ? first + 8u : 20u;
    if (call == 0) {
        look_up(0, 2000);
        return 1;
    }
    if (call % 3u == 1u)
        look_up(100u * first, 100u * last);
    for (uint32_t block = first; block < last; block++) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < 100u; i++)
            sum += test_arena[2048u + block * 100u + i];
        if (call % 3u == 2u) {
            test_arena[4050u + 2u * (block - first)] = (uint8_t)(sum & 0xFFu); /* the place of one tile */
            test_arena[4051u + 2u * (block - first)] = (uint8_t)(sum >> 8);
        }
    }
    for (uint32_t i = 2u * first; call % 3u == 0 && i < 2u * last; i++)
        test_arena[2004u + i] = (uint8_t)~test_arena[4050u + i - 2u * first];
    return call < 9u;
}
"""

TILED_DEVICE_C = (
    DEVICE_C.replace('{"sums", 0, 40}, {"inverted", 0, 40}', '{"sums", 4050, 40}, {"inverted", 2004, 40}')
    .replace('{{"inverted", 0, 40}', '{{"inverted", 2004, 40}')
    .replace(
        """    piece->step = ((const test_state *)state)->next;
    piece->data = test_arena + steps[piece->step].offset;
    piece->bytes = steps[piece->step].bytes;
""",
        """    const uint32_t call = ((const test_state *)state)->next, row = call == 0 ? 0 : (call - 1u) / 3u * 8u;
    const uint32_t bytes = 2u * (row + 8u < 20u ? 8u : 20u - row);
    if (call == 0)
        *piece = (pf_piece){0, test_arena + 2048, 2000};
    else if (call % 3u == 1u)
        *piece = (pf_piece){0, test_arena + 2048, 0}; /* again */
    else if (call % 3u == 2u)
        *piece = (pf_piece){1, test_arena + 4050, bytes};
    else
        *piece = (pf_piece){2, test_arena + 2004u + 2u * row, bytes};
""",
    )
)


def weights() -> bytes:
    """The model's table: 256 bytes, a permutation."""
    return bytes((i * 167 + 13) % 256 for i in range(256))


def write_model(
    folder: Path,
    *,
    extra_c: str = "",
    extra_weights: str = "",
    device_c: str = DEVICE_C,
    model_c: str = MODEL_C,
) -> Path:
    """Write the model's files into `folder`, with C of the test's own added; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table = ", ".join(map(str, weights()))
    (folder / "model.h").write_text(MODEL_H)
    (folder / "model.c").write_text(model_c + extra_c)
    (folder / "weights.c").write_text(
        f'/* The table. */\n#include "model.h"\nconst uint8_t test_weights[256] = {{{table}}};\n{extra_weights}'
    )
    (folder / "model_device.c").write_text(device_c)
    model_sources = ["model.c", "weights.c", "model_device.c"]
    (folder / "sources.json").write_text(json.dumps({"model_sources": model_sources, "sources": []}))
    return folder


def expected_steps(pixels: bytes, scale: bytes) -> list[bytes]:
    """What each of the three steps leaves as its output."""
    table = weights()
    looked_up = bytes((table[value] + scale[i & 3]) % 256 for i, value in enumerate(pixels))
    sums = b"".join(sum(looked_up[i : i + 100]).to_bytes(2, "little") for i in range(0, len(looked_up), 100))
    return [looked_up, sums, bytes(255 - value for value in sums)]
