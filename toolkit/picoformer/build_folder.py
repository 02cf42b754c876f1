"""Building: from an ONNX file and calibration data to a folder with graphs, C sources, and firmware for each target."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from picoformer import __version__
from picoformer.bootloader import write_boot_files
from picoformer.build_memory import read_memory, write_memory
from picoformer.encoder.inputs import text_inputs
from picoformer.errors import ConfigError, DataError, ModelError, UnsupportedError
from picoformer.files import atomic_folder, atomic_write_bytes, atomic_write_text, content_hash
from picoformer.firmware import FirmwareBuild, SizeReport, build_firmware, load_build, load_sizes
from picoformer.importing import import_given, quantize_as_given, with_given_weights
from picoformer.ir import Graph
from picoformer.ir.operator import Array, LoweringError
from picoformer.library import build_library
from picoformer.quantization_report import copy_quantization, write_quantization
from picoformer.samples import check_calibration, fit_samples, load_samples, split_labels
from picoformer.targets import Target, load_target, stand_in

if TYPE_CHECKING:
    from picoformer.backends.c import Draft, Step, TextExample, Tile
    from picoformer.quantize import QuantizeSettings

FLOAT_GRAPH, INTEGER_GRAPH = "float", "quantized"
HOST = "host"
BUILD_MARKS = ("float/graph.json", "quantized/graph.json", "host/firmware.elf")
"""What tells an earlier build from a folder of a person's own files."""

CALIBRATION_SAMPLES = 256
"""How many training samples of a data set calibrate, where one is given in place of calibration samples."""

Progress = Callable[[str, int, int], None]
"""What is under way, how much of it is done, how much there is."""


@dataclass(frozen=True)
class Manifest:
    """What a build folder holds, as its build.json says."""

    name: str
    scheme: str
    target: str
    prefix: str
    source_sha256: str
    version: str
    parameters: int
    macs: int
    valid_length_added: bool = False
    given: bool = False
    """Whether the model came quantized: what lies in the folder as it came is no float model then."""
    compilers: Mapping[str, str] = field(default_factory=dict)
    """Target → name and version of what compiled its firmware."""


@dataclass(frozen=True)
class Build:
    """A finished build folder."""

    folder: Path
    manifest: Manifest
    float_graph: Graph
    graph: Graph

    @property
    def target(self) -> Target:
        """The target that was built for, as it was then."""
        return read_target(self.folder)

    @property
    def float_onnx(self) -> Path:
        """The model as it came."""
        return self.folder / "model.onnx"

    @property
    def qdq_onnx(self) -> Path:
        """The quantized model for onnxruntime; there is none for the scheme float32."""
        return self.folder / "model_qdq.onnx"

    def firmware(self, target: Target) -> FirmwareBuild:
        """The linked firmware for `target`; raises ModelError when this folder has none."""
        return load_build(self.folder / target.name, target)

    def sizes(self, target: Target) -> tuple[SizeReport | None, str]:
        """What the firmware or library for `target` takes; None and the reason where nothing could compile it."""
        return load_sizes(self.folder / target.name)

    def lengths(self, target: Target) -> dict[str, str]:
        """Of the steps of the firmware for `target` that leave out rows past a length: output → the length's input."""
        live = read_memory(self.folder / target.name)["live"]
        return {entry["step"]: entry["length"] for entry in live if entry["length"]}

    def steps(self, target: Target) -> tuple[Step, ...]:
        """The steps of the firmware for `target`, in order."""
        from picoformer.backends.c import Step

        steps = [entry["nodes"] for entry in read_memory(self.folder / target.name)["live"]]
        unknown = [name for names in steps for name in names if name not in self.graph.producers]
        if unknown:
            raise ModelError(f"{self.folder}: step '{unknown[0]}' is not in its graph; build again")
        return tuple(Step(tuple(self.graph.producers[name] for name in names)) for names in steps)


