"""The C of a recording with a clock and a line of the test's own: when readings are taken, what becomes of late."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

from c_host import FIRMWARE, STRICT, run
from picoformer.link.frames import FrameReader

CLOCK = 16_000_000
LOOP = 400  # cycles that one turn of the loop takes at most, reading the clock and a byte of the line aside
MACHINE = r"""
/* A machine whose clock goes on with what is done: reading it, sending a byte, reading the sensor. */
#include <stdio.h>
#include <stdlib.h>
#include "capture.h"
#include "picoformer/port.h"
static uint64_t clock_now, line_free, stop_at, byte_cycles, read_cycles, fail_each, calls;
static uint32_t channels, pattern, has_clock;
int pf_port_cycles(uint32_t *now) {
    clock_now += 20;
    *now = has_clock ? (uint32_t)clock_now : 0;
    return (int)has_clock;
}
void pf_port_count_cycles(int on) { (void)on; }
int pf_port_read(void) { return -1; }
int pf_port_received(void) { clock_now += 5; return stop_at != 0 && clock_now >= stop_at; }
void pf_port_write(uint8_t byte) {
    if (clock_now < line_free) clock_now = line_free; /* one byte waits while another goes */
    line_free = clock_now + byte_cycles;
    putchar(byte);
}
void pf_port_flush(void) {}
static int read_sensor(void *reading) {
    uint32_t *const to = reading;
    for (uint32_t i = 1; i < channels; i++) to[i] = pattern;
    to[0] = (uint32_t)clock_now;
    clock_now += read_cycles;
    return fail_each != 0 && ++calls % fail_each == 0;
}
const pf_sensor pf_sensor_here = {NULL, NULL, read_sensor};
int main(int count, char **words) {
    uint64_t values[16] = {0};
    for (int i = 1; i < count; i++) values[i] = strtoull(words[i], NULL, 10);
    clock_now = values[1];
    byte_cycles = values[6];
    read_cycles = values[7];
    stop_at = values[8];
    fail_each = values[9];
    channels = (uint32_t)values[10];
    pattern = (uint32_t)values[11];
    has_clock = (uint32_t)values[12];
    const pf_capture_plan plan = {NULL, 4u * channels, (uint32_t)values[4], (uint32_t)values[2], (uint32_t)values[3],
                                  (uint32_t)values[5]};
    pf_capture_statistics found;
    if (!pf_pace_can_keep(plan.rate_numerator, plan.rate_denominator)) return 1;
    pf_capture_record(&plan, 9, &found);
    fprintf(stderr, "%u %u %u %u\n", found.places, found.overruns, found.failures, found.longest_read);
    return 0;
}
"""


@dataclass(frozen=True)
class Outcome:
    """What a recording sent: place → words of its reading; and what it says of itself."""

    readings: dict[int, tuple[int, ...]]
    frames: list[int]
    places: int
    overruns: int
    failures: int
    longest_read: int


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    (folder / "machine.c").write_text(MACHINE)
    sources = [
        FIRMWARE / name for name in ("capture/record.c", "capture/pace.c", "protocol/crc32.c", "protocol/frame.c")
    ]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    includes = [f"-I{FIRMWARE / name}" for name in ("include", "capture")]
    run(
        "gcc",
        *STRICT,
        *checks,
        *includes,
        f"-DPF_CLOCK_HZ={CLOCK}u",
        folder / "machine.c",
        *sources,
        "-o",
        folder / "m",
    )
    return folder / "m"


def record(
    program: Path, rate: Fraction, places: int, *, start: int = 0, frame: int = 20, byte: int = 1389, read: int = 500,
    stop: int = 0, fail: int = 0, channels: int = 1, pattern: int = 0, clock: int = 1,
) -> Outcome:  # fmt: skip
    words = [start, rate.numerator, rate.denominator, frame, places, byte, read, stop, fail, channels, pattern, clock]
    done = subprocess.run([program, *map(str, words)], capture_output=True, timeout=60, check=True)
    reader = FrameReader()
    readings: dict[int, tuple[int, ...]] = {}
    frames = []
    for body in reader.feed(done.stdout):
        assert body[:4] == bytes([9, 0xB1, 0, 1])
        place, data = struct.unpack_from("<I", body, 4)[0], body[8:]
        rows = list(struct.iter_unpack(f"<{channels}I", data))
        assert 1 <= len(rows) <= frame
        for at, row in enumerate(rows, start=place):
            assert at not in readings
            readings[at] = row
        frames.append(len(rows))
    assert reader.broken == 0
    return Outcome(readings, frames, *map(int, done.stderr.split()))


def due(rate: Fraction, place: int) -> int:
    """When a place is due, in cycles from the first."""
    return int(place * CLOCK / rate)


def _check_times(found: Outcome, rate: Fraction, start: int, late: int) -> None:
    """Every reading was taken when its place was due, `late` cycles after it at most."""
    for place, (time, *_) in found.readings.items():
        delay = (time - start - due(rate, place)) % (1 << 32)
        assert delay <= late, (place, delay)


@pytest.mark.parametrize(
    "rate", [Fraction(200), Fraction(1000, 3), Fraction(441), Fraction(1, 2), Fraction(1500)], ids=str
)
@pytest.mark.parametrize("start", [0, (1 << 32) - 40_000_000])
def test_readings_are_on_time_while_frames_go_out(program: Path, rate: Fraction, start: int) -> None:
    """1389 cycles a byte are 115,200 baud; the counter's end lies in the middle."""
    places = min(1200, int(20 * rate))
    found = record(program, rate, places, start=start)
    assert list(found.readings) == list(range(places))
    assert (found.places, found.overruns, found.failures) == (places, 0, 0)
    _check_times(found, rate, start, LOOP + 1389)
    assert found.longest_read == 500 + 20 and max(found.frames) == min(20, places)


