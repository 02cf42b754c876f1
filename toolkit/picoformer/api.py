"""The Python API: the commands as functions, taking files or the objects themselves."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.build_folder import Build, build_files, quantize_samples
from picoformer.encoder.opening import EncoderChoice
from picoformer.errors import ConfigError, DataError
from picoformer.exported import OnnxOptions, PackageOptions, Source
from picoformer.files import save_arrays
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.targets import Target, load_target

if TYPE_CHECKING:
    from picoformer.compress.settings import QatSettings
    from picoformer.exporting_tflite import TfliteOptions
    from picoformer.quantize import QuantizeSettings
    from picoformer.verification import Verification

Samples = Mapping[str, Array] | str | Path
"""Input name → array with samples along axis 0, or the .npz that holds them."""


def build(
    model: Any,
    *,
    calibration: Samples | None = None,
    scheme: str = "int8",
    target: str | Path | Target = "host",
    out: str | Path,
    prefix: str = "model",
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    valid_length: bool = False,
    quantized: str | Path | None = None,
    tile: str | int = "auto",
    toolchain: str = "auto",
    encoder: EncoderChoice | None = None,
) -> Build:
    """Build firmware for `target` into the folder `out`, as `picoformer build` does.

    `model` is an ONNX file, a checkpoint (.safetensors), a `models.Transformer`, or the Hugging Face folder of an
    encoder, of which `encoder` says more. `quantized`, a folder that `finetune` wrote, stands for calibration and
    scheme. `toolchain`: gcc, clang, zig or auto. `tile`: "auto" computes
    tiles of rows where that saves memory at up to 2 % more instructions, "least" at any number, "none" never, a number
    in tiles of so many rows. Raises PicoformerError, its message the one line that the command prints.
    """
    board = target if isinstance(target, Target) else load_target(target)
    with _onnx_file(model, encoder) as source, _npz_file(calibration) as samples:
        return build_files(
            source, samples, scheme, board, Path(out), prefix, settings, shapes,
            valid_length and not (isinstance(model, str | Path) and source != Path(model)),  # a folder's has it
            quantized=None if quantized is None else Path(quantized), toolchain=toolchain, tile=tile,
        )  # fmt: skip


def verify(
    folder: str | Path,
    *,
    inputs: Samples,
    port: str | None = None,
    checkpoint: str | Path | None = None,
    samples: int = 0,
    min_sqnr: float = 10.0,
    emulator: str = "auto",
) -> Verification:
    """Run the parity chain on a build folder, as `picoformer verify` does; see the result's `report.passed`.

    `emulator`: qemu, unicorn or auto.
    """
    from picoformer.verification import verify_files

    with _npz_file(inputs) as path:
        if path is None:
            raise DataError("verify needs inputs")
        return verify_files(
            Path(folder),
            path,
            port,
            None if checkpoint is None else Path(checkpoint),
            samples,
            None,
            min_sqnr,
            emulator,
        )


def quantize_model(
    model: Any,
    *,
    calibration: Samples,
    scheme: str = "int8",
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    encoder: EncoderChoice | None = None,
) -> Graph:
    """The quantized graph of a model: see `picoformer.reference` for running it.

    (`picoformer.quantize` is the package that does the work.)
    """
    with _onnx_file(model, encoder) as source, _npz_file(calibration) as samples:
        return quantize_samples(source, samples, scheme, settings, shapes)[1]


def export(
    model: Any,
    *,
    out: str | Path,
    form: str = "onnx",
    scheme: str = "float32",
    calibration: Samples | None = None,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    quantized: str | Path | None = None,
    inputs: Samples | None = None,
    options: OnnxOptions | PackageOptions | TfliteOptions | None = None,
    encoder: EncoderChoice | None = None,
) -> dict[str, Any]:
    """Write ONNX (`form` "onnx"), TFLite ("tflite") or C ("c", "c-single", "arduino" …), as `picoformer export` does.

    `quantized`, a folder that `finetune` wrote, stands for calibration and scheme. `options` are those of the form's
    kind; `inputs` is what the example of C runs on, and its labels say the accuracy.
    """
    from picoformer.exporting import export_files

    with _onnx_file(model, encoder) as file, _npz_file(calibration) as samples, _npz_file(inputs) as given:
        folder = None if quantized is None else Path(quantized)
        source = Source(file, samples, scheme, settings, shapes, quantized=folder)
        if given is not None:
            if not isinstance(options, PackageOptions | None):
                raise ConfigError("inputs are for the example of C; leave them out")
            options = replace(options or PackageOptions(), inputs=given)
        return export_files(source, form, Path(out), options)


def finetune(
    model: Any,
    *,
    calibration: Samples,
    data: Samples | None = None,
    scheme: str = "int8",
    out: str | Path,
    training: QatSettings | None = None,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    valid_length: bool = False,
) -> dict[str, Any]:
    """Quantize a model, then train its integers on their grids, as `picoformer finetune` does; `build` takes `out`."""
    from picoformer.finetuning import finetune_files

    with _onnx_file(model) as source, _npz_file(calibration) as samples, _npz_file(data) as more:
        if samples is None:
            raise DataError("finetune needs calibration")
        return finetune_files(source, samples, more, scheme, Path(out), training, settings, shapes, valid_length)


def run(pipeline_file: str | Path, *, force: bool = False, toolchain: str = "auto", emulator: str = "auto") -> Path:
    """Run a pipeline file; returns its output folder."""
    from picoformer.config import load_pipeline
    from picoformer.pipeline import run_pipeline

    return run_pipeline(load_pipeline(Path(pipeline_file)), force=force, toolchain=toolchain, emulator=emulator)


@contextlib.contextmanager
def _onnx_file(model: Any, encoder: EncoderChoice | None = None) -> Iterator[Path]:
    """A file as it is; a Transformer or an encoder's folder exported to a temporary ONNX file."""
    if isinstance(model, str | Path):
        from picoformer.encoder.opening import opened

        with opened(Path(model), encoder or EncoderChoice()) as path:
            yield path
        return
    from picoformer.models.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        yield path


@contextlib.contextmanager
def _npz_file(samples: Samples | None) -> Iterator[Path | None]:
    if samples is None or isinstance(samples, str | Path):
        yield None if samples is None else Path(samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npz"
        save_arrays(path, samples)
        yield path
