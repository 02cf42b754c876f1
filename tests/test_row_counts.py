"""Rows past a valid length that nobody reads are not computed: the same bytes as ever, for fewer instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import picoformer
from c_host import Objects, host, object_cache, rows_computed
from encoder_models import CASES, ROWS, save, texts
from picoformer import EncoderChoice
from picoformer.backends.c import draft_c
from picoformer.build_memory import read_memory
from picoformer.emulator.session import open_device
from picoformer.encoder.graph import encoder_graph
from picoformer.estimate.made_up import made_up_graph
from picoformer.ir import Graph
from picoformer.models.importers import load_encoder
from picoformer.passes import optimize
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.targets import load_target
from picoformer.verification import Runner


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return object_cache(tmp_path_factory.mktemp("objects"))


def graph_of(folder: Path, name: str) -> Graph:
    save(CASES[name], folder)
    imported = load_encoder(folder, CASES[name].task)
    return optimize(encoder_graph(imported.config, imported.weights, ROWS))


def counted(graph: Graph, tile: Any = "auto") -> tuple[set[str], set[str]]:
    """(the steps whose rows are counted, all others) of more than one row."""
    draft = draft_c(graph, ["generic"], tile=tile)
    schedule = draft.plan.schedule
    found = {
        schedule.step_of(call).output
        for tiling in schedule.tilings if tiling.counted
        for call in range(tiling.first, tiling.last + 1)
    }  # fmt: skip
    return found, {step.output for step in schedule.steps if graph.types[step.output].rows > 1} - found


@pytest.mark.parametrize("name", ["bert_embedding", "bert_classify", "albert_pooled", "distilbert_first"])
@pytest.mark.parametrize("tile", ["auto", "none", 3])
def test_what_is_pooled_is_counted(name: str, tile: Any, tmp_path: Path) -> None:
    graph = graph_of(tmp_path, name)
    for typed in (graph, made_up_graph(graph, "int8")):
        found, others = counted(typed, tile)
        assert not others and len(found) > 15


@pytest.mark.parametrize("name", ["bert_rows", "bert_masked", "roberta_label_segments"])
def test_rows_that_come_out_are_all_computed(name: str, tmp_path: Path) -> None:
    found, others = counted(made_up_graph(graph_of(tmp_path, name), "int8"))
    assert not found and len(others) > 15


@pytest.mark.parametrize(
    ("name", "tile"), [("bert_embedding", "auto"), ("bert_classify", 4), ("albert_pooled", "none")]
)
def test_every_length_gives_the_bytes_of_the_reference(name: str, tile: Any, tmp_path: Path, objects: Objects) -> None:
    """Of no row at all up to all, in any order: what an earlier run left behind is felt nowhere."""
    typed = made_up_graph(graph_of(tmp_path / "model", name), "int8")
    built = host(typed, tmp_path / "c", objects, tile)
    lengths = [ROWS, 3, 0, 7, 1, 10, 2, ROWS]
    given = texts(2, 4, tuple(lengths))
    fed = {key: (value[:, None] if value.ndim > 1 else value).astype(np.int32) for key, value in given.items()}
    reference = run_integer(lower_graph(typed), {key: fed[key] for key in typed.inputs})
    short = 0
    for index, length in enumerate(lengths):
        inputs = {key: np.ascontiguousarray(fed[key][index]).tobytes() for key in typed.inputs}
        for step, data in built.steps(inputs):
            value = np.ascontiguousarray(reference[step][index])
            assert data == rows_computed(value, data, inputs).tobytes(), f"length {length}, '{step}'"
            short += len(data) < value.nbytes
        assert built.read(built.device.outputs[0]) == reference[typed.outputs[0]][index].tobytes()
    assert short > 6 * 15


def test_float_code_counts_rows_too(tmp_path: Path, objects: Objects) -> None:
    graph = graph_of(tmp_path / "model", "bert_embedding")
    built = host(graph, tmp_path / "c", objects)
    given = texts(2, 4, (5, ROWS, 1))
    fed = {key: (value[:, None] if value.ndim > 1 else value).astype(np.int32) for key, value in given.items()}
    values = run_float(graph, {key: fed[key] for key in graph.inputs})
    for index in range(3):
        inputs = {key: np.ascontiguousarray(fed[key][index]).tobytes() for key in graph.inputs}
        for step, data in built.steps(inputs):
            expected = rows_computed(values[step][index], data, inputs)
            assert np.abs(np.frombuffer(data, np.float32) - expected).max() <= 1e-5 * np.abs(values[step]).max()


def test_a_shorter_text_takes_fewer_instructions(tmp_path: Path, arm_tools: None) -> None:
    save(CASES["bert_embedding"], tmp_path / "model")
    target = load_target("mps2-an386")
    build = picoformer.build(tmp_path / "model", calibration=texts(2, 5, (3, 7, ROWS, 9) * 8), target=target,
                             out=tmp_path / "out", encoder=EncoderChoice(ROWS, "embedding"))  # fmt: skip
    live = read_memory(tmp_path / "out" / target.name)["live"]
    assert [entry["step"] for entry in live if not entry["length"]] == ["pooled", "embedding"]
    taken = []
    with open_device(build.firmware(target), target) as session:
        for length in (1, 4, 8, ROWS):
            runner = Runner(session, build.graph, len(build.steps(target)), target.name, None)
            fed = {key: value[:, None] if value.ndim > 1 else value for key, value in texts(2, 6, (length,)).items()}
            runner({key: value.astype(np.int32) for key, value in fed.items()})
            instructions = runner.measured().instructions
            assert instructions is not None
            taken.append(instructions.total)
    assert taken == sorted(taken) and taken[0] < 0.25 * taken[3] and taken[1] < 0.5 * taken[3]
