"""Boards that are not here: their images and libraries, and the emulated core that stands in for them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from elftools.elf.elffile import ELFFile

import device_fixture
import graphs
from picoformer.backends.c import emit_c
from picoformer.backends.onnx.export import export_onnx
from picoformer.cli import main
from picoformer.decoder.writing import write_text
from picoformer.errors import FitError
from picoformer.firmware import build_firmware
from picoformer.generation import SamplerSettings, Stopping
from picoformer.library import build_library
from picoformer.reference import lower_graph, run_integer
from picoformer.targets import list_targets, load_target
from picoformer.verification import verify_files
from text_models import built

BOARDS = [name for name in list_targets() if load_target(name).stands_in]
IMAGES = [name for name in BOARDS if not load_target(name).is_library]


def test_the_boards_are_there() -> None:
    assert {"stm32f411-nucleo", "stm32f446-nucleo", "stm32h743-nucleo", "nrf52840-dk", "arduino-nano-33-ble"} == set(
        IMAGES
    )
    assert {"rp2040-pico", "rp2350-pico2", "esp32-c3", "esp32-s3", "coral-dev-board-micro"} < set(BOARDS)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_lies_where_its_board_starts_it(name: str, arm_tools: None, tmp_path: Path) -> None:
    target = load_target(name)
    build = build_firmware(device_fixture.write_model(tmp_path / "m"), target, tmp_path / "out", strict=True)
    code, data = target.region("code"), target.region("data")
    with build.elf.open("rb") as stream:
        image = ELFFile(stream)
        symbols: Any = image.get_section_by_name(".symtab")
        address = {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols()}
        text: Any = image.get_section_by_name(".text")
        stack, reset = struct.unpack("<II", text.data()[:8])
        assert text["sh_addr"] == code.origin
        assert (stack, reset) == (address["pf_fault_stack_top"], address["pf_reset"])
        assert data.origin <= address["pf_stack_limit"] < stack < data.end and stack % 8 == 0
        assert reset & 1 and code.origin < reset < code.end
        for segment in image.iter_segments():
            if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                assert code.origin <= segment["p_paddr"] and segment["p_paddr"] + segment["p_filesz"] <= code.end
    assert not build.elf.with_name("firmware.map").read_text().count("exit_semihosting"), "a bkpt without a debugger"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small float model with samples: model.onnx, samples.npz."""
    folder, case = tmp_path_factory.mktemp("model"), graphs.prenorm_encoder()
    export_onnx(case.graph, folder / "model.onnx")
    np.savez(folder / "samples.npz", **case.samples)
    return folder


