"""The C on this machine against onnxruntime, one thread: python benchmarks/host.py writes host.json and host.md.

Same models, same samples, batch 1, all contenders in turn within one run, medians of many turns. Every contender starts
at float inputs; the C quantizes them itself. Weights are random: they decide no time.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import picoformer
from picoformer.models.config import TransformerConfig, reference_encoder_config
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.targets import resource_root

HERE = Path(__file__).parent
MODELS = {
    "reference encoder": reference_encoder_config("gelu"),
    "keyword spotter": TransformerConfig.uniform(
        layers=2, heads=2, d_ff=64, d_model=32, sequence=49, input_size=10, classes=12
    ),
    "wide encoder": TransformerConfig.uniform(
        layers=4, heads=4, d_ff=512, d_model=128, sequence=32, input_size=16, classes=8
    ),
}
BUILDS = {"C -O3": ["-O3"], "C -O3 -march=native": ["-O3", "-march=native"]}
TURNS = 400
_SHIM = """
#include "model.h"
static uint8_t arena[MODEL_ARENA_BYTES] MODEL_ALIGN16;
static model_t instance;
/* Floats in, integers out: what an application does for one sample. */
int infer(const float *x, int16_t *y) {
    if (instance.arena == 0) {
        model_init(&instance, arena, sizeof arena);
    }
    model_quantize_x(x, model_input_x(&instance));
    const int status = model_run(&instance);
    for (int i = 0; i < MODEL_OUTPUT_LOGITS_COUNT; i++) {
        y[i] = model_output_logits(&instance)[i];
    }
    return status;
}
"""


def c_library(build: Path, flags: Sequence[str]) -> Path:
    """The C of a build folder as a shared library."""
    source, firmware = build / "host" / "source", resource_root("firmware")
    listed = json.loads((source / "sources.json").read_text())
    files = [source / name for name in listed["model_sources"] if not name.endswith("_device.c")]
    files += [firmware / name for name in listed["sources"]]
    shim, path = build / "shim.c", build / f"model{'-'.join(flags)}.so"
    shim.write_text(_SHIM)
    command = ["gcc", *flags, "-std=c99", "-ffp-contract=off", "-shared", "-fPIC", f"-I{source}"]
    command += [f"-I{firmware / name}" for name in listed["include"]]
    subprocess.run([*command, str(shim), *map(str, files), "-o", str(path)], check=True)
    return path


def c_contender(library: Path, x: np.ndarray, classes: int) -> Callable[[], np.ndarray]:
    """One inference of `x` by the C; its integers."""
    infer, y = ctypes.CDLL(str(library)).infer, np.zeros(classes, np.int16)
    data, result = x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p)

    def run() -> np.ndarray:
        assert infer(data, result) == 0
        return y

    return run


def onnx_contender(model: Path, x: np.ndarray) -> Callable[[], np.ndarray] | None:
    """One inference by onnxruntime at its default optimizations, inputs and outputs bound once; None where it fails."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # On x86 onnxruntime 1.31 otherwise turns int8 into uint8 and then refuses the file that it has rewritten.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    [item] = session.get_inputs()
    binding = session.io_binding()
    binding.bind_cpu_input(item.name, x.reshape(item.shape))
    binding.bind_output(session.get_outputs()[0].name)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        result: np.ndarray = binding.copy_outputs_to_cpu()[0]
        return result

    try:
        run()
    except RuntimeError as error:
        print(f"{model.name}: {error}", file=sys.stderr)
        return None
    return run


def onnxruntime_int8(model: Path, samples: np.ndarray) -> Path:
    """The model as onnxruntime's own tools quantize it: static, int8 activations and weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(samples[:, None])

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.rest, None)
            return None if sample is None else {"x": sample}

    prepared, path = model.with_suffix(".prepared.onnx"), model.with_suffix(".int8.onnx")
    quant_pre_process(str(model), str(prepared))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(path), Samples(), per_channel=True, **kinds)
    return path


def measure_model(config: TransformerConfig, folder: Path) -> dict[str, Any]:
    """Microseconds of each contender, and whether both builds of the C give the same integers."""
    chance = np.random.default_rng(0)
    samples = chance.standard_normal((16, config.sequence, config.input_size)).astype(np.float32)
    source, model = folder / "float.onnx", Transformer(config, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    export_onnx(model, source)
    build = folder / "build"
    built = picoformer.build(source, calibration={"x": samples}, scheme="int8", target="host", out=build)
    x = np.ascontiguousarray(samples[:1])
    contenders = {name: c_contender(c_library(build, flags), x, config.classes) for name, flags in BUILDS.items()}
    assert len({run().tobytes() for run in contenders.values()}) == 1
    files = {"onnxruntime float": source, "onnxruntime int8, this QDQ": build / "model_qdq.onnx"}
    files["onnxruntime int8, its own QDQ"] = onnxruntime_int8(source, samples)
    names = [*contenders, *files]
    for name, file in files.items():
        if (run := onnx_contender(file, x)) is not None:
            contenders[name] = run
    times: dict[str, list[int]] = {name: [] for name in contenders}
    for turn in range(TURNS + 20):
        for name, run in contenders.items():
            start = time.perf_counter_ns()
            run()
            if turn >= 20:
                times[name].append(time.perf_counter_ns() - start)
    medians = {n: round(float(np.median(times[n])) / 1e3, 1) if n in times else None for n in names}
    return {"macs": built.manifest.macs, "microseconds": medians}


def page(results: dict[str, Any]) -> str:
    """The results as Markdown: microseconds, and how many times as long as the C each takes."""
    lines = [
        "# The C on a desktop processor, against onnxruntime",
        "",
        f"Made by `make host-bench`: {results['processor']}, one thread, batch 1, medians of {TURNS} turns in which",
        f"all contenders run one after another; {results['compiler']}, onnxruntime {results['onnxruntime']}, which has",
        "kernels for the processor's widest vectors and chooses them itself; `C -O3` is compiled for any x86-64.",
        'In brackets: how many times as long as `C -O3`. "This QDQ" is the file that picoformer writes, 16-bit sums',
        'included; "its own" is what `onnxruntime.quantization` makes of the float model, 8 bits everywhere. Times',
        "differ from machine to machine and from run to run; only ratios within a run say something.",
        "",
    ]
    names = list(next(iter(results["models"].values()))["microseconds"])
    lines += [f"| model | MACs | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for model, found in results["models"].items():
        times = found["microseconds"]
        own = times["C -O3"]
        cells = ["fails" if (t := times[n]) is None else f"{t:,.0f} µs ({t / own:.2f})" for n in names]
        lines.append(f"| {model} | {found['macs']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write both files."""
    import onnxruntime

    torch.set_num_threads(1)
    results: dict[str, Any] = {"processor": _processor(), "onnxruntime": onnxruntime.__version__}
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
    results["compiler"] = version.stdout.splitlines()[0]
    results["models"] = {}
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            results["models"][name] = measure_model(config, Path(scratch))
        print(f"{name}: done", file=sys.stderr)
    (HERE / "host.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "host.md").write_text(page(results))
    print(page(results))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
