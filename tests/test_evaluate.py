"""`picoformer evaluate`: accuracy on the device, equal to the reference's sample by sample, whatever the line does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_on_a_line import board_on_a_socket, board_on_a_terminal
from command_line import CLASSES, SAMPLES, Workshop, open_workshop, picoformer, refuses, samples, succeeds
from digits_student import trained
from picoformer import evaluation
from picoformer.build_folder import open_build
from picoformer.capturing import with_own_time
from picoformer.datasets import digits, save_dataset
from picoformer.emulator import session
from picoformer.evaluation import Evaluation, evaluate_files, percentiles
from picoformer.link.frames import FrameReader, encode_frame
from picoformer.link.messages import Message
from picoformer.metrics import IGNORED
from picoformer.ops.fixedpoint import dequantize
from picoformer.predictions import SampleRun
from picoformer.reference import lower_graph, run_integer
from picoformer.targets import load_target
from recorded import firmware
from test_cli import on_a_terminal

BOARD = "mps2-an386"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def digits_build(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> Path:
    """A build folder of the student for the emulated M4; the data set lies beside it."""
    place, student = tmp_path_factory.mktemp("digits"), trained()
    np.savez(place / "calibration.npz", **student.calibration)
    save_dataset(digits(0), place / "digits.npz")
    out = place / "out"
    succeeds("build", student.onnx, "--calibration", place / "calibration.npz", "--target", BOARD, "-o", out)
    return out


def reference_of(folder: Path, x: np.ndarray) -> np.ndarray:
    """Real logits by the integer reference, with nothing of evaluate's own."""
    graph = open_build(folder).graph
    name = graph.outputs[0]
    found = run_integer(lower_graph(graph), {graph.inputs[0]: x})[name]
    quant = graph.types[name].quant
    return found if quant is None else dequantize(found, quant)


def test_the_digits_on_the_emulated_core_are_the_references_to_the_sample(digits_build: Path, tmp_path: Path) -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    data, file = digits(0), digits_build.parent / "digits.npz"
    words = ("evaluate", digits_build, "--data", file, "--json")
    record = succeeds(*words, "-o", tmp_path / "device.npz").record
    host = succeeds(*words, "--host", "-o", tmp_path / "host.npz").record
    wanted = reference_of(digits_build, data.x_test[:, None]).reshape(len(data.y_test), -1)
    device, native = (np.load(tmp_path / f"{name}.npz") for name in ("device", "host"))
    for found in (device, native):
        np.testing.assert_array_equal(found["output.logits"].reshape(wanted.shape), wanted)
        np.testing.assert_array_equal(found["predictions"], wanted.argmax(-1))
        np.testing.assert_array_equal(found["labels"], data.y_test)
    guess = device["predictions"]
    assert record["accuracy"] == host["accuracy"] == float((guess == data.y_test).mean()) > 0.85
    assert record["reference"] == {
        "accuracy": record["accuracy"],
        "equal_samples": 359,
        "same_predictions": 359,
        "first_difference": None,
    }
    assert record["confusion"] == confusion_matrix(data.y_test, guess).tolist()
    precision, recall, _, support = precision_recall_fscore_support(data.y_test, guess)
    for row in record["per_class"]:
        index = row["class"]
        assert (row["samples"], row["name"]) == (support[index], None)
        assert (row["precision"], row["recall"]) == pytest.approx((precision[index], recall[index]))
    latency = record["latency"]
    counts = device["instructions"]
    assert latency["instructions"]["max"] == counts.max() >= latency["instructions"]["p99"] >= counts.min() > 100_000
    assert latency["device_cycles"] is None and latency["device_us"] is None, "an emulator knows no time"
    assert host["latency"]["instructions"] is None and host["stack_bytes"] is None
    assert 0 < record["stack_bytes"] < 4096 and (device["cycles"] == -1).all()


def test_what_is_printed_names_the_classes(shop: Workshop, tmp_path: Path) -> None:
    x, labels = samples(), np.arange(SAMPLES) % CLASSES
    np.savez(tmp_path / "x.npz", x=x, labels=labels, label_names=np.array(["still", "walking"]))
    guess = reference_of(shop.build("host"), x[:, None]).reshape(SAMPLES, -1).argmax(-1)
    out = succeeds("evaluate", shop.build("host"), "--data", tmp_path / "x.npz").out
    lines = [line.split() for line in out.splitlines()]
    assert ["accuracy", f"{(guess == labels).mean():.4f}"] in [line[:2] for line in lines]
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (labels, guess), 1)
    rows = [[str(count or ".") for count in row] for row in table.tolist()]
    for name, row in zip(("still", "walking", "2"), rows, strict=True):
        assert [name, *row] in lines
    assert "host round trip, ms, line included" in out and "instructions" not in out.split("device's own time")[0]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(v) for v in np.random.default_rng(0).permutation(1000)]
    assert percentiles(values) == {"p50": 499.0, "p90": 899.0, "p99": 989.0, "max": 999.0}
    assert percentiles([7]) == {"p50": 7, "p90": 7, "p99": 7, "max": 7} and percentiles([]) is None


