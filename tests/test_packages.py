"""Packages of C: complete, by the rules of the places they go to, built there, and equal to the reference."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import package_checks
from command_line import CLASSES, SAMPLES, Workshop, open_workshop, refuses, succeeds
from graphs import CASES
from package_programs import M33, RV32, STRICT, STUBS, arm_sketch, cmake, compiled, emulated, host_program, run, sketch
from picoformer.backends.c import draft_c, emit
from picoformer.build_folder import quantize_samples
from picoformer.cli_options import C_FORMS
from picoformer.files import file_hash
from picoformer.ir import Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.packages.description import Origin, Package, Sample
from picoformer.packages.forms import FORMS, board_of
from picoformer.packaging import packed
from picoformer.reference import lower_graph, run_float, run_integer
from text_models import model_folder

Export = Callable[..., Path]
SAME = "the outputs are those of the reference\n"
WROTE = "the tokens are those of the reference\n"
LIBRARIES = [form for form in FORMS if form != "c-arrays"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def export(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """(form, more words) → the folder that `export` wrote of the small encoder, made once."""

    @cache
    def make(form: str, *more: str) -> Path:
        out = tmp_path_factory.mktemp("package") / "gesture"
        succeeds("export", shop.model, "--format", form, "--prefix", "gesture", "--calibration", shop.calibration,
                 "--inputs", shop.inputs, "--scheme", "int8", *more, "-o", out)  # fmt: skip
        return out

    return make


@pytest.fixture(scope="module")
def tale(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Form → the folder that `export` wrote of the small language model, made once."""

    @cache
    def make(form: str) -> Path:
        out = tmp_path_factory.mktemp("tale") / "tale"
        succeeds("export", model_folder(place), "--format", form, "--prefix", "tale", "-o", out)
        return out

    return make


@pytest.fixture(scope="module")
def typed(shop: Workshop) -> Graph:
    return quantize_samples(shop.model, shop.calibration, "int8")[1]


def cross(compiler: Sequence[str]) -> list[str]:
    """CMake's options for a compiler for boards."""
    flags = f"-DCMAKE_C_FLAGS={' '.join(compiler[1:])} -Wall -Wextra -Werror"
    board = ["-DCMAKE_SYSTEM_NAME=Generic", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"]
    return [*board, f"-DCMAKE_C_COMPILER={compiler[0]}", flags]


def expected_line(graph: Graph, sample: np.ndarray) -> str:
    """What an example has to print first, by the integer reference."""
    logits = run_integer(lower_graph(graph), {"x": sample.reshape(1, *graph.types["x"].shape)})["y"][0].reshape(-1)
    best = int(np.argmax(logits))
    quant = graph.types["y"].quant
    assert quant is not None
    score = dequantize(logits[best : best + 1], quant)[0]
    return f"prediction: class {best}, y {score:.3f}\n"


# --- the example, in each form, built as its tools do -------------------------------------------------------


def test_the_forms_are_those_of_the_command() -> None:
    assert set(FORMS) == set(C_FORMS)
    page = (Path(__file__).parents[1] / "docs" / "packages.md").read_text()
    assert all(f"| `{form}` |" in page and f"--format {form} " in page for form in FORMS)


@pytest.mark.parametrize("form", C_FORMS)
def test_every_form_has_its_pages(form: str, export: Export) -> None:
    assert package_checks.pages(export(form)) == []


def test_cmake_builds_on_this_machine(
    export: Export, shop: Workshop, typed: Graph, tmp_path: Path, cmake_tools: None
) -> None:
    folder = Path(shutil.copytree(export("c"), tmp_path / "elsewhere"))
    cmake(folder, tmp_path / "build")
    printed = run(tmp_path / "build" / "predict")
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME


def test_cmake_takes_it_into_another_project(export: Export, tmp_path: Path, cmake_tools: None) -> None:
    (tmp_path / "main.c").write_text('#include "gesture.h"\nint main(void) { return GESTURE_ARENA_BYTES == 0; }\n')
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(other C)\n"
        f'add_subdirectory("{export("c")}" gesture)\nadd_executable(other main.c)\n'
        "target_link_libraries(other gesture)\n"
    )
    cmake(tmp_path, tmp_path / "build")
    run(tmp_path / "build" / "other")
    assert not (tmp_path / "build" / "gesture" / "predict").exists(), "examples belong to the project itself"


