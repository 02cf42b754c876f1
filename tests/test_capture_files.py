"""What recordings go into, and what is refused before anything is recorded: one line, and the file as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_on_a_line import board_on_a_socket
from command_line import refuses, succeeds
from conftest import TinyFirmware
from picoformer.datasets import load_dataset
from picoformer.errors import DataError
from picoformer.stages.data import make_dataset
from recorded import SENSORS, firmware, synthetic


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the synthetic sensor's firmware for this machine, and a recording of it."""
    folder = tmp_path_factory.mktemp("recorded")
    firmware(folder, "host")
    words = ["--firmware", folder / "synthetic-host", "--label", "still", "--seconds", "1", "--window", "20"]
    succeeds("capture", "-o", folder / "good.npz", *words)
    succeeds("capture", "-o", folder / "good.csv", *words[:-2], "--csv")
    return folder


def _words(place: Path, out: Path, *more: str | Path) -> list[str | Path]:
    return ["capture", "--firmware", place / "synthetic-host", "-o", out, "--label", "walking", "--seconds", "1", *more]


def test_a_file_that_is_there_is_not_written_over(place: Path) -> None:
    before = (place / "good.npz").read_bytes()
    refuses(_words(place, place / "good.npz", "--window", "20"), "good.npz: is there already; --append")
    refuses(_words(place, place / "good.csv", "--csv"), "good.csv: is there already; --append")
    assert (place / "good.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--window", "30"], "has window 20, and this recording 30"),
        (["--window", "20", "--stride", "10"], "has stride 20, and this recording 10"),
        (["--window", "20", "--rate", "50"], "has rate 200 Hz, and this recording 50 Hz"),
        (["--window", "20", "--input", "frames"], "has input x, and this recording frames"),
    ],
)
def test_other_recordings_do_not_go_into_it(place: Path, more: list[str], said: str) -> None:
    before = (place / "good.npz").read_bytes()
    refuses(_words(place, place / "good.npz", "--append", *more), "good.npz", said, "give another name")
    assert (place / "good.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('{"az", "g", 1.0f / ONE_G', '{"az", "m/s^2", 1.0f / ONE_G', "az [g] x 0.000244140625, and this recording ax"),
        ('{"az", "g", 1.0f / ONE_G', '{"az", "g", 2.0f / ONE_G', "has channels ax [g]"),
        ('{"az", "g"', '{"down", "g"', "down [g]"),
        ("synthetic accelerometer", "another", "has sensor synthetic accelerometer, and this recording another"),
    ],
)  # fmt: skip
def test_other_sensors_do_not_go_into_it(place: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (SENSORS / "synthetic.c").read_text()
    assert old in text
    (tmp_path / "other.c").write_text(text.replace(old, new))
    firmware(tmp_path, "host", tmp_path / "other.c")
    words = ["capture", "--firmware", tmp_path / "other-host", "--label", "a", "--seconds", "1", "--append"]
    refuses([*words, "-o", place / "good.npz", "--window", "20"], "good.npz", said)
    if "another" not in said and "channels" not in said:
        refuses([*words, "-o", place / "good.csv", "--csv"], "good.csv: has the columns time [s], ax [g]")


def _spoiled(place: Path, to: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    arrays = dict(np.load(place / "good.npz"))
    about = json.loads(str(arrays["capture"]))
    change(arrays, about)
    if "capture" in arrays:
        arrays["capture"] = np.array(json.dumps(about))
    np.savez(to, **arrays)
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays, about: arrays.pop("capture"), "holds no recordings of `capture`"),
        (lambda arrays, about: arrays.pop("label_names"), "holds no recordings of `capture`"),
        (lambda arrays, about: about.pop("recordings"), "holds no recordings of `capture`"),
        (lambda arrays, about: about.update(recordings=3), "holds no recordings of `capture`"),
        (lambda arrays, about: arrays.update(x=arrays["x"][:-1]), "its array 'x' does not go with its labels"),
        (lambda arrays, about: arrays.update(x=arrays["x"][:, :5]), "is not as `capture` wrote it"),
        (lambda arrays, about: arrays.update(labels=arrays["labels"] + 1), "is not as `capture` wrote it"),
        (lambda arrays, about: about.update(channels=[1, 2]), "has channels [1, 2]"),
        (lambda arrays, about: about.update(channels=[{"scale": "a"}]), "has channels"),
        (lambda arrays, about: about.update(rate=[1, 0]), "has rate [1, 0]"),
    ],
)
def test_a_spoiled_file_is_not_added_to(
    place: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], said: str
) -> None:
    path = _spoiled(place, tmp_path / "spoiled.npz", change)
    refuses(_words(place, path, "--window", "20", "--append"), "spoiled.npz", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns nothing"),
        ("a,b\n1,2\n", "has the columns a, b"),
        ("time [s],ax [g],ay [g],az [g],label\n0,1,2,3\n", "has the columns"),
        ("time [s],ax [g],ay [g],az [g],label\nx,1,2,3,a\n", "is no CSV of `capture`"),
        ("time [s],ax [g],ay [g],az [g],label\n0,1,2,3,a\n0.01,1,2,3,a\n", "its readings are not 1/200 s apart"),
        ("time [s],ax [g],ay [g],az [g],label\n0,1,2,3,a\n0.0049,1,2,3,a\n", "its readings are not 1/200 s apart"),
        ("time [s],ax [g],ay [g],az [g],label\n0,1,2,3,a\nnan,1,2,3,a\n", "its readings are not 1/200 s apart"),
    ],
)
def test_a_csv_that_is_none_of_ours_is_not_added_to(place: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    refuses(_words(place, tmp_path / "a.csv", "--csv", "--append"), "a.csv", said)
    assert (tmp_path / "a.csv").read_text() == text
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe")
    refuses(_words(place, tmp_path / "a.csv", "--csv", "--append"), "a.csv: is no CSV of `capture`")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stride", "5"], "--stride says where windows begin; give --window as well"),
        (["--window", "4", "--stride", "5"], "--stride 5 leaves readings out between windows of 4"),
        (["--window", "300"], "--seconds 1 hold no window of 300; give 1.5 or more"),
        (["--seconds", "0"], "--seconds 0: give a number above 0"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--seconds", "1e9"], "too many readings; record in parts"),
        (["--rate", "0"], "--rate 0: give a number above 0"),
        (["--rate", "inf"], "--rate inf"),
        (["--rate", "201"], "cannot take 201 readings a second; the sensor's most are 200"),
        (["--label", ""], "--label ''"),
        (["--label", "a\nb"], "--label 'a\\nb'"),
        (["--setting", "3"], "the sensor 'synthetic accelerometer' has no setting 3"),
        (["--input", "labels"], "'labels' is no name of a model's input"),
        (["--csv"], "does not end in .csv"),
    ],
)
def test_options_that_say_nothing_are_refused(place: Path, tmp_path: Path, more: list[str], said: str) -> None:
    refuses(_words(place, tmp_path / "a.npz", *more), said)
    assert not list(tmp_path.iterdir())


