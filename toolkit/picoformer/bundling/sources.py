"""A model in any form to the ONNX file of a bundle, and to what says the answers that it must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.bundling.options import SCHEMES, BundleOptions
from picoformer.errors import ConfigError, ModelError, PicoformerError
from picoformer.files import file_hash
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array

Answers = Callable[[Mapping[str, Array]], dict[str, Array]]
"""One sample's inputs by name, as the ONNX file takes them, to its outputs as real numbers."""
Progress = Callable[[str, int, int], None]
ENCODER = {"float32": "float32", "int8": "int8", "int4": "int4x8"}
DECODER = {"float32": "float32", "int8": "int8x16", "int4": "int4x16"}
"""What a bundle calls a scheme → what a build is made with."""
WITH_WEIGHTS = " with these weights"


@dataclass(frozen=True)
class Source:
    """What goes into a bundle. `answers`: by our own graph where it can be read, else by onnxruntime, nothing optimized
    (`judge` says which). `graph`: the graph that answers, if one does. `text`: of a language model (decoding.py)."""

    name: str
    onnx: bytes
    scheme: str
    sha256: str
    answers: Answers
    judge: str
    graph: Graph | None = None
    decoder: Any = None
    """A bundling.decoders.Decoder."""

    @property
    def is_exact(self) -> bool:
        """Whether onnxruntime computes with the same numbers, all of them float: blocks of 4-bit weights it multiplies
        with float activations, rows of 8-bit ones with activations that it rounds to 8 bits itself."""
        return self.scheme == "float32" or (self.scheme == "int4" and self.judge.endswith(WITH_WEIGHTS))


def open_source(model: Path, options: BundleOptions, progress: Progress | None = None) -> Source:
    """Read a model. Raises a PicoformerError naming what is wrong with it, or with an option."""
    from picoformer.decoder.build import is_decoder
    from picoformer.quantized_folder import RECORD

    if (model / "build.json").is_file():
        if is_decoder(model):
            from picoformer.bundling.decoders import decoder_of_build

            return decoder_of_build(model, options)
        return _of_build(model, options)
    if (model / RECORD).is_file():
        return _of_quantized(model, options)
    if model.is_dir() or model.suffix == ".bin" or _writes_text(model, options):
        from picoformer.bundling.decoders import decoder_of_checkpoint

        return decoder_of_checkpoint(model, options, progress)
    if options.context:
        raise ConfigError("--context says nothing about this model; leave it out")
    if model.suffix == ".safetensors":
        return _compiled(model, options, progress, _takes_tokens(model))
    if not model.is_file():
        raise ModelError(f"{model}: no such file; give an ONNX file, a checkpoint, or a folder of build or quantize")
    if options.scheme in (None, "float32") and not options.shapes:
        return _as_it_is(model, options)
    return _compiled(model, options, progress, False)