def _build(model: Path, target: str, out: Path) -> str:
    """What `picoformer build` prints."""
    options = ["--calibration", str(model / "samples.npz"), "--target", target, "-o", str(out)]
    done = CliRunner().invoke(main, ["build", str(model / "model.onnx"), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_stands_in_is_run_and_named(model: Path, tmp_path: Path, arm_tools: None) -> None:
    out = tmp_path / "out"
    verify = ["verify", str(out), "--inputs", str(model / "samples.npz"), "--samples", "2"]
    printed = _build(model, "rp2040-pico", out)
    assert "emulate and verify run firmware of mps2-an385-m0 instead" in printed
    assert "for a project of the Raspberry Pi Pico SDK" in printed
    table = CliRunner().invoke(main, verify).output
    assert "rp2040-pico, run as the firmware of mps2-an385-m0, which stands in for it" in " ".join(table.split())
    found = json.loads(CliRunner().invoke(main, [*verify, "--json"]).output)
    assert (found["target"], found["ran_on_stand_in"], found["passed"]) == ("rp2040-pico", "mps2-an385-m0", True)
    assert found["links"][-2]["to"] == "mps2-an385-m0" and found["links"][-2]["equal"]
    sizes = json.loads((out / "rp2040-pico" / "size.json").read_text())
    assert found["flash_bytes"]["total"] == sizes["flash"]["total"] == sizes["flash"]["model"] + sizes["flash"]["code"]
    assert found["ram_bytes"]["arena"] == sizes["ram"]["arena"] and found["instructions"]["per_inference"] > 1000
    emulated = CliRunner().invoke(main, ["emulate", *verify[1:], "--json"]).output
    assert json.loads(emulated)["ran_on_stand_in"] == "mps2-an385-m0"


def test_what_cannot_be_compiled_here_is_a_component_without_sizes(
    model: Path, tmp_path: Path, riscv_tools: None
) -> None:
    if shutil.which("xtensa-esp32s3-elf-gcc"):
        pytest.skip("Espressif's compiler is here, so sizes are known")
    out = tmp_path / "out"
    printed = _build(model, "esp32-s3", out)
    assert (
        "not compiled, so flash and RAM are not known: xtensa-esp32s3-elf-gcc is not installed; get it with ESP-IDF"
        in printed
    )
    record = json.loads((out / "esp32-s3" / "size.json").read_text())
    assert record["flash"] is None and record["ram"] is None
    found = verify_files(out, model / "samples.npz", limit=1).to_json()
    assert found["flash_bytes"]["total"] is None and found["ram_bytes"]["arena"] is None
    assert found["ran_on_stand_in"] == "riscv32-virt" and found["passed"]
    component = (out / "esp32-s3" / "model" / "CMakeLists.txt").read_text()
    assert "idf_component_register(" in component and '"firmware/ops/' in component
    assert (out / "esp32-s3" / "model" / "idf_component.yml").read_text().startswith('version: "')


def _compile_for_this_machine(folders: list[Path], main_c: str, out: Path) -> Path:
    """A program from nothing but the folders of a library, in the way their CMakeLists.txt say."""
    out.mkdir()
    (out / "main.c").write_text(main_c)
    command = ["gcc", "-std=c99", "-O2", "-ffp-contract=off"]
    for folder in folders:
        text = (folder / "CMakeLists.txt").read_text()
        private = re.findall(r'"([^"]+)"', re.findall(r"PRIV_INCLUDE_DIRS (.*)", text)[0])
        command += [f"-I{folder / place}" for place in ("include", *private)]
        command += [f"-D{define}" for define in re.findall(r"definitions\(\S+ PRIVATE (.*)\)", text)]
        command += [str(folder / name) for name in re.findall(r'^        "(.+)"$', text, re.MULTILINE)]
    subprocess.run([*command, str(out / "main.c"), "-o", str(out / "run")], check=True)
    return out / "run"


def test_a_library_is_complete_and_computes_the_model(tmp_path: Path) -> None:
    case = graphs.prenorm_encoder()
    graph, target = case.quantized(), load_target("esp32-s3")
    made = emit_c(graph, target.isa, "model", tmp_path / "source")
    folder = build_library(tmp_path / "source", target, tmp_path / "out", "model", made.arena_bytes).folder
    shutil.rmtree(tmp_path / "source")
    program = _compile_for_this_machine([folder], _MAIN, tmp_path / "program")
    frames = case.samples["frames"][:1]
    done = subprocess.run([program], input=frames.tobytes(), capture_output=True, check=True)
    expected = run_integer(lower_graph(graph), {"frames": frames})["logits"]
    assert done.stdout == expected.astype(graph.types["logits"].dtype.numpy).tobytes()


def test_a_program_with_the_library_is_verified_on_a_port(model: Path, tmp_path: Path, riscv_tools: None) -> None:
    """All of the chain, with a program of two functions and a call at its end, as on a board."""
    out = tmp_path / "out"
    _build(model, "esp32-s3", out)
    folders = [out / "esp32-s3" / name for name in ("model", "model_wire")]
    program = _compile_for_this_machine(folders, _SERVE, tmp_path / "program")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(30)
        number = listener.getsockname()[1]
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(verify_files, out, model / "samples.npz", port=f"socket://127.0.0.1:{number}", limit=2)
            line, _ = listener.accept()
            with line, subprocess.Popen([program], stdin=line, stdout=line) as process:
                found = future.result(60).to_json()
                process.kill()
    assert found["passed"] and found["ran_on_stand_in"] is None
    assert found["links"][-2]["equal"] and found["links"][-2]["to"].startswith("socket://")
    assert found["ram_bytes"]["stack"] is None and found["instructions"]["per_inference"] is None


def test_a_program_with_a_language_model_writes_on_a_port(place: Path, tmp_path: Path, riscv_tools: None) -> None:
    """The folders hold all that its text takes: the seam, sampler, tokenizer, and the wire's messages."""
    build = built(place, "int8x16", "esp32-s3")
    folders = [build.build.folder / "esp32-s3" / name for name in ("model", "model_wire")]
    assert (folders[0] / "include" / "picoformer" / "generate.h").is_file()
    assert (folders[0] / "include" / "model_tokenizer.h").is_file()
    program = _compile_for_this_machine(folders, _SERVE, tmp_path / "program")
    greedy, prompt = SamplerSettings(greedy=True), [1, 40, 41]
    wanted = write_text(build, prompt, greedy, Stopping(5), "reference").generated
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(30)
        port = f"socket://127.0.0.1:{listener.getsockname()[1]}"
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(write_text, build, prompt, greedy, Stopping(5), port=port)
            line, _ = listener.accept()
            with line, subprocess.Popen([program], stdin=line, stdout=line) as process:
                found = future.result(60)
                process.kill()
    assert found.generated == wanted and found.cost.per_token is None
    main_c = (
        '#include "model_decoder.h"\n#include "model_tokenizer.h"\nint main(void) { return model_tokenizer.size == 0; }'
    )
    _compile_for_this_machine(folders[:1], main_c, tmp_path / "user")  # what a program of its own includes


_SERVE = """
#include <unistd.h>
#include "picoformer/port.h"
#include "picoformer/wire.h"
int pf_port_read(void) { unsigned char byte; return read(0, &byte, 1) == 1 ? byte : -1; }
void pf_port_write(uint8_t byte) { if (write(1, &byte, 1) != 1) _exit(1); }
int main(void) { pf_wire_serve(); return 0; }
"""
_MAIN = """
#include <stdio.h>
#include "model.h"
static uint8_t arena[MODEL_ARENA_BYTES] MODEL_ALIGN16;
static float frames[MODEL_INPUT_FRAMES_COUNT];
int main(void)
{
    model_t m;
    if (fread(frames, sizeof *frames, MODEL_INPUT_FRAMES_COUNT, stdin) != MODEL_INPUT_FRAMES_COUNT) return 1;
    if (model_init(&m, arena, sizeof arena) < 0) return 2;
    model_quantize_frames(frames, model_input_frames(&m));
    if (model_run(&m) < 0) return 3;
    return fwrite(model_output_logits(&m), sizeof *model_output_logits(&m), MODEL_OUTPUT_LOGITS_COUNT, stdout) ? 0 : 4;
}
"""


@pytest.mark.parametrize(
    ("name", "own"), [("rp2350-pico2", "add_library("), ("coral-dev-board-micro", "add_library_m7(")]
)
def test_an_archive_holds_what_its_sizes_say(name: str, own: str, arm_tools: None, tmp_path: Path) -> None:
    graph, target = graphs.prenorm_encoder().quantized(), load_target(name)
    made = emit_c(graph, target.isa, "model", tmp_path / "source")
    built = build_library(tmp_path / "source", target, tmp_path / "out", "model", made.arena_bytes, strict=True)
    assert own in (built.folder / "CMakeLists.txt").read_text()
    assert built.archive is not None and built.sizes is not None
    listed = subprocess.run(["arm-none-eabi-size", "-t", built.archive], capture_output=True, text=True, check=True)
    whole = int(listed.stdout.splitlines()[-1].split()[0])
    flash, ram = built.sizes.flash, built.sizes.ram
    assert 0.5 * whole < flash.total == flash.model + flash.code <= whole
    assert made.weights_bytes <= flash.model < made.weights_bytes + 2000
    assert (ram.arena, ram.total) == (made.arena_bytes, made.arena_bytes + ram.data)
    small = target.model_copy(update={"memory": [r.model_copy(update={"length": 4096}) for r in target.memory]})
    with pytest.raises(
        FitError, match=rf"does not fit {name}: flash \(\w+\) needs {flash.total:,} bytes and has 4,096"
    ):
        build_library(tmp_path / "source", small, tmp_path / "small", "model", made.arena_bytes)


def test_the_list_says_what_a_board_is_and_what_runs_it() -> None:
    *rows, legend = CliRunner().invoke(main, ["targets"]).output.splitlines()
    assert legend.startswith("MHz: ")
    assert [row.split()[0] for row in rows] == ["name", *list_targets()]
    row = next(row for row in rows if row.startswith("stm32f411-nucleo"))
    assert re.split(r" {2,}", row) == ["stm32f411-nucleo", "cortex-m4", "16 (100)", "512 KB", "128 KB", "dsp, generic",
                                       "image", "stands in: netduinoplus2", "stm32"]  # fmt: skip
    assert "QEMU riscv32 virt" in next(row for row in rows if row.startswith("riscv32-virt"))
    records = {row["name"]: row for row in json.loads(CliRunner().invoke(main, ["targets", "--json"]).output)}
    assert list(records) == list_targets()
    pico = records["rp2040-pico"]
    assert (pico["clock_hz"], pico["max_clock_hz"], pico["flash_bytes"], pico["ram_bytes"]) == (
        125e6,
        133e6,
        2 << 20,
        1 << 18,
    )
    assert (pico["builds"], pico["emulator"], pico["stands_in"]) == ("library", None, "mps2-an385-m0")
    assert (pico["flasher"], records["microbit"]["flasher"], records["host"]["flasher"]) == ("uf2", "daplink", None)
    assert records["microbit"]["emulator"] == "qemu-system-arm -M microbit"
    assert records["host"]["flash_bytes"] is records["host"]["clock_hz"] is None
