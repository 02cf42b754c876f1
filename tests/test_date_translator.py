"""The example of an encoder-decoder: its data, and its accuracy from float to integers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import succeeds

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "date_translator"
sys.path.insert(0, str(EXAMPLE))

import dates  # noqa: E402  # an example is no package

FEW_STEPS = "350"


def test_dates_are_spelled_in_characters_that_are_known() -> None:
    found = dates.pairs(400, 3)
    assert all(set(text) <= set(dates.CHARACTERS) and len(text) <= dates.LONGEST for text, _ in found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", iso) for _, iso in found)
    assert len({re.sub(r"[a-z]+", "a", re.sub(r"\d+", "0", text)) for text, _ in found}) > 10
    assert [dates.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 31)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "31st",
    ]  # fmt: skip


def test_no_day_that_is_judged_by_was_learned() -> None:
    learned, held_back = ({iso for _, iso in dates.pairs(3000, seed)} for seed in (0, 1))
    assert not learned & held_back and len(held_back) > 1000


@pytest.mark.slow
def test_integers_are_as_right_as_the_float_model(tmp_path: Path) -> None:
    """Trained for a minute: most held-back dates are right, and integers lose no more than half a point."""
    subprocess.run([sys.executable, EXAMPLE / "train.py", tmp_path / "dates", FEW_STEPS], check=True, timeout=900)
    held_back = tmp_path / "few.tsv"
    lines = (tmp_path / "dates" / "held_back.tsv").read_text("utf-8").splitlines(keepends=True)
    held_back.write_text("".join(lines[:400]), "utf-8")
    words = ("translate", tmp_path / "dates", "--pairs", held_back, "--tokens", "12", "--json")
    exact = succeeds(*words, "--scheme", "float32").record
    integers = succeeds(*words, "--calibration", tmp_path / "dates" / "pairs.tsv").record
    assert exact["exact_share"] > 0.7
    assert abs(exact["exact_share"] - integers["exact_share"]) <= 0.005
