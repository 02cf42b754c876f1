"""firmware/text under the address and undefined-behaviour sanitizers, with settings at the ends of their ranges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from c_library import FLAGS
from generation_library import TEXT

_FUZZ = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "picoformer/generate.h"
static uint64_t random_state = 7;
static uint32_t any(uint32_t limit) {
    const uint32_t word = pf_random_word(&random_state);
    return limit == 0 ? word : word % limit;
}
static uint64_t sum;
static void *exactly(int32_t bytes) { void *p = malloc((size_t)bytes); if (p == NULL) { abort(); } return p; }
static void check(int is_right, const char *what) { if (!is_right) { puts(what); exit(1); } }

static pf_logits logits_of(int32_t count, int32_t is_float) {
    const pf_logits l = {exactly(count * (is_float ? 4 : 2)), count, is_float};
    const uint32_t kind = any(4);
    for (int32_t i = 0; i < count; i++) {
        const uint32_t end = any(2) != 0 ? 0x7FFF7FFFu : 0x80008000u, few = any(3) * 0x01010101u;
        const uint32_t word = kind == 0 ? any(0) : kind == 1 ? end : few;
        const float tame = (float)(int32_t)any(0) / 4e8f;
        const int32_t size = is_float ? 4 : 2;
        const void *from = is_float && kind == 3 ? (const void *)&tame : &word;
        memcpy((uint8_t *)(uintptr_t)l.values + size * i, from, (size_t)size);
    }
    return l;
}
static pf_exponent exponent_of(void) {
    pf_exponent e = {0x40000000u + any(0x40000000u), 1 + (int32_t)any(62), 0};
    uint64_t reach;
    for (reach = 0x80000000u; reach > 0; reach /= 2)
        if (((reach * e.multiplier + ((uint64_t)1 << (e.shift - 1))) >> e.shift) >> 22 == 0) break;
    e.reach = (uint32_t)reach;
    return e;
}
static void sample(void) {
    const int32_t vocabulary = 1 + (int32_t)any(any(2) != 0 ? 3 : 300), is_float = (int32_t)any(2);
    const uint32_t m = 0x40000000u + any(0x40000000u);
    const pf_sampler_settings p = {exponent_of(), any(2) != 0 ? m : 0x7FFFFFFFu, 1 + (int32_t)any(62), m,
        1 + (int32_t)any(62), (int32_t)any(2), (int32_t)(any(2) * any(320)),
        any(2) != 0 ? 0x80000000u : 1u + any(0x80000000u),
        any(2) != 0 ? 0x80000000u : any(0), any(8) == 0, is_float, any(0)};
    if (p.near > 0x80000000u) return;
    const int32_t bytes = pf_sampler_scratch(&p, vocabulary);
    check(bytes >= 0 && bytes <= PF_SAMPLER_SCRATCH(vocabulary), "scratch");
    void *scratch = exactly(bytes);
    pf_sampler s;
    check(pf_sampler_init(&s, &p, vocabulary, scratch, bytes) == 0, "init");
    for (int32_t i = 0; i < 4; i++) {
        pf_logits l = logits_of(vocabulary, is_float);
        const int32_t token = pf_sample(&s, &l);
        check(token >= 0 && token < vocabulary && pf_sampler_accept(&s, token) == 0, "token");
        sum = sum * 31 + (uint64_t)token;
        free((void *)(uintptr_t)l.values);
    }
    free(scratch);
}

static pf_logits now;
static int32_t vocabulary_now, float_now;
static int decode(void *model, int32_t slot, const int32_t *tokens, int32_t count, int32_t position) {
    (void)model; (void)slot; (void)position;
    for (int32_t i = 0; i < count; i++) sum += (uint64_t)tokens[i];
    free((void *)(uintptr_t)now.values);
    now = logits_of(vocabulary_now, float_now);
    return 0;
}
static pf_logits logits_now(void *model) { (void)model; return now; }
static void copy(void *model, int32_t from, int32_t to) { (void)model; check(from != to, "copy"); }
static void beam(void) {
    const int32_t stops[2] = {(int32_t)any(4), (int32_t)any(4)};
    const int32_t beams = 1 + (int32_t)any(any(8) == 0 ? PF_MOST_BEAMS : 5), count = (int32_t)any(3);
    vocabulary_now = PF_BEAM_CANDIDATES(beams, count) + (int32_t)any(9);
    float_now = (int32_t)any(2);
    const pf_beam_settings p = {exponent_of(), 0x7FFFFFFFu - any(2) * any(0x40000000u), 1 + (int32_t)any(62),
        any(2) != 0 ? (int32_t)any(1 << 27) - (1 << 26) : any(2) != 0 ? 1 << 26 : -(1 << 26), beams, (int32_t)any(3),
        1 + (int32_t)any(9), stops, count, float_now};
    const pf_decoder d = {NULL, decode, logits_now, copy, beams, 16, vocabulary_now};
    const int32_t prompt[3] = {0, 1, 0}, bytes = PF_BEAM_SCRATCH(beams, p.max_tokens, count);
    void *scratch = exactly(bytes);
    pf_beam b;
    const int32_t found = pf_beam_search(&b, &p, &d, prompt, 1 + (int32_t)any(3), scratch, bytes);
    check(found == beams, "beams");
    for (int32_t i = 0; i < found; i++) {
        int32_t *text = exactly(4 * b.finished[i].length);
        pf_beam_text(&b, i, text);
        for (int32_t j = 0; j < b.finished[i].length; j++) check(text[j] >= 0 && text[j] < vocabulary_now, "text");
        sum = sum * 31 + (uint64_t)b.finished[i].score;
        free(text);
    }
    free(scratch);
}

static int take(void *user, const uint8_t *bytes, int32_t count) {
    (void)user;
    check(count > 0, "take");
    for (int32_t i = 0; i < count; i++) sum = sum * 31 + bytes[i];
    return 0;
}
static void stop(void) {
    const int32_t lengths[3] = {1 + (int32_t)any(5), 1 + (int32_t)any(5), 1 + (int32_t)any(5)}, count = (int32_t)any(4);
    int32_t total = 0, answer = 0;
    for (int32_t i = 0; i < count; i++) total += lengths[i];
    uint8_t *text = exactly(total + (total == 0));
    for (int32_t i = 0; i < total; i++) text[i] = (uint8_t)any(2);
    void *scratch = exactly(PF_STOPS_SCRATCH(total, count));
    pf_stops s;
    check(pf_stops_init(&s, text, lengths, count, scratch, PF_STOPS_SCRATCH(total, count)) == 0, "stops");
    for (int32_t i = 0; i < 8; i++) {
        const uint8_t bytes[3] = {(uint8_t)any(2), (uint8_t)any(2), (uint8_t)any(3)};
        pf_stops_feed(&s, bytes, (int32_t)any(4), take, NULL, &answer);
    }
    pf_stops_finish(&s, take, NULL);
    free(scratch);
    free(text);
}
int main(void) {
    for (int32_t i = 0; i < 6000; i++) { sample(); stop(); }
    for (int32_t i = 0; i < 1500; i++) beam();
    const int32_t longest[] = {1, 2, 65536};
    for (int32_t i = 0; i < 3; i++)
        for (int32_t penalty = -(1 << 26); penalty <= 1 << 26; penalty += 1 << 23)
            sum = sum * 31 + (uint64_t)pf_normalize(-((int64_t)1 << 46), longest[i], penalty);
    free((void *)(uintptr_t)now.values);
    printf("%016llx\n", (unsigned long long)sum);
    return 0;
}
"""


def output_of(folder: Path, name: str, *flags: str) -> str:
    source, program = folder / "fuzz.c", folder / name
    source.write_text(_FUZZ)
    own = [flag for flag in FLAGS if flag not in ("-Wconversion", "-Wpedantic")]
    command = ["gcc", "-g", *flags, *own, *map(str, TEXT), str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stderr == "", f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("optimize", ["-O1", "-O3"])
def test_nothing_is_out_of_bounds_or_undefined(tmp_path: Path, optimize: str) -> None:
    """Every buffer is as large as the macros say, from malloc; the result is that of the plain build."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert output_of(tmp_path, "checked", optimize, *flags) == output_of(tmp_path, "plain", "-O2")
