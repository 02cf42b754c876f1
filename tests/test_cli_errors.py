"""What a user can get wrong: one line that names the culprit and the mend, exit code 1, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from command_line import CLASSES, SAMPLES, Workshop, open_workshop, picoformer, refuses, samples, succeeds
from onnx_models import save_model
from picoformer.firmware import build_firmware
from picoformer.targets import load_target, resource_root


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("errors"))


def builds_not(shop: Workshop, tmp_path: Path, *said: str, **changed: object) -> str:
    """The build with `changed` files is refused in one line, the earlier output kept, and nothing left lying about."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    (out / "float").mkdir(exist_ok=True)
    (out / "float" / "graph.json").write_text("old")
    (out / "build.json").write_text("old")
    before = sorted(tmp_path.iterdir())
    words: list[str | Path] = ["build", changed.get("model", shop.model), "--target", changed.get("target", "host")]
    words += ["--calibration", changed.get("calibration", shop.calibration), *changed.get("more", ()), "-o"]
    line = refuses([*words, out], *said)
    refuses([*words, tmp_path / "new"], *said)
    assert sorted(tmp_path.iterdir()) == before
    assert sorted(path.name for path in out.iterdir()) == ["build.json", "float"]
    assert (out / "build.json").read_text() == "old"
    return line


# The model.


