"""The models of doors.py, behind one face: built, written and run in each form, outputs as real numbers (rows, n)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.backends.onnx.runtime import NUMPY_TYPES
from picoformer.backends.tflite.export import export_tflite
from picoformer.backends.tflite.runtime import Runtime, run_tflite
from picoformer.build_folder import Build, build_files, quantize_samples
from picoformer.datasets import load_dataset
from picoformer.decoder.build import DecoderBuild, build_decoder, open_decoder
from picoformer.decoder.graph import LOGITS, decoder_graph
from picoformer.decoder.quantize import quantize_decoder, step_graph
from picoformer.decoder.sessions import DeviceSession, block_inputs
from picoformer.decoder.stages import held_back
from picoformer.decoder.tflite import RANGE_WINDOWS, calibration_runs, run_decoder_tflite
from picoformer.decoder.verify import verify_decoder
from picoformer.emulator.session import open_device
from picoformer.exporting_tflite import RANGE_SAMPLES, provenance
from picoformer.files import file_hash, save_arrays
from picoformer.importing import import_model
from picoformer.ir import Graph
from picoformer.models.importers import load_decoder
from picoformer.ops.fixedpoint import dequantize
from picoformer.ops.graph_file import graph_identity
from picoformer.quantize import SCHEMES, QuantizeSettings, uniform_settings
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.reference.session import float_session, integer_session
from picoformer.targets import Target, load_target
from picoformer.verification import Runner, Verification, verify_build

TOKENS = 64
"""Tokens of held-back text that a language model is run on."""
SEQUENCE = 128
"""Its context."""


class Subject(ABC):
    """A model and the samples that it is judged on."""

    on_devices: int
    """How many of the samples the C is run on."""

    def __init__(self, name: str, samples: str, settings: QuantizeSettings, board: str, folder: Path) -> None:
        self.name, self.samples, self.board = name, samples, load_target(board)
        self._settings, self._folder = settings, folder

    @abstractmethod
    def build(self, scheme: str) -> Build:
        """Built for the board, with the graphs."""

    @abstractmethod
    def verify(self, build: Build) -> Verification:
        """The whole chain on all samples."""

    @abstractmethod
    def ours(self, graph: Graph) -> np.ndarray:
        """What a graph gives by our definitions."""

    @abstractmethod
    def on_device(self, build: Build, board: Target) -> np.ndarray:
        """What the C gives, of a float build."""

    @abstractmethod
    def onnx(self, session: Any, graph: Graph) -> np.ndarray:
        """What a session gives that has the file of `graph`."""

    @abstractmethod
    def write_tflite(self, scheme: str, out: Path) -> Graph:
        """Write the file as `export --format tflite` does; returns the graph that was written."""

    @abstractmethod
    def tflite(self, file: Path, graph: Graph, runtime: Runtime) -> np.ndarray:
        """What the file gives."""

    def _of_one_type(self, scheme: str) -> QuantizeSettings:
        return uniform_settings(replace(self._settings, activations=SCHEMES[scheme].activations))


class Classifier(Subject):
    """A model that is run once a sample: `calibration` and `test` are (samples, sequence, inputs)."""

    def __init__(
        self, name: str, model: Path, calibration: np.ndarray, test: np.ndarray, on_devices: int,
        settings: QuantizeSettings, folder: Path,
    ) -> None:  # fmt: skip
        super().__init__(name, f"{len(test)} test samples", settings, "mps2-an386", folder)
        self.model, self.on_devices = model, on_devices
        graph = import_model(model)
        (self.input,), (self.output,) = graph.inputs, graph.outputs
        shape = graph.types[self.input].shape
        self.calibration = {self.input: calibration.reshape(len(calibration), *shape)}
        self.inputs = {self.input: test.reshape(len(test), *shape)}
        self._calibration_file = folder / f"{name}.calibration.npz"
        save_arrays(self._calibration_file, self.calibration)

    def build(self, scheme: str) -> Build:
        calibration = None if scheme == "float32" else self._calibration_file
        out = self._folder / f"{self.name} {scheme}"
        return build_files(self.model, calibration, scheme, self.board, out, settings=self._settings)

    def verify(self, build: Build) -> Verification:
        return verify_build(build, self._few())

    def ours(self, graph: Graph) -> np.ndarray:
        quant = graph.types[self.output].quant
        if quant is None:
            return self._rows(run_float(graph, self.inputs)[self.output])
        return self._rows(dequantize(run_integer(lower_graph(graph), self.inputs)[self.output], quant))

    def on_device(self, build: Build, board: Target) -> np.ndarray:
        firmware = None if board.is_library else build.firmware(board)
        with open_device(firmware, board, identity=graph_identity(build.graph)[:16]) as session:
            runner = Runner(session, build.graph, len(build.steps(board)), board.name, None)
            return self._rows(runner(self._few()).outputs[self.output])

    def onnx(self, session: Any, graph: Graph) -> np.ndarray:
        return self._rows(np.stack([session.run({self.input: x})[self.output] for x in self.inputs[self.input]]))

    def write_tflite(self, scheme: str, out: Path) -> Graph:
        is_float = scheme == "float32"
        graph, typed, samples = quantize_samples(
            self.model, None if is_float else self._calibration_file, scheme,
            None if is_float else self._of_one_type(scheme),
        )  # fmt: skip
        few = {name: value[:RANGE_SAMPLES] for name, value in samples.items()}
        values = {**few, **run_float(graph, few)} if few else {}
        runs = [{name: value[i] for name, value in values.items()} for i in range(len(next(iter(few.values()), [])))]
        export_tflite(typed, out, provenance(self.model.name, file_hash(self.model), scheme), runs)
        return typed

    def tflite(self, file: Path, graph: Graph, runtime: Runtime) -> np.ndarray:
        return self._rows(run_tflite(file, self.inputs, [self.output], runtime)[self.output])

    def _few(self) -> dict[str, np.ndarray]:
        return {self.input: self.inputs[self.input][: self.on_devices]}

    def _rows(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(len(values), -1)


class Language(Subject):
    """A language model's checkpoint, token by token, its caches carried along."""

    def __init__(
        self, name: str, checkpoint: Path, data: Path, windows: int, seed: int, settings: QuantizeSettings,
        folder: Path,
    ) -> None:  # fmt: skip
        super().__init__(name, f"{TOKENS} tokens of held-back text", settings, "mps2-an500", folder)
        self._checkpoint, self._model, found = checkpoint, load_decoder(checkpoint), load_dataset(data)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(found.x_train))[:windows])
        self._windows = np.asarray(found.x_train[chosen])
        self.on_devices = TOKENS
        self._tokens = [int(token) for token in held_back(found, TOKENS, 1)[0][0]]

    def build(self, scheme: str) -> Build:
        out = self._folder / f"{self.name} {scheme}"
        made = build_decoder(
            self._model, self.board, out, scheme, SEQUENCE, 1, self._windows, self._settings, name=self.name
        )
        return made.build

    def verify(self, build: Build) -> Verification:
        opened: DecoderBuild = open_decoder(build.folder)
        return verify_decoder(opened, [self._tokens])

    def ours(self, graph: Graph) -> np.ndarray:
        quant = graph.types[LOGITS].quant
        session = float_session(graph) if quant is None else integer_session(lower_graph(graph))
        found = [session.run(block_inputs([token], i))[LOGITS][-1] for i, token in enumerate(self._tokens)]
        return np.stack(found) if quant is None else dequantize(np.stack(found), quant)

    def on_device(self, build: Build, board: Target) -> np.ndarray:
        firmware = None if board.is_library else build.firmware(board)
        with open_device(firmware, board, identity=graph_identity(build.graph)[:16]) as session:
            session.device.reset()
            decoder = DeviceSession(session.device, build.graph)
            return np.stack([decoder.decode([token], i) for i, token in enumerate(self._tokens)])

    def onnx(self, session: Any, graph: Graph) -> np.ndarray:
        caches = {before: np.zeros(graph.types[before].shape, np.float32) for before, _ in graph.states}
        found = []
        for position, token in enumerate(self._tokens):
            outputs = session.run({**block_inputs([token], position), **caches})
            caches = {before: outputs[after] for before, after in graph.states}
            found.append(outputs[LOGITS].reshape(-1))
        return np.stack(found)

    def write_tflite(self, scheme: str, out: Path) -> Graph:
        step = float_step = decoder_graph(self._model.config, self._model.weights, 1, SEQUENCE)
        runs: list[dict[str, np.ndarray]] = []
        if scheme != "float32":
            config, weights = self._model.config, self._model.weights
            settings = self._of_one_type(scheme)
            typed = quantize_decoder(config, weights, self._windows, scheme, SEQUENCE, settings)
            step = step_graph(typed, 1, SEQUENCE)
            runs = calibration_runs(float_step, self._windows[:RANGE_WINDOWS])
        export_tflite(step, out, provenance(self._checkpoint.name, file_hash(self._checkpoint), scheme), runs)
        return step

    def tflite(self, file: Path, graph: Graph, runtime: Runtime) -> np.ndarray:
        return run_decoder_tflite(file, graph, self._tokens, runtime)


class OptimizedSession:
    """An ONNX file under onnxruntime with all of its optimizations; `entries` go to the session's configuration."""

    def __init__(self, model: Path, entries: Mapping[str, str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in entries.items():
            options.add_session_config_entry(f"session.{key}", value)
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output name → array, for inputs name → array."""
        items = self._session.get_inputs()
        feeds = {item.name: np.asarray(inputs[item.name], NUMPY_TYPES[item.type]).reshape(item.shape) for item in items}
        names = [item.name for item in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))
