"""Which compiler is chosen, what zig is told of a core, and what is read from LLVM's linker map."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_line import open_workshop, succeeds
from conftest import require_tools
from picoformer.compilers import Compiler, choose_compiler, find_zig, zig_compiler, zig_target
from picoformer.errors import ConfigError, ToolError
from picoformer.link_map import Piece, read_map
from picoformer.targets import Target, list_targets, load_target

BOARDS = [target.name for target in map(load_target, list_targets()) if not (target.is_host or target.is_library)]


def tool(folder: Path, *names: str) -> None:
    """Programs that say a version and nothing else."""
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {name} 1.2\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("flags", "triple", "cpu"),
    [
        ("-mcpu=cortex-m0 -mthumb", "thumb-freestanding-eabi", "cortex_m0"),
        ("-mcpu=cortex-m0plus", "thumb-freestanding-eabi", "cortex_m0plus"),
        ("-mcpu=cortex-m4 -mthumb -mfloat-abi=soft", "thumb-freestanding-eabi", "cortex_m4"),
        ("-mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard", "thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp"),
        ("-mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard", "thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16"),
        ("-mcpu=cortex-m33 -mfloat-abi=hard", "thumb-freestanding-eabihf", "cortex_m33+dsp+fp_armv8d16sp"),
        ("-mcpu=cortex-m33+nodsp", "thumb-freestanding-eabi", "cortex_m33"),
        ("-mcpu=cortex-m55 -mfloat-abi=hard", "thumb-freestanding-eabihf", "cortex_m55+mve_fp+fp_armv8d16"),
        ("-march=rv32imc -mabi=ilp32", "riscv32-freestanding-none", "generic_rv32+m+c"),
        ("-march=rv32imac_zicsr -mabi=ilp32", "riscv32-freestanding-none", "generic_rv32+m+a+c+zicsr"),
    ],
)
def test_a_core_in_the_words_of_zig(flags: str, triple: str, cpu: str) -> None:
    assert zig_target(flags.split()) == (triple, cpu)


def test_a_core_that_zig_does_not_know_is_refused() -> None:
    with pytest.raises(ToolError, match="no Cortex-M or rv32 in -mlongcalls; use gcc"):
        zig_target(["-mlongcalls"])


@pytest.mark.parametrize("board", BOARDS)
def test_both_compilers_know_the_same_core(board: str, pip_tools: None, request: pytest.FixtureRequest) -> None:
    """What decides which instructions may be used and how arguments are passed, as macros of gcc and of zig's clang."""
    require_tools(board, request)
    target = load_target(board)
    names = ["__ARM_FP", "__ARM_PCS_VFP", "__ARM_FEATURE_DSP", "__ARM_FEATURE_MVE", "__ARM_ARCH", "__SOFTFP__",
             "__ARM_FEATURE_UNALIGNED", "__thumb2__", "__riscv_xlen", "__riscv_mul", "__riscv_compressed",
             "__riscv_float_abi_soft", "__ARM_SIZEOF_WCHAR_T"]  # fmt: skip

    def macros(choice: str) -> dict[str, int]:
        command = [*choose_compiler(target, choice).compile, "-dM", "-E", "-x", "c", "/dev/null"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = dict(line.split(" ", 2)[1:] for line in text.splitlines() if line.count(" ") > 1)
        values = {name: int(found[name], 0) for name in names if name in found}
        if "__ARM_FP" in values:
            values["__ARM_FP"] &= 12  # single and double precision; of conversions from half gcc says nothing
        return values

    assert macros("gcc") == macros("zig")


def test_the_first_that_is_there_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip_tools: None) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "cache"))
    host, board = load_target("host"), load_target("mps2-an386")

    def kinds(choice: str = "auto") -> list[str]:
        return [choose_compiler(target, choice).kind for target in (host, board)]

    assert kinds() == ["zig", "zig"]
    tool(tmp_path, "clang", "gcc")
    assert kinds() == ["gcc", "zig"]
    with pytest.raises(ToolError, match=r"^arm-none-eabi-gcc is not installed; get it with: sudo apt-get"):
        kinds("clang")
    tool(tmp_path, "arm-none-eabi-gcc")
    assert kinds() == ["gcc", "gcc"]
    assert kinds("clang") == ["clang", "clang"] and kinds("zig") == ["zig", "zig"]
    monkeypatch.setenv("PICOFORMER_TOOLCHAIN", "clang")
    assert kinds() == ["clang", "clang"] and kinds("gcc") == ["gcc", "gcc"]
    monkeypatch.setenv("PICOFORMER_TOOLCHAIN", "tcc")
    with pytest.raises(ConfigError, match="unknown toolchain 'tcc'; use one of auto, gcc, clang, zig"):
        kinds()


