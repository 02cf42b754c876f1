"""Packages of C: by the rules of the places they go to, built as there, and equal to the reference when they run."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import package_checks
from command_line import Workshop, succeeds
from digits_student import SAMPLES as STUDENT_SAMPLES
from digits_student import trained
from package_programs import M33, RV32, STUBS, arm_sketch, cmake, compiled, emulated, host_program, run, sketch
from package_workshop import SAME, WROTE, Export, expected_line, export, gesture, shop, tale, tree, typed
from picoformer.build_folder import quantize_samples
from picoformer.cli_options import C_FORMS
from picoformer.datasets import digits
from picoformer.ir import Graph
from picoformer.packages.forms import FORMS
from picoformer.reference import lower_graph, run_integer
from text_models import model_folder

__all__ = ["export", "shop", "tale", "typed"]


def cross(compiler: Sequence[str]) -> list[str]:
    """CMake's options for a compiler for boards."""
    flags = f"-DCMAKE_C_FLAGS={' '.join(compiler[1:])} -Wall -Wextra -Werror"
    board = ["-DCMAKE_SYSTEM_NAME=Generic", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"]
    return [*board, f"-DCMAKE_C_COMPILER={compiler[0]}", flags]


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


@pytest.mark.slow
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
    words = gesture(shop, "arduino")
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
    listed = run("arm-none-eabi-ar", "t", tmp_path / "build" / "libpicoformer_gesture.a").split()
    assert sorted(listed) == sorted(f"{path.name}.obj" for path in compiled(folder / "src"))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_trained_digits_are_a_sketch_that_reads_one(tmp_path: Path, arm_tools: None) -> None:
    student, labels = trained(), digits(seed=0).y_test[:STUDENT_SAMPLES]
    np.savez(tmp_path / "calibration.npz", **student.calibration)
    np.savez(tmp_path / "test.npz", **student.test, labels=labels)
    words = ["--calibration", tmp_path / "calibration.npz", "--inputs", tmp_path / "test.npz", "--scheme", "int8"]
    succeeds("export", student.onnx, "--format", "arduino", "--prefix", "digits", *words, "-o", tmp_path / "digits")
    graph = quantize_samples(student.onnx, tmp_path / "calibration.npz", "int8")[1]
    (output,) = graph.outputs
    rows = run_integer(lower_graph(graph), {"x": student.test["x"]})[output].reshape(len(labels), -1).argmax(1)
    card = json.loads((tmp_path / "digits" / "model_card.json").read_text())
    assert card["accuracy"]["value"] == pytest.approx(float(np.mean(rows == labels)), abs=1e-12)
    assert card["accuracy"]["value"] > 0.8 and card["accuracy"]["samples"] == STUDENT_SAMPLES
    printed = sketch(tmp_path / "digits", "Predict", tmp_path / "host")
    assert printed.startswith(f"prediction: class {rows[0]}, ") and printed.endswith(SAME)
    arm_sketch(tmp_path / "digits", "Predict", tmp_path / "arm")


# --- language models ----------------------------------------------------------------------------------------


def test_a_language_model_writes_its_text(tale: Export, place: Path, tmp_path: Path) -> None:
    folder = tale("platformio")
    assert package_checks.pages(folder) == package_checks.platformio(folder) == []
    sources = [*compiled(folder / "src"), *compiled(folder / "examples")]
    printed = host_program(tmp_path / "run", sources, [folder / "include", folder / "src"])
    words = ["--prompt", "The", "--tokens", "16", "--greedy", "--target", "reference", "--json"]
    assert printed == "The" + succeeds("generate", model_folder(place), *words).record["text"] + "\n" + WROTE
    card = json.loads((folder / "model_card.json").read_text())
    assert card["context"] == 64 and card["ram_bytes"]["state"] > 0 and "accuracy" in card


@pytest.mark.slow
def test_a_language_model_is_an_arduino_library(tale: Export, tmp_path: Path) -> None:
    folder = tale("arduino")
    assert package_checks.arduino(folder) == []
    assert sketch(folder, "WriteText", tmp_path / "host").endswith(WROTE)


@pytest.mark.slow
def test_a_language_model_is_a_sketch_for_arm(tale: Export, tmp_path: Path, arm_tools: None) -> None:
    arm_sketch(tale("arduino"), "WriteText", tmp_path / "arm")


@pytest.mark.parametrize("form", ["esp-idf", "zephyr", "cmsis-pack"])
def test_a_language_model_has_the_other_packages(form: str, tale: Export) -> None:
    assert getattr(package_checks, form.replace("-", "_"))(tale(form)) == []


# --- the checkers themselves ---------------------------------------------------------------------------------


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