@pytest.mark.parametrize("command", ["build", "quantize", "export", "inspect"])
@pytest.mark.parametrize("harm", ["text", "cut", "empty", "missing", "folder"])
def test_a_file_that_is_no_model(shop: Workshop, tmp_path: Path, command: str, harm: str) -> None:
    model = tmp_path / "harmed.onnx"
    whole = shop.model.read_bytes()
    if harm == "folder":
        model.mkdir()
    elif harm != "missing":
        model.write_bytes({"text": b"This is not a model.\n", "cut": whole[: len(whole) // 2], "empty": b""}[harm])
    words: list[str | Path] = [command, model]
    if command != "inspect":
        words += ["--calibration", shop.calibration, "-o", tmp_path / ("out.onnx" if command == "export" else "out")]
    if command == "build":
        words += ["--target", "host"]
    if harm == "folder":
        answer = picoformer(*words)
        assert answer.code != 0 and str(model) in answer.err
    else:
        refuses(words, "harmed.onnx", {"missing": "give an .onnx file"}.get(harm, "export the model again"))
    assert not list(tmp_path.glob("out*"))


def test_an_operator_that_is_not_covered_is_named_with_its_node(shop: Workshop, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Det", ["x"], ["y"], name="the_determinant")
    model = save_model(tmp_path / "det.onnx", [node], {"x": (4, 4)})
    builds_not(shop, tmp_path, "Det", "the_determinant", model=model)


def dynamic(shop: Workshop, path: Path) -> Path:
    """The model with an input whose second axis has a name in place of a size."""
    model = onnx.load(shop.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    return path


def test_a_dynamic_axis_is_named_and_shape_mends_it(shop: Workshop, tmp_path: Path) -> None:
    model = dynamic(shop, tmp_path / "dynamic.onnx")
    line = builds_not(shop, tmp_path, "'x'", "batch", "--shape x=", model=model)
    mend = re.search(r"--shape (x=[\d,A-Za-z]+)", line)
    assert mend is not None, line
    words = ["build", model, "--calibration", shop.calibration, "--target", "host", "-o", tmp_path / "mended"]
    succeeds(*words, "--shape", "x=1,6,5")
    assert succeeds("verify", tmp_path / "mended", "--inputs", shop.inputs, "--json").record["passed"]


@pytest.mark.parametrize(
    "text", ["nonsense", "x=", "x=1,a", "=1,2", "x=1,-6,5", "x=0,6,5", "z=1,6,5", "x=1,6", "x=2,6,5"]
)
def test_shape_that_makes_no_sense(shop: Workshop, tmp_path: Path, text: str) -> None:
    name = text.partition("=")[0]
    builds_not(shop, tmp_path, name, model=dynamic(shop, tmp_path / "dynamic.onnx"), more=("--shape", text))


def test_nan_weights_are_named(shop: Workshop, tmp_path: Path) -> None:
    model = onnx.load(shop.model)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 2)
    value = onnx.numpy_helper.to_array(weight).copy()
    value[0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    builds_not(shop, tmp_path, "nan.onnx", f"'{weight.name}'", "NaN", model=tmp_path / "nan.onnx")


# Calibration and inputs.


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


BAD_SAMPLES = {
    "wrong name": ({"pixels": samples()}, ("no array 'x'", "'pixels'")),
    "unknown name": ({"x": samples(), "extra": samples()}, ("'extra'",)),
    "wrong shape": ({"x": samples()[:, :5]}, ("'x'", "[6, 5, 5]", "[6, 5]")),
    "one sample without its axis": ({"x": samples()[0]}, ("'x'", "axis 0")),
    "a number": ({"x": np.float32(1)}, ("'x'", "shape []")),
    "NaN": ({"x": np.where(np.arange(SAMPLES)[:, None, None] == 3, np.nan, samples())}, ("'x'", "NaN", "sample 3")),
    "too large for float32": ({"x": samples().astype(np.float64) * 1e300}, ("'x'", "infinity")),
    "no samples": ({"x": samples()[:0]}, ("'x'", "no samples")),
    "integers": ({"x": samples().astype(np.int64)}, ("'x'", "int64", "reals")),
    "text": ({"x": np.array(["a", "b"])}, ("'x'",)),
    "nothing": ({}, ("no array 'x'", "nothing")),
    "labels of another count": ({"x": samples(), "labels": np.arange(SAMPLES + 1)}, ("labels", str(SAMPLES + 1))),
    "labels of a wrong type": ({"x": samples(), "labels": np.zeros((SAMPLES, 2))}, ("labels", "float64")),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("harm", BAD_SAMPLES)
def test_samples_that_do_not_fit(shop: Workshop, tmp_path: Path, harm: str) -> None:
    arrays, said = BAD_SAMPLES[harm]
    bad = archive(tmp_path / "bad.npz", **arrays)
    if not harm.startswith("labels"):
        builds_not(shop, tmp_path, "bad.npz", *said, calibration=bad)
    refuses(["verify", shop.build("host"), "--inputs", bad], "bad.npz", *said)
    refuses(["verify", shop.build("host"), "--inputs", bad, "--json"], "bad.npz", *said)
    refuses(["emulate", shop.build("host"), "--inputs", bad, "-o", tmp_path / "y.npz"], "bad.npz", *said)
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("harm", ["missing", "text", "cut", "empty", "npy", "pickle", "pickle inside"])
def test_samples_that_are_no_archive(shop: Workshop, tmp_path: Path, harm: str) -> None:
    bad = tmp_path / "bad.npz"
    whole = shop.calibration.read_bytes()
    if harm in ("npy", "pickle"):
        value = samples() if harm == "npy" else np.array([{"a": 1}], dtype=object)
        np.save(tmp_path / "bad.npy", value, allow_pickle=True)
        (tmp_path / "bad.npy").rename(bad)
    elif harm == "pickle inside":
        np.savez(bad, x=np.array([{"a": 1}], dtype=object))
    elif harm != "missing":
        bad.write_bytes({"text": b"x = 1, 2, 3\n", "cut": whole[: len(whole) // 2], "empty": b""}[harm])
    line = builds_not(shop, tmp_path, "bad.npz", calibration=bad)
    assert "allow_pickle=True" not in line, "that advice would run the file's code"
    refuses(["verify", shop.build("host"), "--inputs", bad], "bad.npz")


def test_int8_without_calibration(shop: Workshop, tmp_path: Path) -> None:
    refuses(["build", shop.model, "--target", "host", "-o", tmp_path / "out"], "--calibration", "x")
    assert not (tmp_path / "out").exists()


# The target.


def target_file(path: Path, *changes: tuple[str, str]) -> Path:
    """The board's TOML with each first text replaced by the second."""
    text = (resource_root("targets") / "mps2-an386.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("holds", ["flash", "RAM"])
def test_a_model_that_does_not_fit(shop: Workshop, tmp_path: Path, holds: str) -> None:
    region, had = {"flash": ("ssram1", 0x2000), "RAM": ("ssram23", 0x1400)}[holds]
    whole = 'length = 0x00400000\nholds = "' + {"flash": "code", "RAM": "data"}[holds]
    target = target_file(tmp_path / "tiny.toml", (whole, whole.replace("0x00400000", hex(had))))
    line = builds_not(shop, tmp_path, holds, region, f"{had:,}", "biggest", target=target)
    needs = int(re.search(r"needs ([\d,]+) bytes", line)[1].replace(",", ""))
    assert needs > had
    assert re.search(r"biggest: [^;]+ [\d,]+, [^;]+ [\d,]+, [^;]+ [\d,]+; ", line), line


TARGET_FAULTS = {
    "unknown key": (("clock_hz", "clock_mhz"), ("tiny.toml:7", "clock_mhz")),
    "unknown key in a table": (("baud =", "bauds ="), ("tiny.toml:34", "uart.bauds", "baud")),
    "bad value": (("clock_hz = 25_000_000", 'clock_hz = "fast"'), ("tiny.toml:7", "clock_hz", "fast")),
    "bad value in a region": (("origin = 0x20000000", "origin = -1"), ("tiny.toml:20", "memory.1.origin", "-1")),
    "missing key": (('port = "cortex_m"\n', ""), ("tiny.toml", "port", "missing")),
    "not TOML": (("[uart]", "[uart"), ("tiny.toml", "TOML", "line 31")),
    "unknown instruction set": (('isa = ["dsp", "generic"]', 'isa = ["generic", "turbo"]'), ("turbo",)),
}


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("fault", TARGET_FAULTS)
def test_a_target_file_with_a_fault(shop: Workshop, tmp_path: Path, fault: str) -> None:
    change, said = TARGET_FAULTS[fault]
    builds_not(shop, tmp_path, *said, target=target_file(tmp_path / "tiny.toml", change))


def test_an_unknown_target_lists_the_known(shop: Workshop, tmp_path: Path) -> None:
    builds_not(shop, tmp_path, "'mps3'", "host", "mps2-an386", ".toml", target="mps3")
    builds_not(shop, tmp_path, "absent.toml", target=tmp_path / "absent.toml")


@pytest.mark.usefixtures("arm_tools")
def test_a_board_of_ones_own_is_kept_in_the_build(shop: Workshop, tmp_path: Path) -> None:
    """The build folder knows its target: the TOML may be anywhere, or gone."""
    words = ('name = "mps2-an386"', 'name = "my-board"'), ("length = 0x00400000", "length = 0x00100000")
    target = target_file(tmp_path / "board.toml", *words)
    succeeds(*shop.build_words(tmp_path / "out", target))
    target.unlink()
    record = succeeds("verify", tmp_path / "out", "--inputs", shop.inputs, "--json").record
    assert record["passed"] and record["target"] == "my-board"
    assert "1,048,576" in succeeds("verify", tmp_path / "out", "--inputs", shop.inputs).out


def test_a_machine_that_the_emulator_does_not_know(shop: Workshop, tmp_path: Path, arm_tools: None) -> None:
    target = target_file(tmp_path / "board.toml", ('machine = "mps2-an386"', 'machine = "no-such"'))
    succeeds(*shop.build_words(tmp_path / "out", target))
    refuses(["verify", tmp_path / "out", "--inputs", shop.inputs], "no-such")


@pytest.mark.parametrize("command", ["build", "quantize", "export"])
def test_a_folder_with_other_files_is_not_replaced(shop: Workshop, tmp_path: Path, command: str) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    words: list[str | Path] = [command, shop.model, "--calibration", shop.calibration, "-o", out]
    words += {"build": ["--target", "host"], "export": ["--format", "c"], "quantize": []}[command]
    refuses(words, str(out), "other files")
    assert (out / "thesis.txt").read_text() == "years of work"


def test_settings_that_make_no_sense(shop: Workshop, tmp_path: Path) -> None:
    builds_not(shop, tmp_path, "prefix", "9 lives", more=("--prefix", "9 lives"))
    build = shop.build("host")
    for words in (
        [*shop.build_words(tmp_path / "new"), "--percentile", "12"],
        ["verify", build, "--inputs", shop.inputs, "--samples", "-1"],
        ["dataset", "digits", "-o", tmp_path / "new", "--test-fraction", "1"],
    ):
        answer = picoformer(*words)
        assert answer.code == 2 and f"Invalid value for '{words[-2]}'" in answer.err, answer
    builds_not(shop, tmp_path, "--percentile nan", more=("--percentile", "nan"))
    refuses(["dataset", "cats", "-o", tmp_path / "new"], "'cats'", "digits")
    refuses(["verify", build, "--inputs", shop.inputs, "--port", "/dev/ttyABSENT"], "build for the board")
    refuses(["verify", build, "--inputs", shop.inputs, "--checkpoint", shop.model], "model.onnx")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("arm_tools")
def test_a_port_that_is_not_there(shop: Workshop) -> None:
    words = ["verify", shop.build("mps2-an386"), "--inputs", shop.inputs, "--port", "/dev/ttyABSENT"]
    refuses(words, "/dev/ttyABSENT")


# Tools.


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH leads to one empty folder, and what PyPI has in place of gcc and QEMU is not installed."""
    for package in ("ziglang", "unicorn"):
        monkeypatch.setitem(sys.modules, package, None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "bin" / ".cache"))
    return folder


def link_tool(folder: Path, *names: str) -> None:
    for name in names:
        path = shutil.which(name, path=os.defpath + ":/usr/local/bin")
        assert path is not None
        (folder / name).symlink_to(path)


def test_without_host_compiler(shop: Workshop, tmp_path: Path, empty_path: Path) -> None:
    line = builds_not(shop, tmp_path, "gcc is not installed", "apt-get install gcc")
    assert "or without root" in line and "pip install 'picoformer[emulator]'" in line


def test_without_arm_compiler(shop: Workshop, tmp_path: Path, empty_path: Path) -> None:
    link_tool(empty_path, "gcc", "as", "ld")
    line = builds_not(shop, tmp_path, "arm-none-eabi-gcc is not installed", target="mps2-an386")
    assert "apt-get install gcc-arm-none-eabi" in line


@pytest.mark.usefixtures("arm_tools")
def test_without_qemu(shop: Workshop, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    build = shop.build("mps2-an386")
    request.getfixturevalue("empty_path")
    refuses(["verify", build, "--inputs", shop.inputs], "qemu-system-arm", "apt-get install qemu-system-arm")
    refuses(["emulate", build, "--inputs", shop.inputs], "or without root, unicorn", "picoformer[emulator]")


# Build folders that something happened to.


def relink(build: Path, board: str, find: str, put: str, watchdog: int | None = None) -> None:
    """Replace a text in the generated model.c and link the board's firmware again."""
    target = load_target(board)
    if watchdog is not None:
        target = target.model_copy(update={"watchdog": target.watchdog.model_copy(update={"seconds": watchdog})})
    source = build / board / "source"
    text = (source / "model.c").read_text()
    changed = re.sub(find, put, text, count=1)
    assert changed != text
    (source / "model.c").write_text(changed)
    build_firmware(source, target, build / board)


STEP = r"(int model_step\(.*?\n\{\n)"
"""The start of the function that runs one step."""


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("board", ["host", "mps2-an386"])
@pytest.mark.parametrize("harm", ["hang", "crash"])
def test_firmware_that_hangs_or_crashes(shop: Workshop, tmp_path: Path, board: str, harm: str) -> None:
    build = shop.own_build(tmp_path, board)
    code = {"hang": "volatile int on = 1; while (on) {}", "crash": "*(volatile int *)0 = 1;"}[harm]
    relink(build, board, r"(?s)" + STEP, rf"\1    {code}\n", watchdog=1)
    said = {"hang": "watchdog", "crash": "crashed"}[harm]
    line = refuses(["verify", build, "--inputs", shop.inputs, "--samples", "1"], "model_step")
    assert said in line.lower(), line
    refuses(["emulate", build, "--inputs", shop.inputs, "-o", tmp_path / "y.npz"], "model_step")
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("board", ["host", "mps2-an386"])
@pytest.mark.parametrize("as_json", [False, True])
def test_one_doctored_byte_is_named(shop: Workshop, tmp_path: Path, board: str, as_json: bool) -> None:
    """The promise: integers are equal, or the step, the tensor and the element that is not are named."""
    build = shop.own_build(tmp_path, board)
    graph = json.loads((build / "quantized" / "graph.json").read_text())
    step = next(i for i, node in enumerate(graph["nodes"]) if node["op"].lower() == "layernorm")
    node = graph["nodes"][step]
    relink(build, board, r"(?s)(pf_layer_norm\w*\([^;]*?)(s8\(m, (AT_\w+)\))([^;]*;)", r"\1\2\4 s8(m, \3)[7] ^= 1;")
    words = ["verify", build, "--inputs", shop.inputs, *(["--json"] if as_json else [])]
    answer = picoformer(*words)
    lines = answer.err.splitlines()
    assert answer.code == 1 and len(lines) == 1, answer
    where = f"reference → {board}: step {step} '{node['name']}', tensor '{node['output']}', sample 0, element [0, 0, 7]"
    assert where in lines[0] and "expected" in lines[0] and "found" in lines[0], lines[0]
    if as_json:
        assert not answer.record["passed"]
        assert any(where in failure for failure in answer.record["failures"])


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("board", ["host", "mps2-an386"])
def test_firmware_of_another_model(shop: Workshop, tmp_path: Path, board: str) -> None:
    build, other = shop.own_build(tmp_path, board), tmp_path / "other"
    succeeds(*shop.build_words(other, board, "--inputs-dtype", "int16"))
    shutil.copyfile(other / board / "firmware.elf", build / board / "firmware.elf")
    refuses(["verify", build, "--inputs", shop.inputs], "another model")


@pytest.mark.parametrize(
    "file",
    ["build.json", "target.json", "float/graph.json", "float/graph.npz", "quantized/graph.json",
     "quantized/graph.npz", "model.onnx", "model_qdq.onnx", "host/memory.json", "host/firmware.elf", "host/size.json"],
)  # fmt: skip
@pytest.mark.parametrize("harm", ["missing", "cut", "empty", "nonsense"])
def test_a_doctored_build_folder(shop: Workshop, tmp_path: Path, file: str, harm: str) -> None:
    build = shop.own_build(tmp_path)
    path = build / file
    whole = path.read_bytes()
    path.unlink()
    cut_elf = path.suffix == ".elf" and harm == "cut"  # the system starts what is left of it
    if harm != "missing":
        cut = whole[: len(whole) // (20 if path.suffix == ".elf" else 2)]
        path.write_bytes({"cut": cut, "empty": b"", "nonsense": b'{"format": 1, "name": 3}\n'}[harm])
        path.chmod(0o755)
    refuses(["verify", build, "--inputs", shop.inputs], "firmware.elf" if cut_elf else str(path.parent))


def test_a_folder_that_is_no_build(shop: Workshop, tmp_path: Path) -> None:
    refuses(["verify", tmp_path, "--inputs", shop.inputs], str(tmp_path), "not a build folder", "picoformer build")
    refuses(["verify", tmp_path / "absent", "--inputs", shop.inputs], "absent", "not a build folder")
    refuses(["emulate", tmp_path, "--inputs", shop.inputs], str(tmp_path), "not a build folder")
    refuses(["report", tmp_path], "report.json")
    assert CLASSES == 3


def test_a_folder_with_a_build_json_of_somebody_else_is_left_alone(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    refuses(["build", shop.model, "--scheme", "float32", "--target", "host", "-o", tmp_path], "holds other files")
    assert (tmp_path / "notes.txt").read_text() == "mine"
