"""Where `export` writes: nothing that a person made or that it reads is lost, and a name says what the file is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import Workshop, open_workshop, refuses, succeeds


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("workshop"))


def words(shop: Workshop, *more: object) -> list[object]:
    return ["export", shop.model, "--calibration", shop.calibration, "--scheme", "int8", *more]


def test_a_package_is_replaced_as_long_as_nobody_has_worked_in_it(shop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "lib"
    again = words(shop, "--format", "c", "-o", out)
    succeeds(*again)
    succeeds(*again)
    own = out / "src" / "mine.c"
    own.write_text("int mine;\n")
    refuses(again, "src/mine.c, which no export wrote", "give a new folder")
    assert own.read_text() == "int mine;\n"
    own.unlink()
    example = next((out / "examples").rglob("*.c"))
    example.write_text(example.read_text() + "/* changed */\n")
    refuses(again, example.name, "was changed since it was exported")
    assert example.read_text().endswith("/* changed */\n")


def test_a_card_alone_makes_no_folder_a_package(shop: Workshop, tmp_path: Path) -> None:
    for card in ({}, {"files": 3}, {"files": {}}):
        (tmp_path / "model_card.json").write_text(json.dumps(card))
        (tmp_path / "notes.txt").write_text("notes")
        refuses(words(shop, "--format", "c", "-o", tmp_path), "it would be lost")
        assert (tmp_path / "notes.txt").read_text() == "notes"


@pytest.mark.parametrize("name", [".", "../lib"])
def test_the_current_folder_is_not_replaced(
    name: str, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lib"
    succeeds(*words(shop, "--format", "c-arrays", "-o", out))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(out)
    refuses(words(shop, "--format", "c-arrays", "-o", name), "is the current folder")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_is_not_replaced(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    refuses(words(shop, "--format", "c", "-o", tmp_path / "link"), "is a link")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("form", "name", "says"),
    [
        ("onnx", "a.zip", "ends in .onnx"),
        ("onnx", "main.c", "ends in .onnx"),
        ("tflite", "a.onnx", "ends in .tflite"),
        ("c", "c.onnx", "C is a folder"),
        ("arduino", "mine.zip", "no export wrote"),
    ],
)
def test_a_name_says_what_the_file_is(form: str, name: str, says: str, shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    refuses(words(shop, "--format", form, "-o", tmp_path / name), says)
    assert (tmp_path / name).read_text() == "mine"


def test_what_is_read_is_not_written(shop: Workshop, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(Path(shop.model).read_bytes())
    refuses(["export", model, "--calibration", shop.calibration, "-o", model], "is read for this and would be lost")
    assert model.read_bytes() == Path(shop.model).read_bytes()


def test_a_runtime_that_is_missing_is_told_before_anything_is_written(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picoformer.backends.tflite import runtime

    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    out = tmp_path / "m.tflite"
    refuses(words(shop, "--format", "tflite", "--runtime", "tensorflow-reference", "-o", out), "picoformer[tensorflow]")
    assert not out.exists()


def test_a_spelling_of_what_is_not_there(shop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    refuses(words(shop, "--matmul-nbits", "-o", out), "without int4 weights")
    wide = ["export", shop.model, "--calibration", shop.calibration, "--scheme", "int8x16"]
    refuses([*wide, "--unsigned-activations", "-o", out], "activations of 16 bits")
    assert not out.exists()
    assert "session.qdqisint8allowed" in succeeds(*words(shop, "-o", out)).out
    assert "session.qdqisint8allowed" not in succeeds(*words(shop, "--unsigned-activations", "-o", out)).out


def test_a_core_that_a_package_is_not_for(shop: Workshop, tmp_path: Path) -> None:
    for form, target in (("esp-idf", "mps2-an386"), ("cmsis-pack", "esp32-s3")):
        done = words(shop, "--format", form, "--target", target, "-o", tmp_path / form)
        if form == "esp-idf":
            refuses(done, "is not for the core armv7e-m")
        else:
            succeeds(*done)  # plain C, which any core compiles
    page = succeeds(*words(shop, "--format", "c", "--target", "mps2-an386", "-o", tmp_path / "c"))
    assert page.code == 0 and "On this machine" not in (tmp_path / "c" / "README.md").read_text()
    refuses(words(shop, "--format", "c", "--classes", "names.txt", "-o", tmp_path / "d"), "no such file")


def test_calibration_is_never_lost(shop: Workshop, tmp_path: Path) -> None:
    samples = tmp_path / "samples.onnx"  # whatever it is called
    samples.write_bytes(Path(shop.calibration).read_bytes())
    refuses(
        ["export", shop.model, "--calibration", samples, "--scheme", "int8", "-o", samples],
        "is read for this and would be lost",
    )
    assert np.load(samples).files
