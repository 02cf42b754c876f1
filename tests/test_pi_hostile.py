"""Bundles from outside: whatever was done to one is refused in one line that names the file."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from command_line import refuses, succeeds
from pi_models import Bundles, description, open_bundles
from picoformer.errors import DataError, ModelError, PicoformerError
from picoformer.raspberry_pi import array_files, open_bundle, open_runner
from picoformer.raspberry_pi.array_files import read_arrays
from picoformer.raspberry_pi.checking import check
from picoformer.raspberry_pi.json_fields import parse_json


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return open_bundles(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    """A copy of the classifier of texts to do harm to."""
    return Path(shutil.copytree(bundles.text_classifier(), tmp_path / "bundle"))


def described(bundle: Path, change: Callable[[Any], None], again: bool = False) -> None:
    """Change bundle.json; with `again` as if the files that lie there were those that were packed."""
    parsed = description(bundle)
    change(parsed)
    if again:
        for name, record in parsed["files"].items():
            data = (bundle / name).read_bytes()
            record["bytes"], record["sha256"] = len(data), sha256(data).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(parsed))


def set_to(*path: str, value: Any) -> Callable[[Any], None]:
    def change(parsed: Any) -> None:
        for key in path[:-1]:
            parsed = parsed[key]
        parsed[path[-1]] = value

    return change


DESCRIPTIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a model elsewhere": (set_to("model", value="../model.onnx"), "'model' is '../model.onnx'"),
    "a model from the root": (set_to("model", value="/etc/passwd"), "'model' is '/etc/passwd'"),
    "a hidden model": (set_to("model", value=".model"), "'model'"),
    "a tokenizer elsewhere": (set_to("tokenizer", value="a/../../t.json"), "'tokenizer'"),
    "a file elsewhere": (set_to("files", "../x", value={"bytes": 1, "sha256": "0" * 64}), "'files' has '../x'"),
    "a file unlisted": (lambda p: p["files"].pop("model.onnx"), "'files' has no 'model.onnx'"),
    "labels elsewhere": (set_to("classify", "labels", value="..\\labels"), "'classify.labels'"),
    "parity elsewhere": (set_to("parity", "file", value="/dev/zero"), "'parity.file'"),
    "a giant size": (set_to("files", "model.onnx", "bytes", value=1 << 60), "'files.model.onnx.bytes'"),
    "a negative size": (set_to("files", "model.onnx", "bytes", value=-1), "'files.model.onnx.bytes'"),
    "a giant length": (set_to("text", "max_length", value=10**30), "'text.max_length'"),
    "no length": (set_to("text", "max_length", value=0), "'text.max_length'"),
    "a length that is none": (set_to("text", "max_length", value=True), "'text.max_length'"),
    "a hash that is none": (set_to("files", "model.onnx", "sha256", value="0"), "no SHA-256"),
    "another format": (set_to("format", value=2), "'format' is 2, and this program reads 1"),
    "another task": (set_to("task", value="rm"), "'task' is 'rm'"),
    "a task without its part": (set_to("task", value="generate"), "'generate' says nothing"),
    "an unknown key": (set_to("hook", value="os.system"), "'hook' is not known"),
    "an unknown key inside": (set_to("text", "exec", value=1), "'text.exec' is not known"),
    "a missing key": (lambda p: p.pop("parity"), "'parity' is missing"),
    "a list": (set_to("text", value=[1]), "text is no object"),
    "a word too long": (set_to("name", value="x" * 2000), "'name' is no text"),
    "text without a tokenizer": (set_to("tokenizer", value=None), "'tokenizer' names none"),
    "a bound beyond": (set_to("parity", "bound", value=5), "'parity.bound'"),
    "pooling that is none": (
        set_to("embed", value={"output": "logits", "pooling": "max", "normalize": True}), "'embed.pooling' is 'max'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_cannot_be_is_refused(bundle: Path, name: str) -> None:
    change, said = DESCRIPTIONS[name]
    described(bundle, change)
    refuses(["pi", "check", bundle], "bundle.json", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be used"),
        ("[]", "is no object"),
        ("{" * 100_000, "cannot be used"),
        ("[" * 100_000, "nested too deep"),
        ('{"format": 1e999}', "beyond what a number can be"),
        ('{"format": NaN}', "NaN is no number"),
        ('{"format": ' + "9" * 5000 + "}", "cannot be used"),
        ('{"format": 1, "format": 1}', "stands twice"),
        ("x" * (1 << 20) + "yy", "too many for a description"),
        ("\ud800", "cannot be used"),
    ],
    ids=lambda value: value[:16],
)
def test_a_description_that_is_none_is_refused(bundle: Path, text: str, said: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refuses(["pi", "check", bundle], "bundle.json", said)


def test_descriptions_with_anything_in_any_place_are_read_or_refused(bundle: Path) -> None:
    """Values of every kind and size put where others were, and keys taken away: no other exception than ours."""
    random = Random(3)
    anything: list[Any] = [None, 0, -1, 1.5, 1e300, 2**63, True, "", "../x", "\0", [], ["a"], {}, {"a": 1}, "logits"]
    anything += ["model.onnx", "parity.npz", "tokenizer.json", [[["a", "b"]]]]
    whole = description(bundle)
    places = list(_places(whole))
    found = {True: 0, False: 0}
    for _ in range(150):
        changed = json.loads(json.dumps(whole))
        *path, last = random.choice(places)
        inner = changed
        for key in path:
            inner = inner[key]
        if random.random() < 0.2:
            del inner[last]
        else:
            inner[last] = random.choice(anything)
        (bundle / "bundle.json").write_text(json.dumps(changed))
        try:
            runner = open_runner(open_bundle(bundle), 1)
            check(runner)
            runner.answer("a good day")
            found[True] += 1
        except PicoformerError as error:
            assert "\n" not in str(error)
            found[False] += 1
    assert found[True] > 5 and found[False] > 100


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def test_files_that_are_not_those_that_were_packed_are_refused(bundle: Path, tmp_path: Path) -> None:
    model = bundle / "model.onnx"
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refuses(["pi", "check", bundle], "model.onnx", "its SHA-256 is another")
    model.write_bytes(data[:-40])
    refuses(["pi", "check", bundle], "model.onnx", f"has {len(data) - 40} bytes, and {len(data)} were packed")
    model.unlink()
    refuses(["pi", "check", bundle], "model.onnx", "is missing")
    (tmp_path / "elsewhere.onnx").write_bytes(data)
    model.symlink_to(tmp_path / "elsewhere.onnx")
    refuses(["pi", "check", bundle], "model.onnx", "a link")
    model.unlink()
    model.mkdir()
    refuses(["pi", "check", bundle], "model.onnx", "or a folder")
    refuses(["pi", "check", tmp_path / "nowhere"], "is no bundle")
    with pytest.raises(ModelError, match="were packed"):  # sizes are looked at even where hashes are not
        shutil.rmtree(model)
        model.write_bytes(b"")
        open_bundle(bundle, check_hashes=False)


@pytest.mark.parametrize("keep", [0, 1, 40, -40])
def test_a_model_that_was_cut_before_it_was_packed_is_refused(bundle: Path, keep: int) -> None:
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data[:keep])
    described(bundle, lambda _: None, again=True)
    refuses(["pi", "check", bundle], "model.onnx")


def test_a_model_that_reads_other_files_is_refused(bundle: Path, tmp_path: Path) -> None:
    import onnx

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4096))
    model = onnx.load(bundle / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for location in (str(secret), "../secret.bin", "secret.bin"):
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        (bundle / "model.onnx").write_bytes(model.SerializeToString())
        described(bundle, lambda _: None, again=True)
        refuses(["pi", "check", bundle], "model.onnx", "takes numbers out of other files")


def test_a_description_of_another_model_is_refused(bundle: Path, bundles: Bundles) -> None:
    shutil.copyfile(bundles.embedder() / "model.onnx", bundle / "model.onnx")
    described(bundle, lambda _: None, again=True)
    refuses(["pi", "classify", bundle, "--text", "a"], "'token_type_ids' gets nothing from a text")
    described(bundle, set_to("text", "types", value="token_type_ids"))
    refuses(["pi", "classify", bundle, "--text", "a"], "has no output 'logits'")
    described(bundle, set_to("text", "mask", value="no_such"))
    refuses(["pi", "classify", bundle, "--text", "a"], "'no_such'")


def test_labels_and_samples_that_do_not_go_with_the_model_are_refused(bundle: Path) -> None:
    (bundle / "labels.txt").write_text("one\ntwo\n")
    described(bundle, lambda _: None, again=True)
    refuses(["pi", "classify", bundle, "--text", "a"], "2 labels for 3 classes")
    (bundle / "labels.txt").write_bytes(b"\xff\n\xfe\n\xfd\n")
    described(bundle, lambda _: None, again=True)
    refuses(["pi", "classify", bundle, "--text", "a"], "labels.txt", "no UTF-8")
    (bundle / "labels.txt").write_text("one\ntwo\nthree\n")
    for arrays, said in (
        ({}, "has no sample"),
        ({"0/input/input_ids": np.zeros((1, 3), np.int64)}, "has no outputs"),
        ({"0/input/other": np.zeros(3), "0/output/logits": np.zeros((1, 3))}, "'other'"),
    ):
        np.savez(bundle / "parity.npz", **arrays)
        described(bundle, set_to("parity", "texts", value=[]), again=True)
        refuses(["pi", "check", bundle], "parity.npz", said)
    (bundle / "tokenizer.json").write_text("{}")
    described(bundle, lambda _: None, again=True)
    refuses(["pi", "classify", bundle, "--text", "a"], "tokenizer.json")


def test_a_step_that_is_not_the_one_described_is_refused(place: Path, tmp_path: Path) -> None:
    from text_models import model_folder

    out = tmp_path / "bundle"
    succeeds("pi", "package", model_folder(place), "-o", out)
    changes: list[tuple[Callable[[Any], None], str]] = [
        (lambda p: p["generate"]["states"][0].__setitem__(1, "logits"), "no state that goes round"),
        (set_to("generate", "states", value=[]), "that its bundle says nothing of"),
        (set_to("generate", "states", value=[["a"]]), "no pair of names"),
        (set_to("generate", "vocabulary", value=281), "not 281"),
        (set_to("generate", "context", value=1 << 40), "'generate.context'"),
        (set_to("generate", "eos", value=[280]), "no token of the vocabulary"),
        (set_to("generate", "bos", value=-1), "'generate.bos'"),
        (set_to("generate", "logits_scale", value=0), "'generate.logits_scale'"),
        (set_to("generate", "sampling", value={"temperature": 0}), "temperature"),
        (set_to("generate", "sampling", value={"rm": 1}), "'rm' is nothing that generation knows"),
        (set_to("generate", "sampling", value={"tokens": 10**9}), "'tokens' is not a whole number"),
    ]
    whole = (out / "bundle.json").read_text()
    for change, said in changes:
        (out / "bundle.json").write_text(whole)
        described(out, change)
        refuses(["pi", "generate", out, "--prompt", "a"], said)


def test_a_context_longer_than_the_caches_fails_in_one_line(place: Path, tmp_path: Path) -> None:
    from text_models import model_folder

    out = tmp_path / "bundle"
    succeeds("pi", "package", model_folder(place), "-o", out, "--context", "8")
    described(out, set_to("generate", "context", value=64))
    runner = open_runner(open_bundle(out), 1)
    with pytest.raises(DataError, match="fails at a token"):
        runner.generate(runner.request(prompt_ids=(1, 2, 3), tokens=40, greedy=True, stop_ids=()))


def test_arrays_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the archive says of their size, before one is read; and a header that promises more than is there."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(1 << 20))
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(array_files, "MOST_BYTES", 8 << 20)
    with pytest.raises(DataError, match="bytes of arrays; give at most 8388608"):
        read_arrays(path)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.ljust(127) + b"\n" + bytes(64))
    with pytest.raises(DataError, match="is not a readable"):
        read_arrays(path)


def test_numbers_of_json_keep_their_kind() -> None:
    assert parse_json('{"a": [1, 2.5, true, null, "x"]}') == {"a": [1, 2.5, True, None, "x"]}
    for text in ("Infinity", "-Infinity", "NaN", "1e400", "[" * 5000, '{"a": 1, "a": 2}', "{", "1 2"):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(text)