def test_a_place_that_takes_no_file_is_refused_before_anything_is_recorded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("picoformer.capturing._record", lambda *words: pytest.fail("it was recorded"))
    refuses(_words(place, tmp_path / "file" / "a.npz"), "cannot be written", "give another place")


def test_no_board_and_boards_with_other_firmware(place: Path, tmp_path: Path, tiny_firmware: TinyFirmware) -> None:
    out = tmp_path / "a.npz"
    words = ["capture", "-o", out, "--label", "a"]
    refuses(words, "say where the sensor is: --port of a board, or --firmware")
    refuses([*words, "--port", "/dev/not-there"], "/dev/not-there cannot be opened")
    refuses([*words, "--firmware", tmp_path], "is no folder of `capture-firmware`")
    refuses([*words, "--port", "/dev/x", "--firmware", tmp_path], "--port is a board and --firmware", "keep one")
    refuses(_words(place, tmp_path / "a.txt"), "does not end in .npz; give such a name, or --csv")
    build, target = tiny_firmware("host")
    with board_on_a_socket(build.elf, target) as board:
        refuses([*words, "--port", board.port], "the device runs 'tiny', which records nothing; flash")
    assert not out.exists()


def test_what_is_no_sensor_is_not_built(tmp_path: Path, arm_tools: None) -> None:
    words = ["--target", "host", "-o", tmp_path / "out"]
    good = SENSORS / "synthetic.c"
    bad = tmp_path / "bad.c"
    bad.write_text('#include "picoformer/sensor.h"\nint x = ;\n')
    empty = tmp_path / "empty.c"
    empty.write_text("typedef int nothing;\n")
    refuses(["capture-firmware", tmp_path / "none.c", *words], "none.c: no such file")
    refuses(["capture-firmware", tmp_path / "x.toml", *words], "x.toml")
    refuses(["capture-firmware", bad, *words], "failed on bad.c", "bad.c:2")
    refuses(["capture-firmware", empty, *words], "pf_sensor_here")
    refuses(
        ["capture-firmware", good, "--target", "esp32-s3", "-o", tmp_path / "out"], "esp32-s3 is started by ESP-IDF"
    )
    refuses(["capture-firmware", good, "--target", "host", "-o", tmp_path], "holds other files")
    assert not (tmp_path / "out").exists()


