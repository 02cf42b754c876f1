"""One C file and one header: clean under strict compilers, the same bytes as the folder, no name that clashes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from command_line import Workshop, open_workshop, succeeds
from conftest import require_tools
from package_programs import MACHINES, RV32, STRICT, compiled, emulated, host_program, run
from picoformer.packages.c_names import expanded, names_of, tokens
from picoformer.targets import resource_root
from text_models import model_folder

FIRMWARE = resource_root("firmware")
SAME = "the outputs are those of the reference\n"
TARGETS = ["host", "generic", *MACHINES]
Single = Callable[[str, str], Path]
COMPILERS = {"host": ("gcc",), "generic": ("gcc",), "riscv32-virt": RV32,
             **{target: ("arm-none-eabi-gcc", *machine.flags) for target, machine in MACHINES.items()
                if target != "riscv32-virt"}}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def single(shop: Workshop, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Single:
    """(target, scheme) → the folder with the one file, of the small encoder or, for "text …", language model."""

    @cache
    def make(target: str, scheme: str) -> Path:
        out = tmp_path_factory.mktemp("single") / "out"
        words = ["--format", "c-single", "--target", target, "--scheme", scheme.removeprefix("text "), "-o", out]
        if scheme.startswith("text "):
            succeeds("export", model_folder(place), *words)
        else:
            calibration = [] if scheme == "float32" else ["--calibration", shop.calibration]
            succeeds("export", shop.model, *calibration, "--inputs", shop.inputs, *words)
        return out

    return make


def clean(folder: Path, target: str, out: Path) -> None:
    """Compile the one file as strictly as it is promised to be clean, for the core that its kernels are for."""
    run(*COMPILERS[target], *STRICT, "-O2", "-c", folder / "model.c", "-o", out)


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_clean_and_runs_on_each_core(
    target: str, single: Single, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    require_tools("host" if target == "generic" else target, request)
    folder = single(target, "int8")
    assert {path.name for path in folder.glob("*.[ch]")} == {"model.c", "model.h"}
    sources = [folder / "model.c", folder / "examples" / "predict.c"]
    if target in MACHINES:
        printed = emulated(target, tmp_path / "run", sources, [folder])
    else:
        printed = host_program(tmp_path / "run", sources, [folder])
    assert printed.endswith(SAME)


SWEEP = [(target, scheme) for target in ("host", *MACHINES) for scheme in ("int4x8", "text int8x16")]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "scheme"), [*SWEEP, ("host", "float32"), ("mps2-an386", "text int4x16")])
def test_other_schemes_are_clean_on_each_core(
    target: str, scheme: str, single: Single, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    require_tools(target, request)
    folder = single(target, scheme)
    clean(folder, target, tmp_path / "model.o")
    example = folder / "examples" / ("write_text.c" if scheme.startswith("text") else "predict.c")
    if target in MACHINES:
        printed = emulated(target, tmp_path / "run", [folder / "model.c", example], [folder])
    else:
        printed = host_program(tmp_path / "run", [folder / "model.c", example], [folder])
    assert printed.endswith(("of the reference\n",)) and "DIFFER" not in printed


def test_the_file_is_clean_for_clang_and_for_cplusplus(single: Single, tmp_path: Path) -> None:
    folder = single("host", "text int8x16")
    run("clang", *STRICT, "-O1", "-c", folder / "model.c", "-o", tmp_path / "model.o")
    (tmp_path / "user.cpp").write_text(
        '#include "model_decoder.h"\n#include "model_tokenizer.h"\n'
        "int main() { pf_decoder d; model_texts t = {0, 0, 1}; model_decoder(&t, &d);\n"
        "return pf_tokenizer_decode(&model_tokenizer, -1, 0, 0, 0) < 0 ? 0 : 1; }\n"
    )
    plus = ["-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{folder}"]
    run("clang++", *plus, "-c", tmp_path / "user.cpp", "-o", tmp_path / "user.o")
    run("clang", tmp_path / "user.o", tmp_path / "model.o", "-o", tmp_path / "user")
    run(tmp_path / "user")


DUMP = r"""
#include <stdio.h>
#include "model.h"
static uint8_t arena[MODEL_ARENA_BYTES] MODEL_ALIGN16;
static float x[MODEL_INPUT_X_COUNT];
int main(void)
{
    model_t m;
    if (model_init(&m, arena, sizeof arena) < 0)
        return 1;
    while (fread(x, sizeof *x, MODEL_INPUT_X_COUNT, stdin) == MODEL_INPUT_X_COUNT) {
        model_quantize_x(x, model_input_x(&m));
        if (model_run(&m) < 0)
            return 2;
        fwrite(model_output_y(&m), sizeof *model_output_y(&m), MODEL_OUTPUT_Y_COUNT, stdout);
        fwrite(arena, 1, sizeof arena, stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("target", ["host", pytest.param("generic", marks=pytest.mark.slow)])
def test_the_file_computes_what_the_folder_does(target: str, single: Single, shop: Workshop, tmp_path: Path) -> None:
    """Byte for byte, the whole arena too, on inputs that nothing was calibrated for."""
    one = single(target, "int8")
    folder = tmp_path / "folder"
    succeeds("export", shop.model, "--format", "c", "--target", target, "--calibration", shop.calibration,
             "--inputs", shop.inputs, "-o", folder)  # fmt: skip
    (tmp_path / "dump.c").write_text(DUMP)
    given = np.random.default_rng(3).normal(0, 3, (20, 30)).astype(np.float32).tobytes()
    found = []
    for name, level, sources, places in (
        ("one", "-O2", [one / "model.c"], [one]),
        ("folder", "-O0", compiled(folder / "src"), [folder / "include", folder / "src"]),
    ):
        run("gcc", level, "-std=c99", *(f"-I{place}" for place in places), *sources, tmp_path / "dump.c",
            "-o", tmp_path / f"run_{name}")  # fmt: skip
        found.append(subprocess.run([tmp_path / f"run_{name}"], input=given, capture_output=True, check=True).stdout)
    assert found[0] == found[1] and len(found[0]) > 20 * 3 * 2


def local_and_global(path: Path, out: Path) -> tuple[set[str], set[str]]:
    """What the compiler says: functions and variables that a file keeps to itself, and those that it gives away."""
    keep = ["-O0", "-fkeep-static-functions", "-fkeep-inline-functions", "-w"]
    run("gcc", "-std=c99", *keep, f"-I{FIRMWARE / 'include'}", "-c", path, "-o", out)
    local, visible = set(), set()
    for line in run("nm", out).splitlines():
        kind, name = line.split()[-2:]
        if kind in "tdrb" and "." not in name:  # those of a function have a number behind a dot
            local.add(name)
        elif kind in "TDRB":
            visible.add(name)
    return local, visible


PLAIN = [path for place in ("ops", "text", "kernels/generic", "kernels/word", "kernels/host")
         for path in sorted((FIRMWARE / place).glob("*.c"))]  # fmt: skip
"""What compiles for this machine."""


def compare_names(paths: Sequence[Path], out: Path) -> int:
    """Hold the names of files, read by c_names, to those that nm reads out of objects; how many have pasted ones."""
    several = 0
    for path in paths:
        local, visible = local_and_global(path, out)
        found = names_of(whole(path))
        assert local <= found.private, (path.name, local - found.private)
        assert visible <= found.public, (path.name, visible - found.public)
        assert not visible & found.private
        several += bool(found.pasted)
    return several


def test_names_are_those_that_the_compiler_finds(tmp_path: Path) -> None:
    assert compare_names(PLAIN[::9], tmp_path / "object.o") > 1


@pytest.mark.slow
def test_names_of_every_file_are_those_that_the_compiler_finds(tmp_path: Path) -> None:
    assert compare_names(PLAIN, tmp_path / "object.o") > 15 and len(PLAIN) > 80


def whole(path: Path, seen: set[Path] | None = None) -> str:
    """A file with all that it includes in quotes in its place."""
    known = set() if seen is None else seen
    known.add(path)

    def header(match: re.Match[str]) -> str:
        here = path.parent / match[1]
        other = here if here.is_file() else FIRMWARE / "include" / match[1]
        return "" if other in known else whole(other, known)

    return re.sub(r'^#include "([^"]+)"\n', header, path.read_text(), flags=re.MULTILINE)


PREPROCESSED = r"""
#define GLUE(A, B) A##_##B
#define TWICE(X) X X
#define NAME(K) GLUE(sum, K)
#define TEXT(X) #X
#define EMPTY
#define SELF SELF + 1
NAME(s8) GLUE(, x) GLUE(y, ) NAME() TWICE(NAME(s16)) TEXT(a b) EMPTY SELF GLUE NAME (q)
"""


def test_macros_expand_as_the_preprocessor_has_them(tmp_path: Path) -> None:
    (tmp_path / "text.c").write_text(PREPROCESSED)
    cpp = shutil.which("gcc")
    assert cpp is not None
    expected = tokens(run(cpp, "-E", "-P", tmp_path / "text.c"))
    macros: dict[str, object] = {}
    *defines, use = PREPROCESSED.strip().split("\n")
    names_of("\n".join([*defines, ""]), macros)  # type: ignore[arg-type]
    assert [t.text for t in expanded(tokens(use), macros)] == [t.text for t in expected]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "private", "public"),
    [
        ("static int a, *b = 0, c[3];", {"a", "b", "c"}, set()),
        ("static inline int f(int x) { int y = x; return y; }\nvoid g(void);", {"f"}, {"g"}),
        ("typedef struct pair { int left, right; } pair;\nenum { ONE, TWO = 2 };", {"pair", "ONE", "TWO"}, set()),
        ("extern const int table[4];\nconst int table[4] = {1, 2};", set(), {"table"}),
        ("static const struct { int a; } rows[] = {{1}};", {"rows"}, set()),
        ("__attribute__((noinline)) static void h(void) {}", {"h"}, set()),
        ("#define D(K) static int v_##K;\nD(s8)\nD(s16)\n", {"v_s8", "v_s16"}, set()),
        ("typedef int take(void *user);\nstruct later;\n", {"take"}, set()),
    ],
)
def test_names_of_declarations(text: str, private: set[str], public: set[str]) -> None:
    found = names_of(text)
    assert (set(found.private), set(found.public)) == (private, public)


def test_what_is_left_out_of_the_sections_is_missed(single: Single, tmp_path: Path) -> None:
    """The names are told apart for a reason: without it the compiler refuses the file."""
    text = (single("host", "int8") / "model.c").read_text()
    plain = re.sub(r"_in_(host|generic|dsp|mve|word)_\w+", "", text)
    assert plain != text
    (tmp_path / "model.c").write_text(plain)
    shutil.copy(single("host", "int8") / "model.h", tmp_path)
    command: Sequence[str] = ["gcc", "-std=c99", "-w", "-c", "model.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "redefinition" in done.stderr
