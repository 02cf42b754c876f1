"""`picoformer capture`: what is in the file is what the sensor gave, reading by reading, on every port."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from board_on_a_line import board_on_a_socket, board_on_a_terminal
from command_line import Workshop, open_workshop, picoformer, refuses, succeeds
from conftest import require_tools
from picoformer.capture_screen import CaptureScreen, live_line
from picoformer.capturing import CaptureOptions, capture_files
from picoformer.datasets import load_dataset
from picoformer.link.capture import CaptureMessage, Channel, Readings, SensorDescription, Statistics
from picoformer.link.frames import decode_frame
from picoformer.recording import Recording
from picoformer.stages.data import make_dataset
from picoformer.targets import load_target
from recorded import RATE, SENSORS, firmware, recorder, synthetic, windows_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorders")


@pytest.fixture(scope="module")
def host(made: Path) -> Path:
    """A folder of `capture-firmware` for this machine."""
    firmware(made, "host")
    return made / "synthetic-host"


@pytest.mark.parametrize("target", ["host", "mps2-an386", "microbit", "riscv32-virt"])
def test_every_reading_is_the_sensors(target: str, made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    require_tools(target, request)
    options = CaptureOptions("walking", seconds=2, window=64, stride=32, setting=1)
    with recorder(firmware(made, target), target) as device:
        figures = capture_files(device, tmp_path / "a.npz", options)
        again = capture_files(device, tmp_path / "b.npz", CaptureOptions("raw", seconds=0.5))
    wanted = windows_of(synthetic(1, 2 * RATE), 64, 32)
    found = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["x"], wanted)
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["labels"], np.zeros(len(wanted)))
    assert found["label_names"].tolist() == ["walking"]
    about = json.loads(str(found["capture"]))
    assert about["rate"] == [RATE, 1] and about["paced"] == (target == "microbit")
    assert [(c["name"], c["unit"], c["scale"]) for c in about["channels"]] == [
        (n, "g", 1 / 4096) for n in ("ax", "ay", "az")
    ]
    assert figures["paced"] == (target == "microbit")
    keys = ("readings", "lost", "lost_by_the_board", "breaks", "samples", "dropped_windows", "stopped")
    assert [figures[key] for key in keys] == [400, 0, 0, 0, len(wanted), 0, False]
    assert again["samples"] == 100
    np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["x"], synthetic(0, 100))


def test_through_a_port_label_after_label_into_one_file(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.npz"
    with board_on_a_terminal(firmware(made, "host").elf, load_target("host")) as board:
        words = ["capture", "--port", board.port, "-o", out, "--seconds", "1", "--window", "50", "--stride", "25"]
        first = succeeds(*words, "--label", "still").out
        for name, setting in (("walking", 1), ("still", 0)):
            record = succeeds(*words, "--label", name, "--setting", str(setting), "--append", "--json").record
    assert "still: 200 readings of synthetic accelerometer, 200 Hz" in first and "holds still 7" in first
    assert record["labels"] == {"still": 14, "walking": 7}
    found, (still, walking) = np.load(out), (windows_of(synthetic(n, 200), 50, 25) for n in (0, 1))
    np.testing.assert_array_equal(found["x"], np.concatenate([still, walking, still]))
    assert found["labels"].tolist() == [0] * 7 + [1] * 7 + [0] * 7
    assert found["label_names"].tolist() == ["still", "walking"]


def test_as_csv(host: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.csv"
    words = ["capture", "--firmware", host, "-o", out, "--csv", "--seconds", "0.5"]
    succeeds(*words, "--label", "still")
    succeeds(*words, "--label", "a, b", "--setting", "2", "--append")
    lines = out.read_text().splitlines()
    assert lines[0] == "time [s],ax [g],ay [g],az [g],label" and len(lines) == 201
    assert lines[3].split(",")[0] == "0.01" and lines[101].startswith("0,")
    values = np.array([[float(cell) for cell in line.split(",")[1:4]] for line in lines[1:]], np.float32)
    np.testing.assert_array_equal(values, np.concatenate([synthetic(0, 100), synthetic(2, 100)]))
    assert lines[1].endswith(",still") and lines[101].endswith(',"a, b"')


def test_an_interrupt_keeps_whole_windows(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CaptureScreen.watch

    def interrupted(self: CaptureScreen, recording: Recording, seconds: float) -> None:
        watch(self, recording, seconds)
        if recording.places >= 130:
            raise KeyboardInterrupt

    monkeypatch.setattr(CaptureScreen, "watch", interrupted)
    out = tmp_path / "a.npz"
    words = ["capture", "--firmware", host, "-o", out, "--label", "still", "--seconds", "3600", "--window", "50"]
    answer = picoformer(*words, "--json")
    assert answer.code == 130 and answer.record["stopped"] and answer.record["places"] == 140
    np.testing.assert_array_equal(np.load(out)["x"], windows_of(synthetic(0, 140), 50, 50))


def test_a_board_goes_on_recording_after_an_interrupt(made: Path, tmp_path: Path) -> None:
    def stop(recording: Recording, seconds: float) -> None:
        if recording.places >= 100:
            raise KeyboardInterrupt

    with recorder(firmware(made, "host"), "host") as device:
        capture_files(device, tmp_path / "a.npz", CaptureOptions("a", seconds=1e5), watch=stop)
        figures = capture_files(device, tmp_path / "b.npz", CaptureOptions("b", seconds=1))
    assert figures["readings"] == 200
    np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["x"], synthetic(0, 200))


def test_a_board_reset_in_the_middle_leaves_a_break(made: Path, tmp_path: Path) -> None:
    whole, rest = 0, b""

    def reset_after(data: bytes) -> bytes:
        """Three frames of readings get through; then the button, and what had come behind them is lost."""
        nonlocal whole, rest
        *lines, rest = (rest + data).split(b"\0")
        passed = b""
        for line in lines:
            passed += line + b"\0"
            body = decode_frame(line) if line else None
            whole += body is not None and body[1] == CaptureMessage.START_RECORDING | 0x80 and body[3] == 1
            if whole == 3:
                whole, rest = 4, b""
                board.reset()
                break
        return passed

    build = firmware(made, "host")
    with board_on_a_socket(build.elf, load_target("host")) as board:
        board.to_host = reset_after
        words = ["--port", board.port, "--label", "still", "--seconds", "30", "--window", "10", "--stride", "5"]
        record = succeeds("capture", "-o", tmp_path / "a.npz", *words, "--json").record
    assert record["breaks"] == 1 and record["readings"] + record["lost"] == 6000
    x, kept = np.load(tmp_path / "a.npz")["x"], synthetic(0, 6000)
    allowed = {
        window.tobytes() for window in np.lib.stride_tricks.sliding_window_view(kept, 10, axis=0).transpose(0, 2, 1)
    }
    assert len(x) > 1000 and all(window.tobytes() in allowed for window in x), "no window has readings of both"


def test_the_file_trains_calibrates_and_is_judged(made: Path, tmp_path: Path) -> None:
    """Five channels and six readings, as the small model of other tests has them."""
    shop: Workshop = open_workshop(tmp_path)
    sensor = tmp_path / "five.c"
    sensor.write_text(_float_sensor(channels=5))
    data = tmp_path / "data.npz"
    with recorder(firmware(tmp_path, "host", sensor), "host") as device:
        for label, setting in (("a", 0), ("b", 1), ("c", 2)):
            options = CaptureOptions(label, seconds=3, window=6, stride=2, setting=setting, append=True)
            capture_files(device, data, options)
    out = tmp_path / "out"
    succeeds("build", shop.model, "--calibration", data, "--target", "host", "-o", out)
    succeeds("verify", out, "--inputs", data, "--samples", "4")
    text = succeeds("evaluate", out, "--data", data, "--samples", "200").out
    rows = [line.split() for line in text.splitlines() if line]
    assert ["class", "labels", "recall", "precision"] in rows and [row[0] for row in rows[-3:]] == ["a", "b", "c"]
    sizes = make_dataset(str(data), tmp_path / "set.npz", test_fraction=0.25)
    made_of, file = load_dataset(tmp_path / "set.npz"), np.load(data)
    assert made_of.classes == sizes["classes"] == 3 and made_of.label_names == ("a", "b", "c")
    count = len(file["x"]) // 3
    held = round(0.25 * count)
    wanted = [file["x"][n * count : (n + 1) * count] for n in range(3)]
    np.testing.assert_array_equal(made_of.x_test, np.concatenate([part[count - held :] for part in wanted]))
    np.testing.assert_array_equal(made_of.x_train, np.concatenate([part[: count - held - 2] for part in wanted]))
    seen, kept_back = (set(x[..., 0].ravel().tolist()) for x in (made_of.x_train, made_of.x_test))
    assert not seen & kept_back, "a reading is in both parts"
    text = succeeds("evaluate", out, "--data", tmp_path / "set.npz").out
    assert f"{3 * held} samples" in text and ["b", str(held)] in [line.split()[:2] for line in text.splitlines()]


def test_settings_types_and_many_channels(tmp_path: Path) -> None:
    sensor = tmp_path / "many.c"
    sensor.write_text(_float_sensor(channels=64))
    with recorder(firmware(tmp_path, "host", sensor), "host") as device:
        described = device.describe(2)
        assert len(described.channels) == 64 and described.channels[63].name == "channel 63, of a long name"
        assert described.dtype == np.dtype("<f4") and described.rate == Fraction(500, 3)
        figures = capture_files(device, tmp_path / "a.npz", CaptureOptions("a", seconds=0.3, setting=2))
    x = np.load(tmp_path / "a.npz")["x"]
    assert figures["readings"] == 50 and x.shape == (50, 64)
    readings, channels = np.arange(50)[:, None], np.arange(64)
    raw = (10000 * 2 + readings + channels / 64).astype(np.float32)
    np.testing.assert_array_equal(x, (raw.astype(np.float64) * 0.5 + channels).astype(np.float32))


def test_readings_that_a_sensor_does_not_have_are_gaps(tmp_path: Path) -> None:
    sensor = tmp_path / "gaps.c"
    text = _float_sensor(channels=2)
    sensor.write_text(text.replace("/* fail */", "if (count % 10 == 7) { count++; return 1; }").replace(
        "/* spoil */", "if (count % 25 == 4) values[1] = zero / zero;"))  # fmt: skip
    with recorder(firmware(tmp_path, "host", sensor), "host") as device:
        figures = capture_files(device, tmp_path / "a.npz", CaptureOptions("a", seconds=3, window=3))
    missing = [n % 10 == 7 or n % 25 == 4 for n in range(500)]
    kept = [n for n in range(0, 498, 3) if not any(missing[n : n + 3])]
    x = np.load(tmp_path / "a.npz")["x"]
    assert (2 * (x[:, :, 0])).tolist() == [[float(n), n + 1.0, n + 2.0] for n in kept]
    assert figures["lost"] == figures["lost_by_the_sensor"] == sum(missing)
    assert figures["dropped_windows"] == 166 - len(kept)


def test_a_sensor_that_does_not_answer(tmp_path: Path) -> None:
    sensor = tmp_path / "dead.c"
    sensor.write_text(_float_sensor(channels=1).replace("return 0; /* init */", "return 1;"))
    firmware(tmp_path, "host", sensor)
    words = ["capture", "--firmware", tmp_path / "dead-host", "-o", tmp_path / "a.npz", "--label", "a"]
    refuses(words, "the sensor 'five' does not answer; check its wiring")
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    ("sensor", "target"),
    [("stm32f4_temperature", "stm32f446-nucleo"), ("stm32f4_temperature", "stm32f411-nucleo"),
     ("synthetic", "arduino-nano-33-ble"), ("synthetic", "stm32h743-nucleo"), ("synthetic", "mps3-an547")],
)  # fmt: skip
def test_firmware_for_boards_compiles(sensor: str, target: str, tmp_path: Path, arm_tools: None) -> None:
    words = ["capture-firmware", SENSORS / f"{sensor}.c", "--target", target, "-o", tmp_path / "out", "--json"]
    record = succeeds(*words).record
    assert 4000 < record["flash_bytes"] < 12_000 and 2000 < record["ram_bytes"] < 20_000
    assert Path(record["elf"]).is_file()
    firmware(tmp_path, target, SENSORS / f"{sensor}.c")  # without a warning


def test_the_live_line() -> None:
    channels = (Channel("ax", "g", 0.1, 0.0), Channel("t", "degC", 1.0, 20.0))
    sensor = SensorDescription("s", np.dtype("<i2"), channels, Fraction(10), True, 5)
    recording = Recording(sensor, 1000)
    recording.add(Readings(0, np.array([[1, -4], [3, 8]], "<i2")))
    recording.add(Readings(4, np.array([[-7, 0]], "<i2")))
    line = live_line("walking", recording, 0.5)
    assert line == "walking: 5 of 1,000  6.0 Hz  lost 2  ax -0.7…0.3  t 16…28"
    recording.end(Statistics(7, 1, 1, 0))
    assert (recording.lost, recording.overruns, recording.failures) == (4, 1, 1)


def _float_sensor(channels: int) -> str:
    names = ", ".join(f'{{"channel {n}, of a long name", "m/s^2", 0.5f, {n}.0f}}' for n in range(channels))
    return f"""/* Floats that say where they are from: setting, number, channel. */
#include <stddef.h>
#include "picoformer/sensor.h"
static const pf_channel channels[] = {{{names}}};
static const pf_sensor_description description = {{"five", PF_SAMPLE_FLOAT32, {channels}, channels, 500, 3}};
static uint32_t chosen, count;
static volatile float zero;
static const pf_sensor_description *describe(uint32_t setting) {{ return setting < 3u ? &description : NULL; }}
static int init(uint32_t setting) {{
    chosen = setting;
    count = 0;
    (void)zero;
    return 0; /* init */
}}
static int read(void *reading) {{
    float *const values = reading;
    /* fail */
    for (uint32_t i = 0; i < {channels}u; i++) values[i] = (float)(10000u * chosen + count) + (float)i / 64.0f;
    /* spoil */
    count++;
    return 0;
}}
const pf_sensor pf_sensor_here = {{describe, init, read}};
"""