def _as_it_is(model: Path, options: BundleOptions) -> Source:
    """An ONNX file, whatever is in it."""
    from picoformer.backends.onnx.runtime import run_onnx
    from picoformer.frontends.onnx_load import is_quantized, self_contained
    from picoformer.importing import import_model

    content = self_contained(model)
    comes_quantized = is_quantized(content)
    if options.calibration is not None:
        raise ConfigError("--calibration says nothing about --scheme float32; leave it out, or give --scheme int8")
    scheme = "as it came" if comes_quantized else "float32"

    def runtime(inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = run_onnx(content, {name: np.asarray(value)[None] for name, value in inputs.items()})
        return {name: value[0] for name, value in found.items()}

    by_runtime = Source(
        model.stem, content, scheme, file_hash(model), runtime, "the file under onnxruntime, nothing optimized"
    )
    if comes_quantized:
        return by_runtime
    try:
        graph = import_model(model)
    except PicoformerError:
        return by_runtime
    answers = graph_answers(graph)
    return Source(model.stem, content, scheme, file_hash(model), answers, "picoformer's float graph", graph)


def _compiled(model: Path, options: BundleOptions, progress: Progress | None, valid_length: bool) -> Source:
    """A checkpoint in any scheme, or an ONNX file in integers: through our own graph.

    With calibration samples weights and activations become the integers of a device; without any the weights alone are
    rounded, and activations stay float.
    """
    from picoformer.build_folder import quantize_samples
    from picoformer.importing import import_given
    from picoformer.quantize import has_activations

    chosen = _known(options.scheme or "float32")
    if options.calibration is None:
        graph, given = import_given(model, dict(options.shapes), valid_length)
        if chosen == "float32" or not has_activations(graph, given):
            return of_graph(graph, model.stem, chosen, file_hash(model), weights_alone=chosen != "float32")
    elif chosen == "float32":
        raise ConfigError("--calibration says nothing about --scheme float32; leave it out, or give --scheme int8")
    _, graph, _ = quantize_samples(
        model, options.calibration, ENCODER[chosen], options.settings, dict(options.shapes), valid_length,
        progress=progress,
    )  # fmt: skip
    return of_graph(graph, model.stem, chosen, file_hash(model))


def _of_build(folder: Path, options: BundleOptions) -> Source:
    from picoformer.build_folder import open_build

    refuse_other_scheme(options, folder)
    build = open_build(folder)
    is_float = options.scheme == "float32" or build.manifest.scheme == "float32"
    graph, scheme = (build.float_graph, "float32") if is_float else (build.graph, build.manifest.scheme)
    _refuse_scheme(folder, options.scheme, scheme)
    return of_graph(graph, build.manifest.name, scheme, build.manifest.source_sha256)


def _of_quantized(folder: Path, options: BundleOptions) -> Source:
    from picoformer.ops.graph_file import load_graph
    from picoformer.quantized_folder import RECORD, quantized_scheme

    refuse_other_scheme(options, folder)
    graph, scheme = load_graph(folder), quantized_scheme(folder)
    _refuse_scheme(folder, options.scheme, scheme)
    return of_graph(graph, graph.name, scheme, file_hash(folder / RECORD))


def refuse_other_scheme(options: BundleOptions, folder: Path) -> None:
    """Raise ConfigError for options that a folder of `build` or `quantize` has decided."""
    if options.calibration is not None:
        raise ConfigError(f"--calibration: {folder} has its numbers already; leave it out, or give the model")
    if options.shapes:
        raise ConfigError(f"--shape: {folder} has its shapes already; leave it out, or give the model")


def _refuse_scheme(folder: Path, asked: str | None, own: str) -> None:
    if asked is not None and own not in (asked, ENCODER[asked], DECODER[asked], f"{asked}x16"):
        raise ConfigError(f"--scheme {asked}: {folder} was made with {own}; leave it out, or give the model")


def of_graph(graph: Graph, name: str, scheme: str, sha256: str, weights_alone: bool = False) -> Source:
    """A graph of ours: float, or quantized as QDQ with signed activations, which is the fast form on Arm, and with
    MatMulNBits for weights of 4 bits. With `weights_alone` a float graph, its weights to be rounded."""
    from picoformer.backends.onnx.export import onnx_bytes
    from picoformer.bundling.weights import rounded_weights

    written, meant = rounded_weights(graph, scheme) if weights_alone else (graph, graph)
    is_float = all(type_.quant is None for type_ in meant.types.values())
    judge = ("picoformer's float graph" if is_float else "picoformer's integers") + WITH_WEIGHTS * weights_alone
    content = onnx_bytes(written, {"scheme": scheme, "source_sha256": sha256}, spelling=arm_spelling(written))
    return Source(name, content, scheme, sha256, graph_answers(meant), judge, meant)


def arm_spelling(graph: Graph) -> Any:
    """How a graph is written for onnxruntime on Arm."""
    from picoformer.backends.onnx.writer import Spelling

    return Spelling(matmul_nbits=any(graph.types[name].dtype is DType.INT4 for name in graph.constants))


def graph_answers(graph: Graph) -> Answers:
    """What a graph of ours says, outputs of integers as the real numbers that they stand for."""
    from picoformer.ops.fixedpoint import dequantize
    from picoformer.reference import lower_graph, run_float, run_integer

    is_float = all(graph.types[name].quant is None for name in graph.types)
    lowered = None if is_float else lower_graph(graph)

    def answers(inputs: Mapping[str, Array]) -> dict[str, Array]:
        fitted = {}
        for name in graph.inputs:
            type_ = graph.types[name]
            value = np.asarray(inputs[name])
            kind = np.int32 if type_.dtype is DType.INT32 else np.float32
            fitted[name] = value.reshape(1, *type_.shape).astype(kind)
        values = run_float(graph, fitted) if lowered is None else run_integer(lowered, fitted)
        found = {}
        for name in graph.outputs:
            quant = graph.types[name].quant
            found[name] = values[name][0] if quant is None else dequantize(values[name][0], quant)
        return found

    return answers


def _known(scheme: str) -> str:
    if scheme not in SCHEMES:
        raise ConfigError(f"--scheme {scheme}: use one of {', '.join(SCHEMES)}")
    return scheme


def _config(model: Path) -> Any:
    """The configuration of a checkpoint of ours."""
    import safetensors

    from picoformer.models.checkpoint_header import read_checkpoint_header

    if not model.is_file():
        raise ModelError(f"{model}: no such file; train a model or give the path of a checkpoint")
    try:
        with safetensors.safe_open(model, framework="np") as file:
            return read_checkpoint_header(model, file.metadata())[0]
    except safetensors.SafetensorError as error:
        raise ModelError(f"{model}: not a safetensors file ({error}); save the checkpoint again") from None


def _writes_text(model: Path, options: BundleOptions) -> bool:
    """Whether a checkpoint of ours is a language model, or somebody says that it is to write."""
    if model.suffix != ".safetensors":
        return False
    config = _config(model)
    is_language = config.causal and config.vocab_size and config.classes == config.vocab_size
    return bool(is_language and config.pooling == "none" and options.task in (None, "generate"))


def _takes_tokens(model: Path) -> bool:
    return bool(_config(model).vocab_size)
