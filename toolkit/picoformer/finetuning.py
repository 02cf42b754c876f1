"""The command that trains integers on their grids: a model and samples in, a folder with the quantized graph out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.build_folder import quantize_samples, refuse_to_replace, with_full_length
from picoformer.errors import ConfigError, UnsupportedError
from picoformer.files import atomic_folder
from picoformer.importing import import_model
from picoformer.ir.operator import LoweringError
from picoformer.quantization_report import write_quantization
from picoformer.quantized_folder import save_quantized
from picoformer.samples import check_labels, fit_samples, load_samples, split_labels

if TYPE_CHECKING:
    from picoformer.compress.settings import QatSettings
    from picoformer.quantize import QuantizeSettings

Progress = Callable[[str, int, int, float], None]


def finetune_files(
    model: Path,
    calibration: Path,
    data: Path | None,
    scheme: str,
    out: Path,
    training: QatSettings | None = None,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    valid_length: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantize `model` with `calibration`, then train its integers; writes the folder `out`, for `build` to use.

    `data`: an .npz with samples of the model's inputs and, if they are to count, "labels"; the calibration samples
    unless given. Returns losses and SQNR in dB of the outputs on the training samples, before and after.
    """
    from picoformer.compress.qat import train_quantized
    from picoformer.reference import lower_graph

    if scheme == "float32":
        raise ConfigError("scheme float32 has no integers to train; choose int8 or another integer scheme")
    refuse_to_replace(out, ("graph.json",))
    source = data or calibration
    arrays, found = split_labels(load_samples(source, "train"), source)
    tick = None if progress is None else lambda what, done, total: progress(what, done, total, 0.0)
    graph, typed, calibrated = quantize_samples(
        model, calibration, scheme, settings, shapes, valid_length, progress=tick
    )
    is_moved = settings is not None and settings.equalization != "off"
    model_graph = import_model(model, shapes, valid_length) if is_moved else graph
    samples = fit_samples(graph, with_full_length(graph, arrays), source)
    labels = check_labels(found, graph, samples, source)
    step = None if progress is None else lambda done, total, loss: progress("training integers", done, total, loss)
    trained, report = train_quantized(graph, typed, samples, training, None if labels is None else labels.values, step)
    try:
        lower_graph(trained)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; train with a lower learning rate") from None
    figures = report.to_dict()
    with atomic_folder(out) as folder:
        save_quantized(folder, model_graph, trained, scheme, graph if is_moved else None, training=figures)
        write_quantization(graph, trained, calibrated, folder)
    return {"model": trained.name, "scheme": scheme, "samples": len(next(iter(samples.values()))), **figures}