def test_cmake_builds_for_arm(export: Export, tmp_path: Path, cmake_tools: None, arm_tools: None) -> None:
    folder = export("c")
    cmake(folder, tmp_path / "build", "-DCMAKE_TOOLCHAIN_FILE=cmake/arm-none-eabi.cmake")
    shown = run("arm-none-eabi-readelf", "-h", tmp_path / "build" / "predict")
    assert re.search(r"Machine: +ARM", shown) and (tmp_path / "build" / "libgesture.a").is_file()


def test_an_arduino_library_is_one(
    export: Export, shop: Workshop, typed: Graph, tmp_path: Path, arm_tools: None
) -> None:
    folder = export("arduino")
    assert package_checks.arduino(folder) == []
    printed = sketch(folder, "Predict", tmp_path / "host")
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME
    arm_sketch(folder, "Predict", tmp_path / "arm")


def test_an_arduino_zip_holds_the_library(export: Export, shop: Workshop, tmp_path: Path) -> None:
    words = ["export", shop.model, "--format", "arduino", "--prefix", "gesture", "--calibration", shop.calibration,
             "--inputs", shop.inputs, "--scheme", "int8"]  # fmt: skip
    for name in ("one.zip", "two.zip"):
        succeeds(*words, "-o", tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        assert names == sorted(names) and all(name.startswith("gesture/") for name in names)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "libraries")
    assert tree(tmp_path / "libraries" / "gesture") == tree(export("arduino"))


def test_a_platformio_library_is_one(export: Export, shop: Workshop, typed: Graph, tmp_path: Path) -> None:
    folder = export("platformio")
    assert package_checks.platformio(folder) == []
    sources = [*compiled(folder / "src"), *compiled(folder / "examples")]
    printed = host_program(tmp_path / "run", sources, [folder / "include", folder / "src"])
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME


def test_an_esp_idf_component_is_one(export: Export, tmp_path: Path, cmake_tools: None, riscv_tools: None) -> None:
    folder = export("esp-idf")
    assert package_checks.esp_idf(folder) == []
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(stub C ASM)\n"
        f"include({STUBS / 'esp_idf' / 'idf.cmake'})\nadd_subdirectory({folder} gesture)\n"
        f"add_subdirectory({folder / 'examples' / 'predict' / 'main'} main)\ntarget_link_libraries(main gesture)\n"
    )
    cmake(tmp_path, tmp_path / "build", *cross(RV32))
    listed = run("riscv64-unknown-elf-ar", "t", tmp_path / "build" / "gesture" / "libgesture.a").split()
    assert sorted(listed) == sorted(f"{path.name}.obj" for path in compiled(folder / "src"))


def test_a_zephyr_module_is_one(export: Export, tmp_path: Path, cmake_tools: None, arm_tools: None) -> None:
    folder = export("zephyr")
    assert package_checks.zephyr(folder) == []
    sample = folder / "samples" / "predict" / "src" / "main.c"
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(stub C ASM)\n"
        f"include({STUBS / 'zephyr' / 'zephyr.cmake'})\nset(CONFIG_PICOFORMER_GESTURE y)\n"
        f"set(ZEPHYR_CURRENT_MODULE_DIR {folder})\ninclude({folder / 'zephyr' / 'CMakeLists.txt'})\n"
        f"add_library(app STATIC {sample})\ntarget_include_directories(app PRIVATE {STUBS / 'zephyr'})\n"
    )
    cmake(tmp_path, tmp_path / "build", *cross(M33))
    listed = run("arm-none-eabi-ar", "t", tmp_path / "build" / "libgesture.a").split()
    assert sorted(listed) == sorted(f"{path.name}.obj" for path in compiled(folder / "src"))


