"""Lines in, lines out: what a pipe gives a bundle, broken lines included, and files of many samples."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from command_line import Workshop, open_workshop, refuses, succeeds
from pi_models import CLASSES, Bundles, open_bundles, scores_of
from picoformer.cli import main
from picoformer.raspberry_pi.lines import LONGEST_LINE, read_lines


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return open_bundles(tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("lines_shop"))


@pytest.fixture(scope="module")
def frames(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lines_frames") / "frames"
    succeeds("pi", "package", shop.model, "-o", out, "--task", "run")
    return out


def answers(bundle: Path, task: str, lines: bytes, *more: str) -> list[Any]:
    """What a command says to lines on standard input: one value a line."""
    result = CliRunner().invoke(main, ["pi", task, str(bundle), "--inputs", "-", *more], input=lines)
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


GOOD = b"what a good day"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "is empty"),
        (b"   \t", "is empty"),
        (b"good \xff\xfe day", "byte 5 is no UTF-8"),
        (b"\xc3", "byte 0 is no UTF-8"),
        (b"{ not json", "is no JSON"),
        (b'{"text": 5}', '"text" is no text'),
        (b'{"text": "a", "text": "b"}', "stands twice"),
        (b'{"words": "a"}', "'words' is none of the model's"),
        (b'{"inputs": {"input_ids": [[2, 4, 3]]}}', "'attention_mask' is missing"),
        (b'{"inputs": {"input_ids": [[2, 4], [3]], "attention_mask": [[1, 1]]}}', "'input_ids' is no array"),
        (b'{"inputs": {"input_ids": [[[[2]]]], "attention_mask": [[1]]}}', "'input_ids' has shape [1, 1, 1, 1]"),
        (b'{"inputs": {"input_ids": [[2.5]], "attention_mask": [[1]]}}', "'input_ids' is float64"),
        (b'{"inputs": {"input_ids": [[99]], "attention_mask": [[1]]}}', "the model fails on these inputs"),
        (b'{"inputs": {"input_ids": [[1, 2]], "attention_mask": [[1]]}}', "'attention_mask' has 1 along 'length'"),
        (b'{"inputs": {"input_ids": [[' + b"9" * 400 + b']], "attention_mask": [[1]]}}', "'input_ids'"),
        (b'{"inputs": {"input_ids": [[NaN]], "attention_mask": [[1]]}}', "NaN is no number"),
        (b'{"inputs": {"input_ids": [[1e999]], "attention_mask": [[1]]}}', "beyond what a number can be"),
        (b'{"inputs": {"input_ids": ' + b"[" * 9000 + b"]" * 9000 + b"}}", ""),
        (b'{"text": "a", "top": -1}', '"top"'),
        (b"\x00" * 3 + b"\n{", ""),
        (b"good " * (LONGEST_LINE // 4), f"longer than {LONGEST_LINE} bytes"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_a_line_that_is_wrong_gets_an_error_and_the_stream_goes_on(bundles: Bundles, line: bytes, said: str) -> None:
    found = answers(bundles.text_classifier(), "classify", GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    good = {"label", "index", "probability", "top"}
    assert set(found[0]) == good and found[-1] == found[0]
    wrong = [answer for answer in found[1:-1] if "error" in answer]
    assert wrong and said in wrong[-1]["error"] and "\n" not in wrong[-1]["error"]
    assert wrong[0]["line"] == 2 if said else wrong[0]["line"] in (2, 3)


def test_texts_and_json_are_answered_alike(bundles: Bundles) -> None:
    lines = [
        GOOD,
        b'{"text": "what a good day"}',
        b'"what a good day"',
        GOOD + b"\r",
        b'{"text": "what a good day", "top": 1}',
    ]
    found = answers(bundles.text_classifier(), "classify", b"\n".join(lines))  # the last line has no end
    assert found[0]["label"] == CLASSES[int(scores_of(GOOD.decode()).argmax())]
    assert found[1] == found[2] == found[3] == found[0] and len(found[0]["top"]) == 3 and len(found[4]["top"]) == 1


def test_numbers_come_under_their_name_or_alone(frames: Path, shop: Workshop, tmp_path: Path) -> None:
    x = np.load(shop.inputs)["x"][0]
    lines = [json.dumps(value).encode() for value in (
        {"inputs": {"x": x.tolist()}}, {"x": [x.tolist()]}, x.tolist(), x[:, :4].tolist(), "a text"
    )]  # fmt: skip
    found = answers(frames, "run", b"\n".join(lines) + b"\n")
    assert found[0] == found[1] == found[2] and set(found[0]["outputs"]) == {"y"}
    assert "'x' has shape [6, 4]; the model wants float32 [1, 6, 5]" in found[3]["error"]
    assert "takes no text" in found[4]["error"]
    np.savez(tmp_path / "x.npz", x=x[None])
    record = succeeds("pi", "run", frames, "--inputs", tmp_path / "x.npz", "--json").record
    np.testing.assert_allclose(record["results"][0]["y"], found[0]["outputs"]["y"], rtol=1e-5)


def test_an_answer_comes_before_the_next_question(bundles: Bundles) -> None:
    """As in a shell's pipe: nothing waits for a buffer to fill."""
    words = [sys.executable, "-m", "picoformer", "pi", "classify", str(bundles.text_classifier()), "--inputs", "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        assert running.stdin is not None and running.stdout is not None
        for text in (b"good\n", b"\xff\n", b"bad\n"):
            running.stdin.write(text)
            answer = json.loads(running.stdout.readline())
            assert ("error" in answer) == (text == b"\xff\n")
        running.stdin.close()
        assert running.wait(60) == 0


def test_no_more_than_a_line_is_held() -> None:
    class Endless(io.RawIOBase):
        """So many bytes without an end of line, then a line."""

        def __init__(self, count: int) -> None:
            self.left, self.most = count, 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None and 0 < size <= 64
            if self.left:
                taken = min(size, self.left)
                self.left -= taken
                return b"x" * taken + (b"\n" if not self.left and taken < size else b"")
            return b""

    stream: Any = Endless(64 * 100 + 7)
    assert list(read_lines(stream, 64)) == [None]
    lines = b"a" * 63 + b"\n" + b"b" * 64 + b"\n" + b"c\r\n\nd"
    assert list(read_lines(io.BytesIO(lines), 64)) == [b"a" * 63, None, b"c", b"", b"d"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "1,2,3\n", "line 1 has 3 numbers; input 'x' takes 30"),
        ("x.csv", ",".join("1" * 30) + "\n" + ",".join(["1"] * 29 + ["a"]) + "\n", "line 2 holds something"),
        ("x.txt", "a\n", "takes no text"),
        ("x.json", "{}", "'.json' is no kind of samples"),
        ("x.npz", "PK", "is not a readable .npz"),
    ],
)
def test_files_that_do_not_go_with_a_model_are_named(
    frames: Path, name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    refuses(["pi", "run", frames, "--inputs", tmp_path / name], said)


def test_arrays_that_do_not_go_with_a_model_are_named(frames: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for arrays, said in (
        ({"x": np.zeros((2, 6, 4), np.float32)}, "'x' has shape [6, 4]"),
        ({"y": np.zeros((2, 6, 5), np.float32)}, "'y' is none of the model's"),
        ({"x": np.full((1, 6, 5), np.nan)}, "NaN"),
        ({"x": np.full((1, 6, 5), 1e300)}, "more than float32 can be"),
        ({"x": np.zeros((2, 6, 5)), "z": np.zeros((3, 1))}, "differ in their number"),
        ({"x": np.float32(1)}, "samples along axis 0"),
        ({"x": np.array(["a"])}, "no numbers"),
    ):
        np.savez(path, **arrays)
        refuses(["pi", "run", frames, "--inputs", path], said)
    (tmp_path / "t.txt").write_bytes(b"good\n\n")
    refuses(["pi", "run", frames, "--inputs", tmp_path / "t.txt"], "line 2 is empty")