def quantize_model(
    graph: Graph,
    calibration: Mapping[str, Array],
    settings: QuantizeSettings | None = None,
    progress: Progress | None = None,
) -> Graph:
    """The graph quantized with calibration data; raises UnsupportedError naming a node that has no integer form."""
    from picoformer.quantize import QuantizeSettings, quantize
    from picoformer.reference import lower_graph, run_float

    calibration = with_full_length(graph, calibration)
    tick = None if progress is None else lambda done, total: progress("calibrating", done, total)
    try:
        quantized = quantize(graph, calibration, run_float, settings or QuantizeSettings(), tick)
        lower_graph(quantized)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; build with --scheme float32, or change the model there") from None
    return quantized


def with_full_length(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """`inputs`, of texts as `text_inputs` gives them, and the full length for a valid_length that the data lacks."""
    import numpy as np

    arrays = text_inputs(graph, inputs)
    if "valid_length" in graph.inputs and "valid_length" not in arrays and arrays:
        samples = len(next(iter(arrays.values())))
        arrays["valid_length"] = np.full(samples, full_length(graph), np.int32)
    return arrays


def full_length(graph: Graph) -> int:
    """Keys of the graph's attention: what valid_length is when every row counts."""
    from picoformer.ops import Attention

    for node in graph.nodes:
        if isinstance(node.op, Attention) and len(node.inputs) > 3:
            return graph.types[node.inputs[1]].shape[-2]
    raise ModelError(f"{graph.name}: has a valid_length that no attention reads")


def write_build(
    source: Path | bytes,
    float_graph: Graph,
    graph: Graph,
    scheme: str,
    target: Target,
    out: Path,
    prefix: str = "model",
    valid_length_added: bool = False,
    progress: Progress | None = None,
    samples: Mapping[str, Array] | None = None,
    quantized: Path | None = None,
    toolchain: str = "auto",
    tile: Tile = "auto",
    source_sha256: str = "",
    files: Mapping[str, bytes] | None = None,
    slots: int = 1,
    text: TextExample | None = None,
) -> Build:
    """Write the build folder `out` whole or not at all: graphs, QDQ ONNX, C sources, firmware for host and target.

    `source` is the ONNX file or its bytes; `source_sha256` says where these came from, if from another file. `files`:
    name → content of what is to lie in the folder beside. `slots`: texts that a
    language model's device keeps side by side; `text`: what is known of its text, for the C.

    With calibration `samples`, or a folder `quantized` that was made with some, quantization.json says what each
    rounding costs. `toolchain`: gcc, clang, zig or auto. `tile` says what goes by tiles of rows (backends/c/tiling.py).
    """
    from picoformer.backends.c import TextExample, draft_c, write_c
    from picoformer.backends.onnx.export import export_onnx
    from picoformer.estimate.tiles import draft_for
    from picoformer.frontends.onnx_load import is_quantized, self_contained
    from picoformer.ops.graph_file import graph_identity, save_graph

    refuse_to_replace(out, BUILD_MARKS)
    content = source if isinstance(source, bytes) else self_contained(source)
    boards = [target] if target.is_host else [load_target(HOST), target]
    if target.stands_in:
        boards.append(stand_in(target))
    boards_of = {tuple(board.isa): board for board in reversed(boards)}  # a stand-in has those of its board
    if graph.states:
        drafts = {isa: draft_c(graph, isa, prefix, tile, slots) for isa in boards_of}
    else:
        drafts = {isa: draft_for(graph, board, prefix, tile, toolchain) for isa, board in boards_of.items()}
    refuse_too_large(drafts[tuple(target.isa)], target, float_graph, scheme, toolchain)
    manifest = Manifest(
        graph.name,
        scheme,
        target.name,
        prefix,
        source_sha256 or content_hash(content),
        __version__,
        float_graph.parameters,
        float_graph.macs,
        valid_length_added,
        scheme != "float32" and is_quantized(content),
    )

    def tick(what: str, done: int) -> None:
        if progress:
            progress(f"building: {what}", done, 1 + len(boards))

    with atomic_folder(out) as folder:
        tick("graphs", 0)
        for name, data in {**(files or {}), "model.onnx": content}.items():
            atomic_write_bytes(folder / name, data)
        save_graph(float_graph, folder / FLOAT_GRAPH)
        if scheme != "float32":
            save_graph(graph, folder / INTEGER_GRAPH)
            export_onnx(graph, folder / "model_qdq.onnx", _provenance(manifest))
            if samples:
                write_quantization(float_graph, graph, samples, folder)
            elif quantized is not None:
                copy_quantization(quantized, folder, graph.name)
        card = [f"{key}: {value}" for key, value in _provenance(manifest).items()]
        compilers: dict[str, str] = {}
        for number, board in enumerate(boards, start=1):
            tick(board.name, number)
            source_folder = folder / board.name / "source"
            model = write_c(drafts[tuple(board.isa)], source_folder, card=card, text=text or TextExample())
            length = next((port.value for port in drafts[tuple(board.isa)].ports if port.is_length), "")
            write_memory(model.plan, folder / board.name, length)
            place = folder / board.name
            if board.is_library:
                kept = drafts[tuple(board.isa)].state_bytes
                compiler = build_library(
                    place / "source", board, place, prefix, model.arena_bytes, state_bytes=kept
                ).compiler
            else:
                compiler = build_firmware(place / "source", board, place, toolchain=toolchain).compiler
            if board.in_slot:
                write_boot_files(place, board, graph_identity(graph)[:16], toolchain)
            if compiler:
                compilers[board.name] = compiler
        tick("done", 1 + len(boards))
        atomic_write_text(folder / "target.json", target.model_dump_json(indent=1) + "\n")
        manifest = replace(manifest, compilers=compilers)
        atomic_write_text(folder / "build.json", json.dumps(asdict(manifest), indent=1) + "\n")
    return Build(out, manifest, float_graph, graph)


def refuse_too_large(draft: Draft, target: Target, float_graph: Graph, scheme: str, toolchain: str = "auto") -> None:
    """Raise FitError when a board cannot hold the image, before anything is compiled."""
    if target.is_host:
        return
    from picoformer.estimate.costs import cost_table
    from picoformer.estimate.mend import decoder_mends, mends
    from picoformer.estimate.need import refuse_misfit
    from picoformer.estimate.sizes import image_sizes

    sizes = image_sizes(draft, target, cost_table(target, toolchain))

    def mend() -> str:
        is_decoder = draft.block is not None
        return decoder_mends(draft, target, sizes) if is_decoder else mends(float_graph, scheme, target, sizes)

    refuse_misfit(draft, target, sizes, mend)


def quantize_samples(
    model: Path,
    calibration: Path | None,
    scheme: str,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    valid_length: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
    quantized: Path | None = None,
    refuse: Callable[[Graph], None] | None = None,
) -> tuple[Graph, Graph, dict[str, Array]]:
    """From files: (float graph, the graph in `scheme`, the calibration samples (samples, *shape) by input).

    The float graph is the equalized one where the settings ask for that: its values are those that were rounded.
    `quantized`: a folder that holds both graphs already; then there are no samples. `refuse` is asked about the float
    graph before anything is quantized, and raises where that would be in vain.
    """
    from picoformer.quantize import SCHEMES, QuantizeSettings, equalized, has_activations
    from picoformer.quantized_folder import load_quantized
    from picoformer.reference import run_float

    if scheme != "float32" and scheme not in SCHEMES:
        raise ConfigError(f"unknown scheme '{scheme}'; use one of float32, {', '.join(SCHEMES)}")
    graph, given = import_given(model, shapes, valid_length)
    if name is not None:
        graph = graph.replace(name=name)
    if quantized is not None:
        if calibration is not None:
            raise ConfigError("--quantized and --calibration both say where the integers come from; keep one")
        if settings is not None and settings.budget is not None:
            raise ConfigError("--quantized holds integers that were chosen already; give --budget where they are made")
        return *load_quantized(quantized, graph), {}
    if scheme == "float32":
        if settings is not None and settings.budget is not None:
            raise ConfigError("a budget of bytes is met by integers; use an integer scheme with it")
        return graph, graph, {}
    if refuse is not None:
        refuse(graph)
    is_typed = has_activations(graph, given)
    if calibration is None and is_typed:
        return graph, quantize_as_given(graph, given, {}, scheme, settings), {}
    if calibration is None:
        wanted = ", ".join(graph.inputs)
        raise DataError(f"scheme {scheme} needs --calibration: an .npz with samples of {wanted}")
    arrays, labels = split_labels(load_samples(calibration, "train", CALIBRATION_SAMPLES), calibration)
    check_calibration(arrays, labels, calibration)
    samples = fit_samples(graph, with_full_length(graph, arrays), calibration)
    if is_typed:
        return graph, quantize_as_given(graph, given, samples, scheme, settings), samples
    chosen = SCHEMES[scheme]
    settings = replace(settings or QuantizeSettings(), activations=chosen.activations, weights=chosen.weights)
    settings = with_given_weights(graph, given, settings)
    if settings.equalization != "off":
        graph, settings = equalized(graph, samples, run_float, settings), replace(settings, equalization="off")
    return graph, quantize_model(graph, samples, settings, progress), samples


def build_files(
    model: Path,
    calibration: Path | None,
    scheme: str,
    target: Target,
    out: Path,
    prefix: str = "model",
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    valid_length: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
    quantized: Path | None = None,
    toolchain: str = "auto",
    tile: Tile = "auto",
) -> Build:
    """An ONNX file or a checkpoint, and for an integer scheme an .npz of calibration samples, to the folder `out`.

    `quantized`, a folder that `quantize` or `finetune` wrote, stands for calibration and scheme. `toolchain`: gcc,
    clang, zig or auto.
    """
    from picoformer.backends.c import check_prefix, check_tile
    from picoformer.estimate.early import refuse_early
    from picoformer.quantized_folder import quantized_scheme
    from picoformer.stages import onnx_file

    tile = check_tile(tile)
    check_prefix(prefix)
    refuse_to_replace(out, BUILD_MARKS)
    if quantized is not None:
        scheme = quantized_scheme(quantized)
    with onnx_file(model) as source:
        float_graph, graph, samples = quantize_samples(
            source, calibration, scheme, settings, shapes, valid_length, name, progress, quantized,
            lambda graph: refuse_early(graph, target, scheme, settings, tile, toolchain),
        )  # fmt: skip
        return write_build(
            source, float_graph, graph, scheme, target, out, prefix, valid_length, progress, samples, quantized,
            toolchain, tile,
        )  # fmt: skip


def read_target(folder: Path) -> Target:
    """The target that a build folder was made for; raises ModelError when its target.json is missing or broken."""
    path = folder / "target.json"
    try:
        return Target.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{folder}: is not a build folder (no target.json); make one with `picoformer build`"
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); build again") from None
    except ValueError:
        raise ModelError(f"{path} is broken; build again") from None