def test_a_zephyr_sample_runs(export: Export, shop: Workshop, typed: Graph, tmp_path: Path) -> None:
    folder = export("zephyr")
    (tmp_path / "printk.c").write_text(
        "#include <stdarg.h>\n#include <stdio.h>\n#include <zephyr/kernel.h>\n"
        "void printk(const char *format, ...)\n"
        "{ va_list rest; va_start(rest, format); vprintf(format, rest); va_end(rest); }\n"
    )
    sources = [*compiled(folder / "src"), *compiled(folder / "samples"), tmp_path / "printk.c"]
    printed = host_program(tmp_path / "run", sources, [folder / "include", folder / "src", STUBS / "zephyr"])
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME


def test_an_esp_idf_example_runs(export: Export, shop: Workshop, typed: Graph, tmp_path: Path) -> None:
    folder = export("esp-idf")
    (tmp_path / "start.c").write_text("void app_main(void);\nint main(void) { app_main(); return 0; }\n")
    sources = [*compiled(folder / "src"), *compiled(folder / "examples"), tmp_path / "start.c"]
    printed = host_program(tmp_path / "run", sources, [folder / "include", folder / "src"])
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME


def test_a_cmsis_pack_is_one_and_runs_on_a_cortex_m4(
    export: Export, shop: Workshop, typed: Graph, tmp_path: Path, arm_tools: None
) -> None:
    folder = export("cmsis-pack", "--target", "mps2-an386")
    assert package_checks.cmsis_pack(folder) == []
    assert package_checks.cmsis_pack(export("cmsis-pack")) == []
    sources = [*compiled(folder / "src"), *compiled(folder / "examples")]
    printed = emulated("mps2-an386", tmp_path / "run", sources, [folder / "include", folder / "src"])
    assert printed == expected_line(typed, np.load(shop.inputs)["x"][0]) + SAME
    accepted = re.findall(r'accept Dcore="([^"]+)"', (folder / "picoformer.gesture.pdsc").read_text())
    assert "Cortex-M4" in accepted and "Cortex-M0" not in accepted


def test_an_example_sees_another_result(export: Export, tmp_path: Path) -> None:
    """What the example says of the reference is measured: one changed weight, and it says so."""
    folder = Path(shutil.copytree(export("platformio"), tmp_path / "changed"))
    weights = folder / "src" / "weights.c"
    text = weights.read_text()
    first = re.search(r"int8_t \w+\[\d+\][^{]*\{\n    (-?\d+),", text)
    assert first is not None
    other = "100" if int(first[1]) < 50 else "-100"
    weights.write_text(text[: first.start(1)] + other + text[first.end(1) :])
    sources = [*compiled(folder / "src"), *compiled(folder / "examples")]
    with pytest.raises(AssertionError, match="the outputs DIFFER from those of the reference"):
        host_program(tmp_path / "run", sources, [folder / "include", folder / "src"])


# --- what the card says -------------------------------------------------------------------------------------


def test_the_card_says_what_is_so(export: Export, shop: Workshop, typed: Graph) -> None:
    card = json.loads((export("c") / "model_card.json").read_text())
    given = np.load(shop.inputs)
    found = run_integer(lower_graph(typed), {"x": given["x"].reshape(SAMPLES, *typed.types["x"].shape)})["y"]
    right = float(np.mean(found.reshape(SAMPLES, -1).argmax(1) == given["labels"]))
    assert card["accuracy"] == {"value": pytest.approx(right, abs=1e-12), "samples": SAMPLES,
                                "measured_on": "inputs.npz", "measured_by": "integer reference"}  # fmt: skip
    assert card["source"] == {"file": "model.onnx", "sha256": hashlib.sha256(shop.model.read_bytes()).hexdigest()}
    assert card["macs"] == typed.macs and card["scheme"] == "int8" and card["classes"] is None
    x, y = typed.types["x"], typed.types["y"]
    assert x.quant is not None and y.quant is not None
    assert card["inputs"] == [{"name": "x", "c_name": "x", "shape": list(x.shape), "dtype": "int8",
                               "scale": x.quant.scale[0], "zero_point": x.quant.zero_point}]  # fmt: skip
    assert card["outputs"][0]["scale"] == y.quant.scale[0] and card["outputs"][0]["dtype"] == "int16"
    header = (export("c") / "include" / "gesture.h").read_text()
    assert f"GESTURE_ARENA_BYTES {card['ram_bytes']['arena']}\n" in header
    text = (export("c") / "MODEL_CARD.md").read_text()
    assert card["source"]["sha256"] in text and f"{right:.4f} on {SAMPLES} samples (inputs.npz)" in text