def test_cycles_of_a_board_become_time_by_the_clock_that_it_states(shop: Workshop) -> None:
    found = evaluate_files(shop.build("host"), shop.inputs)
    runs = tuple(replace(run, cycles=1000 * (index + 1)) for index, run in enumerate(found.runs))
    latency = replace(found, runs=runs, clock_hz=16_000_000).to_json()["latency"]
    assert latency["device_us"] == {"p50": 187.5, "p90": 375.0, "p99": 375.0, "max": 375.0}
    assert latency["device_cycles"]["max"] == 6000
    assert replace(found, runs=runs, clock_hz=0).to_json()["latency"]["device_us"] is None


def _board_files(shop: Workshop, count: int, place: Path) -> tuple[Path, Path, Any]:
    folder = shop.build(BOARD)
    data = place / "data.npz"
    np.savez(data, x=samples(count, 5), labels=np.arange(count) % CLASSES)
    return folder, data, (folder / BOARD / "firmware.elf", load_target(BOARD))


def test_on_a_terminal_line_as_on_a_board(shop: Workshop, tmp_path: Path, arm_tools: None) -> None:
    folder, data, firmware = _board_files(shop, 5, tmp_path)
    with board_on_a_terminal(*firmware) as board:
        record = succeeds("evaluate", folder, "--data", data, "--port", board.port, "--json").record
    assert (record["device"], record["samples"], record["requests_sent_again"]) == (board.port, 5, 0)
    assert record["reference"]["equal_samples"] == 5 and record["emulator"] is None
    assert record["instructions_uncounted"] == "instructions are counted in an emulator only"


def test_a_board_that_counts_says_how_long_it_took(shop: Workshop, tmp_path: Path, arm_tools: None) -> None:
    """A Cortex-M0 with SysTick, at the 16 MHz that its target states."""
    folder, data, _ = _board_files(shop, 4, tmp_path)
    folder, out = shop.build("microbit"), tmp_path / "out.npz"
    target = with_own_time(load_target("microbit"))  # QEMU's SysTick misses a start where time is this machine's
    with board_on_a_socket(folder / "microbit" / "firmware.elf", target) as board:
        record = succeeds("evaluate", folder, "--data", data, "--port", board.port, "-o", out, "--json").record
    cycles, latency = np.load(out)["cycles"], record["latency"]
    assert len(cycles) == 4 and cycles.min() > 1000
    assert latency["device_cycles"]["max"] == cycles.max() and record["clock_hz"] == 16_000_000
    assert latency["device_us"] == {share: value / 16 for share, value in latency["device_cycles"].items()}
    assert latency["instructions"] is None and record["reference"]["equal_samples"] == 4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_REOPEN_SECONDS", 0.1)


def test_a_board_reset_in_the_middle_gets_its_sample_again(shop: Workshop, tmp_path: Path, arm_tools: None) -> None:
    folder, data, firmware = _board_files(shop, 6, tmp_path)
    with board_on_a_socket(*firmware) as board:
        board.before[Message.RUN, 2] = board.reset  # between input and run of sample 2
        found = evaluate_files(folder, data, board.port)
    assert found.equal.all() and len(found.runs) == 6
    assert board.requests.count(Message.RUN) == 6 + 1


def test_a_line_that_breaks_is_opened_again(shop: Workshop, tmp_path: Path, arm_tools: None, quick: None) -> None:
    folder, data, firmware = _board_files(shop, 6, tmp_path)
    with board_on_a_socket(*firmware) as board:
        board.before[Message.RUN, 3] = board.cut  # the run of sample 3 gets no answer
        record = succeeds("evaluate", folder, "--data", data, "--port", board.port, "--json").record
    assert record["reference"]["equal_samples"] == 6
    assert board.requests.count(Message.RUN) == 6 + 1


def test_a_line_that_breaks_at_every_try_is_given_up(
    shop: Workshop, tmp_path: Path, arm_tools: None, quick: None
) -> None:
    folder, data, firmware = _board_files(shop, 6, tmp_path)
    with board_on_a_socket(*firmware) as board:
        for number in range(2, 100):
            board.before[Message.WRITE_INPUT, number] = board.cut
        refuses(["evaluate", folder, "--data", data, "--port", board.port], "sample 2 of 6: ")
    assert board.requests.count(Message.WRITE_INPUT) == 2 + 4, "tried once and three times more"