def refuse_to_replace(out: Path, marks: tuple[str, ...]) -> None:
    """Raise ConfigError when `out` is a file, or a folder with something in it with none of the files `marks`.

    An output folder is replaced as a whole: it must not be one that holds a person's own files.
    """
    if out.is_file():
        raise ConfigError(f"{out}: is a file; give the name of a folder")
    out = out.resolve()
    if out == Path.cwd():
        raise ConfigError(f"{out}: is the current folder, which cannot be replaced; give a folder in it")
    if out.is_dir() and any(out.iterdir()) and not any((out / mark).exists() for mark in marks):
        raise ConfigError(f"{out}: holds other files, which would be lost; give a new folder, or empty it")


def _provenance(manifest: Manifest) -> dict[str, str]:
    return {
        "model": manifest.name,
        "scheme": manifest.scheme,
        "source_sha256": manifest.source_sha256,
        "picoformer": manifest.version,
    }


def load_manifest(folder: Path) -> Manifest:
    """Read a build folder's build.json; raises ModelError when it is not one."""
    try:
        return Manifest(**json.loads((folder / "build.json").read_text("utf-8")))
    except FileNotFoundError:
        raise ModelError(f"{folder}: is not a build folder (no build.json); make one with `picoformer build`") from None
    except (ValueError, TypeError) as error:
        raise ModelError(f"{folder}/build.json: cannot be used ({error}); build again") from None


def open_build(folder: Path) -> Build:
    """Read a build folder; raises ModelError when something in it is missing or broken."""
    from picoformer.ops.graph_file import load_graph

    manifest = load_manifest(folder)
    float_graph = load_graph(folder / FLOAT_GRAPH)
    graph = float_graph if manifest.scheme == "float32" else load_graph(folder / INTEGER_GRAPH)
    return Build(folder, manifest, float_graph, graph)