def test_what_is_not_known_is_null(shop: Workshop, tmp_path: Path) -> None:
    succeeds("export", shop.model, "--format", "c", "--calibration", shop.calibration, "-o", tmp_path / "c")
    card = json.loads((tmp_path / "c" / "model_card.json").read_text())
    assert card["accuracy"] is None and card["classes"] is None and card["target"] == "generic"
    assert "not measured" in (tmp_path / "c" / "MODEL_CARD.md").read_text()


def test_labels_of_the_calibration_count(shop: Workshop, tmp_path: Path) -> None:
    succeeds("export", shop.model, "--format", "c", "--calibration", shop.inputs, "-o", tmp_path / "c")
    accuracy = json.loads((tmp_path / "c" / "model_card.json").read_text())["accuracy"]
    assert accuracy["samples"] == SAMPLES and accuracy["measured_on"] == "inputs.npz, the samples it was calibrated on"


def test_classes_have_names(shop: Workshop, typed: Graph, tmp_path: Path) -> None:
    names = ["wave, slow", 'a "tap"', "nothing"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    words = ["export", shop.model, "--format", "platformio", "--calibration", shop.calibration, "--inputs", shop.inputs]
    succeeds(*words, "--classes", tmp_path / "classes.txt", "--prefix", "gesture", "-o", tmp_path / "p")
    assert json.loads((tmp_path / "p" / "model_card.json").read_text())["classes"] == names
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    plain = expected_line(typed, np.load(shop.inputs)["x"][0])
    best = int(re.findall(r"class (\d+)", plain)[0])
    assert printed == plain.replace("prediction: class", f"prediction: {names[best]}, class") + SAME
    refuses([*words, "--classes", "a,b", "-o", tmp_path / "q"], "--classes a,b: 2 names", f"{CLASSES} classes")
    refuses([*words, "--classes", "a,a,b", "-o", tmp_path / "q"], "a name of its own")
    assert not (tmp_path / "q").exists()


def test_a_build_is_packed_as_it_was_verified(shop: Workshop, tmp_path: Path) -> None:
    build = shop.build("host")
    words = ["--format", "c", "--target", "host", "--prefix", "model"]
    succeeds("export", build, *words, "--inputs", shop.inputs, "-o", tmp_path / "packed")
    for name in ("model.c", "weights.c"):
        packed = (tmp_path / "packed" / "src" / name).read_text()
        built = (build / "host" / "source" / name).read_text()
        assert re.sub(r"^ \* \w+: .*\n", "", packed, flags=re.M) == re.sub(r"^ \* \w+: .*\n", "", built, flags=re.M)
    card = json.loads((tmp_path / "packed" / "model_card.json").read_text())
    assert card["source"]["sha256"] == file_hash(shop.model) and card["accuracy"]["samples"] == SAMPLES
    refuses(["export", build, *words, "--scheme", "int8", "-o", tmp_path / "no"], "--scheme says nothing")
    refuses(["export", build, "-o", tmp_path / "no.onnx"], "is a build folder", "--format")


def test_a_float_model_is_packed(shop: Workshop, tmp_path: Path) -> None:
    words = ["export", shop.model, "--format", "platformio", "--scheme", "float32", "--inputs", shop.inputs]
    succeeds(*words, "-o", tmp_path / "p")
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    graph = quantize_samples(shop.model, None, "float32")[1]
    sample = np.load(shop.inputs)["x"][:1].reshape(1, *graph.types["x"].shape)
    logits = run_float(graph, {"x": sample.astype(np.float32)})["y"].reshape(-1)
    assert printed.startswith(f"prediction: class {int(logits.argmax())}, y ") and printed.endswith(SAME)
    assert abs(float(printed.split(" y ")[1].split("\n")[0]) - logits.max()) <= 0.0011
    card = json.loads((tmp_path / "p" / "model_card.json").read_text())
    assert card["accuracy"]["measured_by"] == "float reference" and card["inputs"][0]["scale"] is None


@pytest.mark.parametrize("name", ["postnorm_tokens", "movement", "wide_sums"])
def test_examples_of_other_models_run(name: str, tmp_path: Path) -> None:
    """Ids, valid lengths, outputs that are no classes: what an example prints is held to the reference here too."""
    case = CASES[name]()
    graph = case.quantized()
    found = run_integer(lower_graph(graph), {key: value[:1] for key, value in case.samples.items()})
    sample = Sample({key: value[0] for key, value in case.samples.items()}, {o: found[o][0] for o in graph.outputs}, "")
    board = board_of("platformio", None)
    packed(
        Package("platformio", draft_c(graph, board.isa), board, Origin("a", "b", "int8"), sample=sample), tmp_path / "p"
    )
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    assert printed.endswith(SAME)
    shown = [line.split(":") for line in printed.splitlines() if not line.startswith(("prediction", "the outputs"))]
    for output, values in shown:
        quant = graph.types[output].quant
        real = found[output].reshape(-1)[:8] if quant is None else dequantize(found[output].reshape(-1)[:8], quant)
        assert [float(word) for word in values.split() if word != "..."] == pytest.approx(real, abs=0.00051)
    assert {output for output, _ in shown} == set(graph.outputs) or printed.startswith("prediction: class ")


def test_an_example_without_samples_runs_on_made_up_ones(shop: Workshop, tmp_path: Path) -> None:
    succeeds("quantize", shop.model, "--calibration", shop.calibration, "--valid-length", "-o", tmp_path / "q")
    words = ["--quantized", tmp_path / "q", "--valid-length", "--format", "platformio", "-o", tmp_path / "p"]
    succeeds("export", shop.model, *words)
    assert "made-up numbers" in (tmp_path / "p" / "README.md").read_text()
    sources = [*compiled(tmp_path / "p" / "src"), *compiled(tmp_path / "p" / "examples")]
    printed = host_program(tmp_path / "run", sources, [tmp_path / "p" / "include", tmp_path / "p" / "src"])
    assert printed.startswith("prediction: class ") and printed.endswith(SAME)
    sample = (tmp_path / "p" / "examples" / "predict" / "src" / "sample.h").read_text()
    assert "#define SAMPLE_VALID_LENGTH 6\n" in sample


def test_constants_of_a_large_model_lie_in_a_binary_file(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cmake_tools: None
) -> None:
    monkeypatch.setattr(emit, "LARGEST_TEXT", 100)
    words = ["export", shop.model, "--calibration", shop.calibration, "--format"]
    succeeds(*words, "c", "-o", tmp_path / "c")
    assert (tmp_path / "c" / "src" / "weights.bin").is_file() and not (tmp_path / "c" / "src" / "weights.c").exists()
    cmake(tmp_path / "c", tmp_path / "build")
    assert run(tmp_path / "build" / "predict").endswith(SAME)
    succeeds(*words, "c-single", "-o", tmp_path / "s")
    assert not list((tmp_path / "s").rglob("weights.bin"))
    program = [tmp_path / "s" / "model.c", tmp_path / "s" / "examples" / "predict.c"]
    assert host_program(tmp_path / "run", program, [tmp_path / "s"]).endswith(SAME)


# --- constants as arrays ------------------------------------------------------------------------------------


def read_arrays(folder: Path, out: Path, prefix: str) -> ctypes.CDLL:
    """The arrays, compiled into a library."""
    source = folder / f"{prefix}_arrays.c"
    run("gcc", *STRICT, "-shared", "-fPIC", source, "-o", out)
    return ctypes.CDLL(str(out))


def c_array(library: ctypes.CDLL, symbol: str, dtype: type, count: int) -> np.ndarray:
    kind = np.ctypeslib.as_ctypes_type(dtype)
    return np.ctypeslib.as_array((kind * count).in_dll(library, symbol)).copy()


def unpacked(packed: np.ndarray, rows: int, width: int) -> np.ndarray:
    """int4 by the rules in the header's comment: a byte has two, the earlier one low, and rows begin with a byte."""
    found = np.zeros((rows, width), np.int64)
    stride = (width + 1) // 2
    for row in range(rows):
        for column in range(width):
            nibble = int(packed[row * stride + column // 2]) >> (4 * (column % 2)) & 15
            found[row, column] = nibble - 16 if nibble > 7 else nibble
    return found


@pytest.mark.parametrize("scheme", ["int8", "int4x8", "float32"])
def test_arrays_hold_the_models_numbers(scheme: str, shop: Workshop, tmp_path: Path) -> None:
    """Every constant as a real number, made from the arrays by what their header says, is the graph's."""
    calibration = None if scheme == "float32" else shop.calibration
    words: list[str | Path] = [] if calibration is None else ["--calibration", calibration]
    succeeds(
        "export", shop.model, "--format", "c-arrays", "--prefix", "g", "--scheme", scheme, *words, "-o", tmp_path / "a"
    )
    graph = quantize_samples(shop.model, calibration, scheme)[1]
    library = read_arrays(tmp_path / "a", tmp_path / "arrays.so", "g")
    header = (tmp_path / "a" / "g_arrays.h").read_text()
    listed = re.findall(r"/\* (\S+): (s4|s8|s16|s32|f32) [^\n]*\*/\nextern const \w+ (\w+)\[(\d+)\];", header)
    assert {name for name, *_ in listed} == set(graph.constants) and len(listed) > 8
    kinds = {"s4": np.uint8, "s8": np.int8, "s16": np.int16, "s32": np.int32, "f32": np.float32}
    for name, kind, symbol, count in listed:
        type_, values = graph.types[name], graph.constants[name]
        found = c_array(library, symbol, kinds[kind], int(count))
        found = unpacked(found, type_.rows, type_.width) if kind == "s4" else found
        assert np.array_equal(found.reshape(values.shape), values), name
        quant = type_.quant
        if quant is None:
            continue
        if quant.axis is None:
            scale = re.findall(rf"#define {symbol.upper()}_SCALE (\S+)f\n", header)
            assert np.float32(scale[0]) == np.float32(quant.scale[0])
            assert f"#define {symbol.upper()}_ZERO_POINT ({quant.zero_point})\n" in header
        else:
            scales = c_array(library, f"{symbol}_scale", np.float32, len(quant.scale))
            assert np.array_equal(scales, np.asarray(quant.scale, np.float32)) and f"axis {quant.axis}" in header
        if quant.block_multipliers:
            blocks = np.asarray(quant.block_multipliers)
            assert np.array_equal(c_array(library, f"{symbol}_blocks", np.uint8, blocks.size), blocks.reshape(-1))
    assert any(kind == "s4" for _, kind, *_ in listed) == (scheme == "int4x8")
    for node in graph.nodes:
        assert re.search(rf"^ \* {re.escape(node.output)} = {node.op.kind}\(", header, re.MULTILINE)


# --- language models ----------------------------------------------------------------------------------------


def test_a_language_model_writes_its_text(tale: Callable[[str], Path], place: Path, tmp_path: Path) -> None:
    folder = tale("platformio")
    assert package_checks.pages(folder) == package_checks.platformio(folder) == []
    sources = [*compiled(folder / "src"), *compiled(folder / "examples")]
    printed = host_program(tmp_path / "run", sources, [folder / "include", folder / "src"])
    words = ["--prompt", "The", "--tokens", "16", "--greedy", "--target", "reference", "--json"]
    assert printed == "The" + succeeds("generate", model_folder(place), *words).record["text"] + "\n" + WROTE
    card = json.loads((folder / "model_card.json").read_text())
    assert card["context"] == 64 and card["ram_bytes"]["state"] > 0 and "accuracy" in card


def test_a_language_model_is_an_arduino_library(tale: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tale("arduino")
    assert package_checks.arduino(folder) == []
    assert sketch(folder, "WriteText", tmp_path / "host").endswith(WROTE)


@pytest.mark.slow
def test_a_language_model_is_a_sketch_for_arm(tale: Callable[[str], Path], tmp_path: Path, arm_tools: None) -> None:
    arm_sketch(tale("arduino"), "WriteText", tmp_path / "arm")


@pytest.mark.parametrize("form", ["esp-idf", "zephyr", "cmsis-pack"])
def test_a_language_model_has_the_other_packages(form: str, tale: Callable[[str], Path]) -> None:
    assert getattr(package_checks, form.replace("-", "_"))(tale(form)) == []


# --- the same again, and what is refused --------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("form", ["c-arrays", "c-single", "cmsis-pack", "zephyr"])
def test_the_same_model_gives_the_same_bytes(form: str, export: Export, shop: Workshop, tmp_path: Path) -> None:
    succeeds("export", shop.model, "--format", form, "--prefix", "gesture", "--calibration", shop.calibration,
             "--inputs", shop.inputs, "--scheme", "int8", "-o", tmp_path / "again")  # fmt: skip
    assert tree(tmp_path / "again") == tree(export(form))


def test_what_cannot_be_is_refused(shop: Workshop, tmp_path: Path) -> None:
    words = ["export", shop.model, "--format", "arduino", "--calibration", shop.calibration, "-o"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    refuses([*words, tmp_path / "mine"], "holds other files")
    (tmp_path / "folder.zip").mkdir()
    refuses([*words, tmp_path / "folder.zip"], "is a folder", ".zip")
    refuses([*words, tmp_path / "a", "--target", "nowhere"], "unknown target 'nowhere'")
    refuses([*words, tmp_path / "a", "--prefix", "Arduino"], "prefix 'Arduino'")
    np.savez(tmp_path / "other.npz", z=np.zeros((2, 3), np.float32))
    refuses([*words, tmp_path / "a", "--inputs", tmp_path / "other.npz"], "no array 'x'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.zip", "mine", "other.npz"]
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"


BROKEN: dict[str, tuple[str, str, str, str]] = {
    "arduino": ("library.properties", "version=", "release=", "no version"),
    "platformio": ("library.json", '"gesture.h"', '"gestures.h"', "no header"),
    "esp-idf": ("idf_component.yml", "version:", "release:", "idf_component.yml: release"),
    "zephyr": ("samples/predict/prj.conf", "PICOFORMER_GESTURE", "PICOFORMER_OTHER", "does not switch the module on"),
    "cmsis-pack": ("picoformer.gesture.pdsc", 'name="src/weights.c"', 'name="src/weight.c"', "weights.c is not in"),
}
"""Form → a file, what is changed in it, and what a checker must say then."""


@pytest.mark.parametrize("form", BROKEN)
def test_the_checkers_see_what_is_wrong(form: str, export: Export, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export(form), tmp_path / "broken"))
    name, before, after, said = BROKEN[form]
    text = (folder / name).read_text()
    assert before in text
    (folder / name).write_text(text.replace(before, after))
    assert any(said in line for line in getattr(package_checks, form.replace("-", "_"))(folder))
    (folder / "LICENSE").unlink()
    assert package_checks.pages(folder) == ["no LICENSE"]