def test_a_board_that_is_gone_leaves_what_was_done_to_go_on_from(
    shop: Workshop, tmp_path: Path, arm_tools: None, quick: None
) -> None:
    folder, data, firmware = _board_files(shop, 6, tmp_path)
    kept, words = tmp_path / "kept.npz", ("evaluate", folder, "--data", data)
    with board_on_a_socket(*firmware) as board:
        board.before[Message.WRITE_INPUT, 4] = board.leave
        line = refuses([*words, "--port", board.port, "-o", kept], "sample 4 of 6", "did not come back", str(kept))
    assert "--resume" in line
    assert len(np.load(kept)["predictions"]) == 4
    with board_on_a_socket(*firmware) as board:
        record = succeeds(*words, "--port", board.port, "--resume", kept, "--json").record
    assert board.requests.count(Message.RUN) == 2, "samples that are there are not made again"
    assert record["samples"] == record["reference"]["equal_samples"] == 6
    whole = tmp_path / "whole.npz"
    succeeds(*words, "--host", "-o", whole)
    for name in ("predictions", "output.y", "labels", "reference"):
        np.testing.assert_array_equal(np.load(kept)[name], np.load(whole)[name])


def test_an_output_that_is_not_the_references_is_found(shop: Workshop, tmp_path: Path, arm_tools: None) -> None:
    folder, data, firmware = _board_files(shop, 6, tmp_path)
    runs: list[bytes] = []
    reader = FrameReader()

    def flip(received: bytes) -> bytes:
        lines = []
        for body in reader.feed(received):
            if body[1] == Message.RUN | 0x80 and body[4] & 0x80:  # the last part of a run
                runs.append(body)
                if len(runs) == 4:
                    body = body[:-1] + bytes([body[-1] ^ 1])  # the last byte of the last output, with a good CRC
            lines.append(encode_frame(body))
        return b"".join(lines)

    with board_on_a_socket(*firmware) as board:
        board.to_host = flip
        answer = picoformer("evaluate", folder, "--data", data, "--port", board.port, "--json")
    assert answer.code == 1
    assert answer.record["reference"]["equal_samples"] == 5 and answer.record["reference"]["first_difference"] == 3
    assert answer.err.splitlines() == [
        "picoformer: 1 of 6 samples are not the integer reference's, the first is sample 3; "
        "`picoformer verify` names the step"
    ]


def test_no_board_and_another_models_board_say_so_at_once(shop: Workshop, digits_build: Path, tmp_path: Path) -> None:
    folder, data, _ = _board_files(shop, 2, tmp_path)
    words = ["evaluate", folder, "--data", data, "--port"]
    refuses([*words, "/dev/not-there"], "/dev/not-there cannot be opened", "`picoformer devices` lists")
    with board_on_a_socket(digits_build / BOARD / "firmware.elf", load_target(BOARD)) as board:
        refuses([*words, board.port], "the device runs another model (digits", "flash this build first")
    assert set(board.requests) == {Message.HELLO}, "nothing else is asked of it"
    recorder = firmware(tmp_path, "host")
    with board_on_a_socket(recorder.elf, load_target("host")) as board:
        refuses(
            [*words, board.port], "the device runs another model (synthetic accelerometer", "flash this build first"
        )