def test_a_line_that_is_too_slow_loses_places_and_says_so(program: Path) -> None:
    rate = Fraction(1000)
    found = record(program, rate, 3000, byte=CLOCK * 10 // 9600)
    assert found.places == 3000 and found.overruns == 3000 - len(found.readings) > 1000
    assert len(found.readings) > 500, "the line is used"
    _check_times(found, rate, 0, LOOP + CLOCK * 10 // 9600)


def test_a_sensor_that_takes_longer_than_a_period(program: Path) -> None:
    rate = Fraction(1000)
    found = record(program, rate, 1000, read=CLOCK // 1000 * 5 // 2)
    assert found.overruns == 1000 - len(found.readings) and 200 < len(found.readings) < 420
    _check_times(found, rate, 0, CLOCK // 1000 + LOOP)


def test_readings_that_fail_are_gaps(program: Path) -> None:
    found = record(program, Fraction(200), 700, fail=7)
    assert sorted(found.readings) == [place for place in range(700) if place % 7 != 6]
    assert (found.failures, found.overruns) == (100, 0)


def test_a_byte_from_the_host_ends_it_and_what_was_taken_goes_out(program: Path) -> None:
    found = record(program, Fraction(200), 0, stop=CLOCK * 3 // 2)
    assert found.places == len(found.readings) == 300 and list(found.readings) == list(range(300))


def test_without_a_clock_nothing_is_late(program: Path) -> None:
    found = record(program, Fraction(200), 500, clock=0, byte=CLOCK // 10)
    assert list(found.readings) == list(range(500)) and (found.overruns, found.longest_read) == (0, 0)


@pytest.mark.parametrize("channels", [1, 15, 16, 31, 32, 62, 63, 64])
@pytest.mark.parametrize("pattern", [0, 0x01010101, 0xFFFFFFFF, 0x00FF00FF])
def test_frames_are_stuffed_as_they_must_be(program: Path, channels: int, pattern: int) -> None:
    found = record(program, Fraction(40), 60, channels=channels, pattern=pattern, frame=1032 // (4 * channels), start=1)
    assert len(found.readings) == 60 and all(row[1:] == (pattern,) * (channels - 1) for row in found.readings.values())


@pytest.mark.parametrize("rate", [Fraction(CLOCK, 63), Fraction(CLOCK, (1 << 30) + 1)], ids=["fast", "slow"])
def test_rates_that_the_clock_cannot_keep(program: Path, rate: Fraction) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        record(program, rate, 10)