def test_a_sensor_takes_the_headers_beside_it(tmp_path: Path) -> None:
    text = (SENSORS / "synthetic.c").read_text()
    (tmp_path / "gravity.h").write_text("#define ONE_G 4096\n")
    (tmp_path / "mine.c").write_text(text.replace("#define ONE_G 4096", '#include "gravity.h"'))
    succeeds("capture-firmware", tmp_path / "mine.c", "--target", "host", "-o", tmp_path / "out")
    words = ["capture", "--firmware", tmp_path / "out", "-o", tmp_path / "a.npz", "--label", "a", "--seconds", "0.1"]
    succeeds(*words)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x"], synthetic(0, 20))
    succeeds("capture-firmware", tmp_path / "mine.c", "--target", "host", "-o", tmp_path / "out")  # again, in its place


def test_labelled_samples_of_ones_own_are_a_data_set(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    x = np.arange(70, dtype=np.float64)[:, None] * np.ones((1, 3))
    np.savez(tmp_path / "own.npz", signal=x, labels=labels)
    record = succeeds("dataset", tmp_path / "own.npz", "-o", tmp_path / "set.npz", "--json").record
    assert record == {"train": 56, "test": 14, "classes": 3}
    data = load_dataset(tmp_path / "set.npz")
    assert np.bincount(data.y_test).tolist() == [2, 4, 8] and data.label_names == ()
    both = np.concatenate([data.x_train, data.x_test])[:, 0].astype(int)
    np.testing.assert_array_equal(np.concatenate([data.y_train, data.y_test]), labels[both])
    assert sorted(both) == list(range(70)) and data.x_test[0, 0] != 0
    for arrays, said in (
        ({"labels": labels}, "holds nothing beside its labels"),
        ({"a": x, "b": x, "labels": labels}, "holds 'a', 'b' beside its labels"),
        ({"a": x[:9], "labels": labels}, "'a' is float64[9, 3], for 70 labels"),
        ({"a": x[:, 0], "labels": labels}, "give float32 or int64"),
        ({"a": x[:1], "labels": labels[:1]}, "1 samples leave none to train with"),
        ({"a": x, "labels": labels / 2}, "one integer a sample"),
        ({"a": x, "labels": labels, "capture": np.array("{}")}, "makes no sense; record again"),
        ({"a": x, "labels": labels, "capture": _about(10)}, "not those of its 70 samples"),
        ({"a": x, "other": labels}, "array 'x_train' is missing"),
    ):
        np.savez(tmp_path / "own.npz", **arrays)
        with pytest.raises(DataError, match=r"own\.npz") as caught:
            make_dataset(str(tmp_path / "own.npz"), tmp_path / "set.npz")
        assert said in str(caught.value)


def _about(samples: int) -> np.ndarray:
    return np.array(json.dumps({"window": 4, "stride": 2, "recordings": [{"first": 0, "samples": samples}]}))