def test_what_cannot_be_judged_is_refused(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = shop.build("host"), tmp_path / "bad.npz"
    x, labels = samples(), np.arange(SAMPLES) % CLASSES

    def bad(*said: str, more: tuple[str, ...] = (), **arrays: Any) -> None:
        np.savez(file, **arrays)
        refuses(["evaluate", folder, "--data", file, *more], str(file), *said)

    bad("no array 'labels'", x=x)
    bad("5 labels for 6 samples", x=x, labels=labels[:5])
    bad("labels go from 0 to 3, the model has 3 classes", x=x, labels=labels + (np.arange(6) == 5))
    bad("shape [6, 7, 5]", x=np.ones((6, 7, 5), np.float32), labels=labels)
    bad("no array 'x'", y=x, labels=labels)
    bad("'x' holds NaN", x=np.full_like(x, np.nan), labels=labels)
    bad("one integer a sample", x=x, labels=labels / 2)
    bad("names 4 labels", x=x, labels=labels, label_names=np.array(["a", "b", "c", "d"]))
    bad("'label_names' is int64[3]", x=x, labels=labels, label_names=np.arange(3))
    bad("'a\\x1b[2J'", x=x, labels=labels, label_names=np.array(["a\x1b[2J", "b", "c"]))
    bad("has no array 'cycles'", more=("--resume", str(file)), x=x, labels=labels)
    file.write_text("x, y\n1, 2\n")
    refuses(["evaluate", folder, "--data", file], "is not a readable .npz")
    refuses(["evaluate", folder, "--data", tmp_path / "none.npz"], "no such file")
    refuses(["evaluate", tmp_path, "--data", shop.inputs], "is not a build folder")
    refuses(["evaluate", folder, "--data", shop.inputs, "--host", "--port", "/dev/x"], "keep one")
    before = shop.inputs.read_bytes()
    refuses(["evaluate", folder, "--data", shop.inputs, "-o", shop.inputs], "is read for this and would be lost")
    assert shop.inputs.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_reference", lambda *words: pytest.fail("it was measured"))
        refuses(["evaluate", folder, "--data", shop.inputs, "-o", file / "a.npz"], "cannot be written")


def test_predictions_of_others_are_not_gone_on_from(shop: Workshop, tmp_path: Path) -> None:
    kept, other = tmp_path / "kept.npz", tmp_path / "other.npz"
    succeeds("evaluate", shop.build("host"), "--data", shop.inputs, "-o", kept)
    np.savez(other, x=samples(seed=9), labels=np.arange(SAMPLES) % CLASSES)
    words = ["evaluate", shop.build("host"), "--resume", kept, "--data"]
    refuses([*words, other], str(kept), "predictions of 6 other samples")
    refuses([*words, shop.inputs, "--samples", "5"], "predictions of 6 other samples")
    wider = shop.build("host", "--scheme", "int8x16")
    refuses(["evaluate", wider, "--resume", kept, "--data", shop.inputs], str(kept), "predictions of another model")
    arrays = dict(np.load(kept))
    np.savez(kept, **{**arrays, "output.y": arrays["output.y"][:, :, :2]})
    refuses([*words, shop.inputs], "'output.y' is float32[6, 1, 2]")


def test_a_language_model_is_for_other_commands(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    build = open_build(shop.build("host"))
    with_states = replace(build, graph=build.graph.replace(states=(("keys", "keys_after"),)))
    monkeypatch.setattr(evaluation, "open_build", lambda folder: with_states)
    refuses(["evaluate", shop.build("host"), "--data", shop.inputs], "`perplexity`", "`verify`")


def test_rows_that_are_not_judged_count_nowhere(shop: Workshop) -> None:
    found: Evaluation = evaluate_files(shop.build("host"), shop.inputs)
    hidden = found.labels.values.copy()
    hidden[1] = IGNORED
    few = replace(found, labels=replace(found.labels, values=hidden))
    assert few.confusion is not None and found.confusion is not None
    assert few.confusion.sum() == SAMPLES - 1 == found.confusion.sum() - 1
    rows = few.to_json()["per_class"]
    assert [row["samples"] for row in rows] == [2, 1, 2]


def test_a_label_for_each_row(shop: Workshop, tmp_path: Path) -> None:
    labels = np.array([[0], [1], [IGNORED], [0], [1], [2]])
    np.savez(tmp_path / "rows.npz", x=samples(), labels=labels)
    record = succeeds("evaluate", shop.build("host"), "--data", tmp_path / "rows.npz", "--json").record
    guess = reference_of(shop.build("host"), samples()[:, None]).reshape(SAMPLES, -1).argmax(-1)
    judged = [index for index in range(SAMPLES) if index != 2]
    assert record["accuracy"] == float(np.mean([guess[index] == labels[index, 0] for index in judged]))
    assert np.sum(record["confusion"]) == 5 and record["reference"]["equal_samples"] == 6


def test_the_way_is_shown_on_a_terminal(shop: Workshop, tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", x=samples(400), labels=np.arange(400) % CLASSES)
    code, out, shown = on_a_terminal(["evaluate", shop.build("host"), "--data", tmp_path / "many.npz", "--json"])
    assert code == 0 and '"samples": 400' in out
    assert "evaluating on host" in shown and "accuracy 0." in shown
    firmware(tmp_path, "host")
    words = ["capture", "--firmware", tmp_path / "synthetic-host", "-o", tmp_path / "a.npz", "--label", "standing"]
    code, out, shown = on_a_terminal([*words, "--countdown", "1", "--seconds", "5"])
    assert code == 0 and out.startswith("standing: 1,000 readings")
    assert "standing: synthetic accelerometer in 1 …" in shown
    assert "1,000 of 1,000" in shown and "lost 0  ax -0" in shown


def test_an_interrupt_keeps_what_was_done(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SampleRun] = []
    one = evaluation._Stream._one

    def interrupted(self: Any, *words: Any) -> SampleRun:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(one(self, *words))
        return made[-1]

    monkeypatch.setattr(evaluation._Stream, "_one", interrupted)
    kept = tmp_path / "kept.npz"
    answer = picoformer("evaluate", shop.build("host"), "--data", shop.inputs, "-o", kept)
    assert answer.code == 130 and len(np.load(kept)["predictions"]) == 3
    shutil.rmtree(tmp_path)