def test_without_any_compiler_both_mends_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    assert find_zig() is None
    with pytest.raises(ToolError) as error:
        choose_compiler(load_target("mps2-an386"))
    assert str(error.value) == (
        "arm-none-eabi-gcc is not installed; get it with: sudo apt-get install gcc-arm-none-eabi "
        "libnewlib-arm-none-eabi, or without root, zig's compiler: pip install 'picoformer[emulator]'"
    )
    with pytest.raises(ToolError, match="ziglang is not installed; pip install"):
        choose_compiler(load_target("host"), "zig")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "file" / "below"))
    zig = find_zig()
    if zig is None:
        pytest.skip("ziglang is not installed")
    made: Compiler = zig_compiler(zig, load_target("host"))
    folder = Path(made.environment["ZIG_GLOBAL_CACHE_DIR"])
    assert folder.is_dir() and not folder.is_relative_to(tmp_path)


def test_the_map_of_llvm_is_read() -> None:
    text = """\
     VMA      LMA     Size Align Out     In      Symbol
       0        0     5bf4     4 .text
       0        0        0     1         pf_code_start = .
       0        0       c0     4         runtime/port_startup.o:(.pf_vectors)
       0        0       c0     1                 vectors
      c0       c0      2ee     4         model/model.o:(.text.model_step)
      c1       c1      2ee     1                 model_step
    5a58     5a58       ec     4         /c/o/2f/libcompiler_rt.a(/c/o/2f/compiler_rt_zcu.o):(.text.memcpy)
20001220 20001220     9c78    16 .bss
20001220 20001220     9400    16         runtime/descriptor.o:(.bss.arena)
20001220 20001220     9400     1                 arena
2000a620 2000a620        0     4         runtime/empty.o:(.bss)
"""
    assert read_map(text) == [
        Piece(".text", ".pf_vectors", 0, 0xC0, "runtime/port_startup.o"),
        Piece(".text", ".text.model_step", 0xC0, 0x2EE, "model/model.o"),
        Piece(".text", ".text.memcpy", 0x5A58, 0xEC, "/c/o/2f/libcompiler_rt.a(/c/o/2f/compiler_rt_zcu.o)"),
        Piece(".bss", ".bss.arena", 0x20001220, 0x9400, "runtime/descriptor.o"),
    ]


def test_a_board_is_compiled_for_its_own_core(pip_tools: None) -> None:
    """No flag of gcc's for the core reaches zig, which would take it for something else; all others do."""
    target: Target = load_target("mps2-an386")
    made = choose_compiler(target, "zig")
    assert not [flag for flag in made.compile if flag.startswith(("-mfpu", "-mfloat", "-mthumb", "-mcpu=cortex-"))]
    assert {"-ffreestanding", "-mcpu=cortex_m4+vfp4d16sp"} <= set(made.compile) and "-nostartfiles" in made.link
    assert not made.has_c_library and made.prints_map


@pytest.mark.parametrize("scheme", ["int8", "int8x16"])
def test_clangs_firmware_computes_the_same(
    scheme: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, arm_tools: None
) -> None:
    """Inline assembly is another program for another assembler: clang 14 took a difference of later labels for 0."""
    shop = open_workshop(tmp_path_factory.mktemp("workshop"))
    words = shop.build_words(tmp_path / "out", "mps2-an386", "--toolchain", "clang", "--scheme", scheme)
    assert "clang" in succeeds(*words, "--json").record["compilers"]["mps2-an386"]
    links = succeeds("verify", tmp_path / "out", "--inputs", shop.inputs, "--min-sqnr", "0", "--json").record["links"]
    assert next(link["equal"] for link in links if link["to"] == "mps2-an386") is True
