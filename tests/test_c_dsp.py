"""The kernels of firmware/kernels/dsp on an emulated Cortex-M4: the bytes of the definition; DSP opcodes only there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from arm_library import FLAGS_M4, ArmLibrary, dsp_opcodes
from c_library import FIRMWARE, FLAGS, execute
from operator_cases import CASES, Case, of, then_activation, then_residual
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import Attention, Linear, LoweredInterpolatedTable
from test_c_ops import ALIASES

DSP = ["dsp", "generic"]
S8, S16 = DType.INT8, DType.INT16


@pytest.fixture(scope="module", params=[False, True], ids=["many rows", "single rows"])
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), DSP, single_rows=request.param)


@pytest.mark.parametrize("symbol", CASES)
def test_equal_to_the_definition(symbol: str, core: ArmLibrary) -> None:
    """Every case of an operator, and every one that may be computed in place so, in a few runs of the emulator."""
    waiting = []

    def run() -> None:
        core.run()
        for note, result, expected in waiting:
            np.testing.assert_array_equal(result, expected, note)
        waiting.clear()

    for case in CASES[symbol]():
        for alias in (None, *ALIASES.get(symbol, ())):
            if alias is None or case.activations[alias].shape == case.output.shape:
                waiting.append(
                    (case.note, execute(core, case.lowered, *case.activations, alias=alias)[1], case.expected)
                )
        if core.is_full:
            run()
    run()


@pytest.mark.parametrize("y", [S8, S16])
@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_linear_") and "wide" not in s])
def test_linear_with_an_activation(symbol: str, y: DType, core: ArmLibrary) -> None:
    """One call gives what a linear layer and the table of an activation give one after another."""
    waiting = []
    for case in CASES[symbol]():
        then, expected = then_activation(case, y)
        waiting.append((case.note, execute(core, case.lowered, *case.activations, then=then)[1], expected))
    core.run()
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_linear_") and s.endswith("_s16")])
def test_linear_added_to_a_residual(symbol: str, core: ArmLibrary) -> None:
    """One call gives what a linear layer and a sum give one after another; odd rows and outputs get it once."""
    waiting = []
    for case in CASES[symbol]():
        residual, expected = then_residual(case)
        waiting.append((case.note, execute(core, case.lowered, *case.activations, residual=residual)[1], expected))
    core.run()
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


@pytest.mark.parametrize("size", [(1, 5), (3, 33), (5, 64), (67, 64), (21, 130)])
@pytest.mark.parametrize("factor", [0.01, 2.0**15])
@pytest.mark.parametrize("dtype", [S8, S16])
def test_linear_over_its_input(dtype: DType, factor: float, size: tuple[int, int], core: ArmLibrary) -> None:
    """As `in_place` of the layout says: rows as long as those of the input, in one block and in more."""
    assert core.layout.linear(dtype).in_place
    rng = np.random.default_rng(6)
    rows, k = size
    data = rng.integers(dtype.minimum, dtype.maximum + 1, (rows, k)).astype(dtype.numpy)
    weight = rng.integers(-127, 128, (k, k)).astype(np.int8)
    case = linear_case(data, weight, dtype, factor / (1 if dtype is S8 else 256))
    result = execute(core, case.lowered, *case.activations, alias=0)[1]
    core.run()
    np.testing.assert_array_equal(result, case.expected, case.note)


@pytest.mark.parametrize("size", [(1, 1, 5), (3, 5, 33), (5, 2, 64)])
def test_residual_of_sums_that_may_not_be_shifted_left(size: tuple[int, int, int], core: ArmLibrary) -> None:
    rng = np.random.default_rng(5)
    rows, n, k = size
    data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
    data[0] = 0
    case = linear_case(data, rng.integers(-127, 128, (n, k)).astype(np.int8), S16, 2.0**15)
    assert 32 - case.lowered.shift > case.lowered.headroom
    residual, expected = then_residual(case)
    result = execute(core, case.lowered, *case.activations, residual=residual)[1]
    core.run()
    np.testing.assert_array_equal(result, expected, case.note)


@pytest.mark.parametrize("then", [S8, S16])
@pytest.mark.parametrize("y", [S8, S16])
def test_activation_on_sums_that_may_not_be_shifted_left(y: DType, then: DType, core: ArmLibrary) -> None:
    rng = np.random.default_rng(3)
    for rows, n, k in ((1, 1, 5), (3, 5, 33), (5, 2, 64)):
        data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        data[0] = 0
        case = linear_case(data, rng.integers(-127, 128, (n, k)).astype(np.int8), y, 2.0**15)
        assert 32 - case.lowered.shift > case.lowered.headroom
        table, expected = then_activation(case, then)
        result = execute(core, case.lowered, *case.activations, then=table)[1]
        core.run()
        np.testing.assert_array_equal(result, expected, case.note)


@pytest.mark.parametrize("y", [S8, S16])
def test_interpolation_of_every_number(y: DType, core: ArmLibrary) -> None:
    """All 65536 of them, with a table that jumps from end to end, and a count that is no multiple of four."""
    x = np.arange(-32768, 32768, dtype=np.int16)
    table = np.where(np.arange(513) % 3 == 0, 32767, -32768).astype(np.int16)
    table[256:] = np.random.default_rng(4).integers(-32768, 32768, 257)
    for part in (x, x[3:]):
        lowered = LoweredInterpolatedTable(table, of(part.shape, S16, 0.1), of(part.shape, y, 0.1))
        result = execute(core, lowered, part)[1]
        core.run()
        np.testing.assert_array_equal(result, lowered.execute(part))


@pytest.mark.parametrize("x,y", [(S8, S8), (S8, S16), (S16, S16)])
def test_linear_of_every_small_size(x: DType, y: DType, core: ArmLibrary) -> None:
    """K from 1 to 33 and past a turn of the unrolled loop, odd and even rows and outputs, more rows than a block."""
    rng = np.random.default_rng(0)
    sizes = [(1 + k % 4, 1 + k % 5, k) for k in (*range(1, 34), 63, 64, 65, 100, 129)] + [(21, 3, 512), (9, 2, 1030)]
    for rows, n, k in sizes:
        extremes = [x.minimum, x.maximum, int(rng.integers(x.minimum, x.maximum + 1))]
        data = rng.choice(extremes, (rows, k)).astype(x.numpy)
        weight = rng.choice([-127, 127, int(rng.integers(-127, 128))], (n, k)).astype(np.int8)
        check(core, linear_case(data, weight, y, 0.01 if x is S8 else 0.01 / 256))


@pytest.mark.parametrize("y", [S8, S16])
@pytest.mark.parametrize("x", [S8, S16])
def test_int4_linear_of_every_small_size(x: DType, y: DType, core: ArmLibrary) -> None:
    """K from 1 to 33 and around more blocks, odd and even rows and outputs, all multipliers, sums past a left shift."""
    rng = np.random.default_rng(2)
    sizes = [(1 + k % 4, 1 + k % 5, k) for k in (*range(1, 34), 63, 64, 65, 100, 129)] + [(21, 3, 512)]
    waiting = []
    for index, (rows, n, k) in enumerate(sizes):
        data = rng.choice([x.minimum, x.maximum, int(rng.integers(x.minimum, x.maximum))], (rows, k)).astype(x.numpy)
        weight = rng.integers(-8, 8, (n, k)).astype(np.int8)
        blocks = tuple(map(tuple, rng.integers(1, 16, (n, -(-k // 32))).tolist())) if index % 3 else ()
        case = linear_case(data, weight, y, 2.0**15 if index % 5 == 0 else 0.01, DType.INT4, blocks)
        waiting.append((case, execute(core, case.lowered, *case.activations)[1]))
    core.run()
    for case, result in waiting:
        np.testing.assert_array_equal(result, case.expected, case.note)


@pytest.mark.parametrize("y", [DType.INT8, DType.INT16])
def test_sums_that_may_not_be_shifted_left(y: DType, core: ArmLibrary) -> None:
    """Factors so large that a shifted sum would pass 32 bits: products of 64 bits, in odd and even sizes."""
    rng = np.random.default_rng(1)
    for rows, n, k in ((1, 1, 5), (2, 2, 64), (3, 5, 33), (5, 2, 64)):
        data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        data[0] = 0
        weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
        case = linear_case(data, weight, y, 2.0**15)
        assert 32 - case.lowered.shift > case.lowered.headroom
        check(core, case)


@pytest.mark.parametrize("starts", [(0, 1), (1, 0), (1, 1)], ids=["output", "input", "both"])
@pytest.mark.parametrize("y", [S8, S16])
def test_normalization_of_rows_between_words(y: DType, starts: tuple[int, int], core: ArmLibrary) -> None:
    """Rows that begin in the middle of a word do not go through load-multiple and store-multiple, which would fault."""
    case = next(c for c in CASES[f"pf_layer_norm_s16_{y.value}"]() if c.activations[0].shape[-1] >= 16)
    (x,) = case.activations
    source, result = np.zeros(x.size + 1, x.dtype), np.zeros(x.size + 1, y.numpy)
    source[starts[0] :][: x.size] = x.reshape(-1)
    name = f"pf_layer_norm_s16_{y.value}"
    core.call(
        name,
        core.structure("pf_layer_norm", case.lowered),
        source[starts[0] :],
        result[starts[1] :],
        x.size // x.shape[-1],
    )
    core.run()
    np.testing.assert_array_equal(result[starts[1] :][: x.size].reshape(x.shape), case.expected, case.note)


ATTENTIONS = [
    # queries, keys, heads, heads of keys, head size, value size, causal
    *((3, keys, 1, 1, 1 + keys % 9, 1 + keys % 5, False) for keys in (*range(1, 10), 63, 66, 67, 68, 69, 72, 133)),
    *((keys - 2, keys, 2, 1, 4, 3, True) for keys in (3, 4, 9, 10, 11)),
    (2, 5, 1, 1, 67, 68, False),  # heads of more words than the loop is unrolled, values too
    (2, 5, 1, 1, 136, 2, False),
    (2, 6, 1, 1, 140, 3, False),
]


@pytest.mark.parametrize("x,y", [(S8, S8), (S16, S16), (S16, S8)])
def test_attention_of_every_small_size(x: DType, y: DType, core: ArmLibrary) -> None:
    """Keys and heads around every multiple of the loops, extremes, scores whose distance is 2^31, factors with every
    shift, results so fine that their mean takes 64 bits; and a causal one some rows at a time."""
    rng = np.random.default_rng(5)
    waiting = []
    for index, sizes in enumerate(ATTENTIONS):
        for fit, scale in ((1.0, 0.2), (1.0, 2.0**11), (2.0**-20, 0.01)):
            case = attention_case(rng, sizes, x, y, scale, fit, extreme=index % 2 == 0)
            waiting.append((case.note, execute(core, case.lowered, *case.activations)[1], case.expected))
            queries, keys, causal = sizes[0], sizes[1], sizes[-1]
            for first in range(0, queries, 2) if causal else ():
                q, k, v = case.activations
                count = min(2, queries - first)
                seen = keys - (queries - first - count)
                rows = execute(core, case.lowered, q[first : first + count], k[:seen], v[:seen])[1]
                waiting.append((f"{case.note} from {first}", rows[:count], case.expected[first : first + count]))
        if core.is_full:
            core.run()
    core.run()
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


def attention_case(
    rng: np.random.Generator, sizes: tuple[int, ...], x: DType, y: DType, scale: float, fit: float, extreme: bool
) -> Case:
    """`fit`: the step of the result against that of the values."""
    queries, keys, heads, kv_heads, size, value_size, causal = sizes
    shapes = (queries, heads * size), (keys, kv_heads * size), (keys, kv_heads * value_size)
    data = tuple(
        (rng.choice([x.minimum, x.maximum], s) if extreme else rng.integers(x.minimum, x.maximum + 1, s)).astype(
            x.numpy
        )
        for s in shapes
    )
    if extreme:  # the largest score there is beside the smallest
        data[0][0], data[1][0], data[1][-1] = x.minimum, x.minimum, x.maximum
    own = 0.02 if x is S8 else 0.02 / 256
    inputs = tuple(Operand(TensorType(s, x, QuantParams((own,)))) for s in shapes)
    step = own * fit * x.minimum / y.minimum
    out = TensorType((queries, heads * value_size), y, QuantParams((step,)))
    return Case(f"{sizes} {scale} {fit}", Attention(heads, scale, bool(causal), kv_heads), inputs, out, data)


def linear_case(
    x: np.ndarray,
    weight: np.ndarray,
    y: DType,
    factor: float,
    dtype: DType = DType.INT8,
    blocks: tuple[tuple[int, ...], ...] = (),
) -> Case:
    """A Linear whose sums are multiplied by about `factor`."""
    n = len(weight)
    w_type = TensorType(weight.shape, dtype, QuantParams(tuple(0.01 * (1 + np.arange(n) / n)), 0, -2, blocks))
    b_type = TensorType((n,), DType.INT32, QuantParams(tuple(0.0005 * (1 + np.arange(n) / n)), 0, -1))
    bias = np.arange(-n, n, 2).astype(np.int32)
    inputs = (
        Operand(of(x.shape, S8 if x.dtype == np.int8 else S16, 0.05, 3)),
        Operand(w_type, weight),
        Operand(b_type, bias),
    )
    return Case(f"{x.shape} {n}", Linear(), inputs, of((len(x), n), y, 0.0005 / factor, -7), (x,))


def check(core: ArmLibrary, case: Case) -> None:
    result = execute(core, case.lowered, *case.activations)[1]
    core.run()
    np.testing.assert_array_equal(result, case.expected, case.note)


def listing(folder: Path, isa: str) -> str:
    """Disassembly of a directory's kernels for the Cortex-M4."""
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / isa).glob("*.c"))]
    subprocess.run(["arm-none-eabi-gcc", *FLAGS_M4, *FLAGS, "-c", *sources], cwd=folder, check=True)
    objects = [path.name for path in sorted(folder.glob("*.o"))]
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *objects]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_kernels_are_made_of_dsp_opcodes(tmp_path: Path, arm_tools: None) -> None:
    wanted = {"smlad", "smlald", "smmlar", "smmulr", "sxtb16", "pkhbt", "qadd16"}
    assert wanted <= {name.split(".")[0] for name in dsp_opcodes(listing(tmp_path, "dsp"))}


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m3"])
def test_the_generic_kernels_assemble_without_the_extension(cpu: str, tmp_path: Path, arm_tools: None) -> None:
    """The disassembly of what a core without the extension would run holds none of its opcodes."""
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / "generic").glob("*.c"))]
    command = ["arm-none-eabi-gcc", "-mthumb", f"-mcpu={cpu}", "-O2", *FLAGS, "-c", *sources]
    subprocess.run(command, cwd=tmp_path, check=True)
    objects = [path.name for path in sorted(tmp_path.glob("*.o"))]
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *objects]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert dsp_opcodes(found) == set()


COMPILERS = {
    "cortex-m4": ["arm-none-eabi-gcc", *FLAGS_M4],
    "cortex-m7": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m7", "-O0"],
    "cortex-m33": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m33", "-Os"],
    "clang": ["clang", "--target=arm-none-eabi", "-mthumb", "-mcpu=cortex-m4", "-ffreestanding", "-O2"],
}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiles_without_a_warning(compiler: str, tmp_path: Path, arm_tools: None) -> None:
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / "dsp").glob("*.c"))]
    done = subprocess.run([*COMPILERS[compiler], *FLAGS, "-c", *sources], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
