"""The kernels of host, word, armv6m and armv7m: the bytes of the definition, on this machine and in QEMU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from arm_library import FLAGS_M0, FLAGS_M3, M0, M3, ArmLibrary, dsp_opcodes
from c_library import FIRMWARE, FLAGS, Library, execute
from operator_cases import CASES, Case, of, then_activation, then_residual
from picoformer.backends.c.isa.armv6m import ARMV6M
from picoformer.backends.c.isa.armv7m import ARMV7M
from picoformer.backends.c.isa.host import HOST
from picoformer.backends.c.isa.word import WORD
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType
from picoformer.ops import Attention
from test_c_dsp import linear_case
from test_c_ops import ALIASES

S8, S16 = DType.INT8, DType.INT16
SYMBOLS = [name for name in CASES if "linear" in name or "attention" in name]
COMPILERS = {"host": "gcc", "word": "clang"}
SETS = {"host": HOST, "word": WORD, "armv6m": ARMV6M, "armv7m": ARMV7M}
CORES = {"armv6m": M0, "armv7m": M3}


class Waiting:
    """Results with what they must be; those of a core are there when it has run, as it does when its memory is full."""

    def __init__(self, library: Library) -> None:
        self.library, self.results = library, []

    def add(self, case: Case, alias: int | None = None, activated: DType | None = None) -> None:
        """A case; `activated`: with an activation to that type behind it."""
        then, expected = (None, case.expected) if activated is None else then_activation(case, activated)
        result = execute(self.library, case.lowered, *case.activations, alias=alias, then=then)[1]
        self.results.append((case.note, result, expected))
        if isinstance(self.library, ArmLibrary) and self.library.is_full:
            self.check()

    def add_to_residual(self, case: Case) -> None:
        """A case that is added to a residual."""
        residual, expected = then_residual(case)
        result = execute(self.library, case.lowered, *case.activations, residual=residual)[1]
        self.results.append((case.note, result, expected))
        if isinstance(self.library, ArmLibrary) and self.library.is_full:
            self.check()

    def check(self) -> None:
        if isinstance(self.library, ArmLibrary):
            self.library.run()
        for note, result, expected in self.results:
            np.testing.assert_array_equal(result, expected, note)
        self.results.clear()


@pytest.fixture(scope="module", params=["host", "word", "armv6m", "armv7m"])
def waiting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Waiting:
    """`host` and `word` on this machine, `armv6m` and `armv7m` in QEMU."""
    folder = tmp_path_factory.mktemp("operators")
    if request.param in CORES:
        request.getfixturevalue("arm_tools")
        return Waiting(ArmLibrary(folder, [request.param, "generic"], CORES[request.param]))
    return Waiting(Library.build(folder, COMPILERS[request.param], [request.param, "generic"]))


@pytest.mark.parametrize("symbol", CASES)
def test_equal_to_the_definition(symbol: str, waiting: Waiting) -> None:
    """Every case of an operator, and every one that may be computed in place so; on a core those of `generic` too."""
    if symbol not in SYMBOLS and not isinstance(waiting.library, ArmLibrary):
        return
    for case in CASES[symbol]():
        for alias in (None, *ALIASES.get(symbol, ())):
            if alias is None or case.activations[alias].shape == case.output.shape:
                waiting.add(case, alias)
    waiting.check()


@pytest.mark.parametrize("dtype", [S8, S16])
@pytest.mark.parametrize("weight", [S8, DType.INT4])
def test_linear_of_every_small_size(dtype: DType, weight: DType, waiting: Waiting) -> None:
    """K around every turn and chunk, odd N, rows below, at and past six, extremes only, outputs that clamp, with and
    without an activation."""
    rng = np.random.default_rng(0)
    sizes = [(1 + k % 9, 1 + k % 5, k) for k in (*range(1, 26), 63, 64, 65, 72, 127, 128, 129)]
    for index, (rows, n, k) in enumerate([*sizes, (13, 3, 200), (31, 2, 64), (50, 1, 9), (21, 5, 65), (31, 2, 64)]):
        data = rng.choice([dtype.minimum, dtype.maximum, int(rng.integers(-9, 9))], (rows, k)).astype(dtype.numpy)
        most = 127 if weight is S8 else 7
        values = rng.choice([-most, most, int(rng.integers(-most, most))], (n, k)).astype(np.int8)
        blocks = () if weight is S8 or index % 3 == 0 else rng.integers(1, 16, (n, -(-k // 32))).tolist()
        factor = (0.01, 2.0**15, 1.0)[index % 3] / (1 if dtype is S8 else 256)
        case = linear_case(data, values, (S8, S16)[index % 2], factor, weight, tuple(map(tuple, blocks)))
        if not case.lowered.wide:
            waiting.add(case)
            waiting.add(case, activated=(S8, S16)[index // 2 % 2])
            if case.output.dtype is S16:
                waiting.add_to_residual(case)
    waiting.check()


@pytest.mark.parametrize(
    "symbol", [name for name in SYMBOLS if name.startswith("pf_linear_") and name.endswith("_s16")]
)
def test_linear_added_to_a_residual(symbol: str, waiting: Waiting) -> None:
    """One call gives what a linear layer and a sum give one after another; rows that are computed twice get it once."""
    for case in CASES[symbol]():
        waiting.add_to_residual(case)
    waiting.check()


@pytest.mark.parametrize("columns", [64, 128, 192])
def test_the_largest_sums_of_three(columns: int, waiting: Waiting) -> None:
    """Rows that are all extremes, of every pairing of signs: three sums at the ends of what two words hold."""
    signs = np.array([[r >> 2 & 1, r >> 1 & 1, r & 1] for r in range(8)]).reshape(-1)
    data = np.repeat(np.where(signs, -128, 127)[:, None], columns, 1).astype(np.int8)
    weight = np.repeat(np.array([-127, 127, 1])[:, None], columns, 1).astype(np.int8)
    for y in (S8, S16):
        waiting.add(linear_case(data, weight, y, 0.0001))
    waiting.check()


@pytest.mark.parametrize("dtype", [S8, S16])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_odd_sizes(causal: bool, dtype: DType, waiting: Waiting) -> None:
    """Heads that fill no turn and more than a chunk, queries and keys around six and eight, extremes of both signs."""
    rng = np.random.default_rng(3)
    sizes = [
        (1, 1, 1, 1),
        (5, 5, 7, 3),
        (6, 9, 8, 5),
        (7, 16, 64, 8),
        (13, 17, 65, 9),
        (12, 12, 16, 16),
        (2, 8, 130, 1),
    ]
    for index, (queries, keys, size, value) in enumerate(sizes):
        for heads, groups in ((1, 1), (4, 2)):
            values = [dtype.minimum, dtype.maximum, int(rng.integers(dtype.minimum, dtype.maximum))]
            shapes = ((queries, heads * size), (keys, groups * size), (keys, groups * value))
            arrays = tuple(rng.choice(values, shape).astype(dtype.numpy) for shape in shapes)
            if index % 2:
                arrays[0][:], arrays[1][: len(arrays[1]) // 2] = dtype.minimum, dtype.minimum
            operands = tuple(Operand(of(a.shape, dtype, (1 + index % 3) * 0.25 / dtype.maximum)) for a in arrays)
            out = of((queries, heads * value), (S8, S16)[index % 2], 0.002)
            op = Attention(heads, 1.0 / size, causal, groups)
            waiting.add(Case(f"{queries} {keys} {size} {value} {heads}", op, operands, out, arrays))
    waiting.check()


@pytest.mark.parametrize("isa,core", [("word", FLAGS_M3), ("armv7m", FLAGS_M3), ("armv6m", FLAGS_M0)])
def test_free_of_warnings_and_of_opcodes_that_the_core_lacks(
    isa: str, core: list[str], tmp_path: Path, arm_tools: None
) -> None:
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / isa).glob("*.c"))]
    done = subprocess.run(["arm-none-eabi-gcc", *core, *FLAGS, "-c", *sources], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    objects = [path.name for path in sorted(tmp_path.glob("*.o"))]
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *objects]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert objects and dsp_opcodes(found) == set()


def test_every_layout_belongs_to_a_kernel() -> None:
    """A directory has a file for each layout that differs from plain C's, and no other."""
    for isa, instruction_set in SETS.items():
        for name in vars(instruction_set):
            file = FIRMWARE / "kernels" / isa / f"{name}.c"
            layout = getattr(instruction_set, name)
            plain = type(vars(layout).get("_linear", layout)).__module__.endswith(".layout")
            assert file.is_file() != plain, file
