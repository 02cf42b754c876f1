"""What a board says of itself, read out of a tree like a Raspberry Pi's; what it does not say is None."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import open_workshop, picoformer, refuses, succeeds
from picoformer.raspberry_pi.bench import spread, thread_counts
from picoformer.raspberry_pi.board import Board, peak_memory, read_board, read_temperature, read_throttled


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n\nHardware\t: BCM2835\n",
    "proc/meminfo": "MemTotal:        3884396 kB\nMemFree: 1 kB\n",
    "proc/self/status": "Name:\tpython\nVmHWM:\t   71234 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "40000\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "52582\n",
}


def test_a_raspberry_pi_says_what_it_is(tmp_path: Path) -> None:
    board = read_board(tree(tmp_path, PI), lambda: "throttled=0x50005\n")
    assert (board.model, board.cpu, board.governor) == ("Raspberry Pi 4 Model B Rev 1.4", "BCM2835", "ondemand")
    assert board.memory_bytes == 3884396 * 1024 and board.clock_mhz == 1500.0 and board.cores >= 1
    assert board.temperature_celsius == 52.582  # of the zone that is called after the processor
    assert board.throttled == (
        "under-voltage now", "throttled now", "under-voltage since it started", "throttled since it started"
    )  # fmt: skip
    assert peak_memory(tmp_path) == 71234 * 1024


def test_an_emulated_process_is_named(tmp_path: Path) -> None:
    """The kernel cuts the name after 15 characters."""
    assert read_board(tree(tmp_path, PI), lambda: None).emulator is None
    (tmp_path / "proc/self/status").write_text("Name:\tqemu-aarch64-st\nVmHWM:\t   71234 kB\n")
    assert read_board(tmp_path, lambda: None).emulator == "qemu-aarch64-st"


def test_a_machine_that_says_nothing_is_not_made_up(tmp_path: Path) -> None:
    board = read_board(tmp_path, lambda: None)
    assert board == Board(None, None, board.machine, board.cores, None, None, None, None, None)
    broken = tree(tmp_path, {
        "sys/class/thermal/thermal_zone0/temp": "hot", "proc/meminfo": "MemTotal: lots",
        "sys/class/thermal/thermal_zone1/temp": "999999999",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>",
    })  # fmt: skip
    board = read_board(broken, lambda: "error=1")
    assert (board.temperature_celsius, board.memory_bytes, board.clock_mhz, board.throttled) == (None,) * 4
    assert read_temperature(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [("throttled=0x0", ()), ("throttled=0x20000\n", ("clock capped since it started",)), ("", None), (None, None),
     ("throttled=0xzz", None), ("throttled=0x" + "f" * 40, None)],
)  # fmt: skip
def test_throttling_is_read_bit_by_bit(answer: str | None, meaning: tuple[str, ...] | None) -> None:
    assert read_throttled(answer) == meaning


def test_percentiles_are_those_of_the_runs() -> None:
    seconds = np.arange(1, 101) / 1e3
    found = spread(list(seconds))
    assert (found["min"], found["max"]) == (1.0, 100.0)
    assert found["p50"] == pytest.approx(50.5) and found["p90"] == pytest.approx(90.1)
    assert thread_counts(1) == (1,) and thread_counts(4) == (1, 2, 4) and thread_counts(6) == (1, 2, 4, 6)


def test_bench_measures_runs_with_several_numbers_of_threads(tmp_path: Path) -> None:
    shop, out = open_workshop(tmp_path), tmp_path / "bundle"
    succeeds("pi", "package", shop.model, "-o", out)
    record = succeeds("pi", "bench", out, "--runs", "7", "--warm-up", "2", "--threads", "1,2", "--json").record
    assert [(one["threads"], one["runs"]) for one in record["threads"]] == [(1, 7), (2, 7)]
    one = record["threads"][0]
    assert 0 < one["milliseconds"]["min"] <= one["milliseconds"]["p99"] and one["prompt_tokens_per_second"] is None
    assert one["peak_memory_bytes"] > 1 << 20 and one["load_seconds"] > 0 and one["first_milliseconds"] > 0
    assert set(record["board"]) == set(vars(read_board())) and record["scheme"] == "float32"
    table = picoformer("pi", "bench", out, "--runs", "2", "--warm-up", "0", "--threads", "1").out
    assert "a run, after 0 that do not count" in table and "not known" in table
    refuses(["pi", "bench", out, "--threads", "0,2"], "write numbers from 1 to 1024")
    refuses(["pi", "bench", out, "--threads", "two"], "--threads two: write numbers from 1 to 1024")
