"""Generated C of a decoder: every step gives the bytes of the reference, whole and by tiles; float within rounding."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from c_host import GENERIC, Objects, host, object_cache
from decode_graphs import VOCABULARY, decoder, windows
from graphs import Array
from picoformer.backends.c import emit_c
from picoformer.backends.c.tiling import Tile
from picoformer.ir import DType, Graph
from picoformer.quantize import quantize
from picoformer.reference import lower_graph, run_float, run_integer
from test_decode_quantize import FORMS, settings

BLOCK, POSITIONS, SAMPLES = 8, 16, 3


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return object_cache(tmp_path_factory.mktemp("objects"))


@functools.cache
def float_graph(form: str) -> Graph:
    return decoder(BLOCK, POSITIONS, **FORMS[form])  # type: ignore[arg-type]


@functools.cache
def typed_graph(form: str, scheme: str, table: DType = DType.INT8) -> Graph:
    graph = float_graph(form)
    return quantize(graph, windows(graph, 12), run_float, settings(scheme, weight_types={"table": table}))


def running(graph: Graph) -> dict[str, Array]:
    """Samples in the middle of a text: caches that hold something, positions and counts of all kinds."""
    given = windows(graph, SAMPLES, seed=3)
    given["position"][:], given["count"][:] = (0, 3, POSITIONS - BLOCK), (1, 5, BLOCK)
    random = np.random.default_rng(4)
    for name in ("keys", "values"):
        given[name] = random.normal(0, 0.5, given[name].shape).astype(np.float32)
    return given


def data_of(values: dict[str, Array], graph: Graph, index: int) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(values[name][index]).tobytes() for name in graph.inputs}


@pytest.mark.parametrize("tile", ["auto", 3])
@pytest.mark.parametrize("scheme", ["int8", "int8x16", "int4x16"])
@pytest.mark.parametrize("form", FORMS)
def test_every_step_gives_the_bytes_of_the_reference(
    form: str, scheme: str, tile: Tile, tmp_path: Path, objects: Objects
) -> None:
    graph = typed_graph(form, scheme)
    built = host(graph, tmp_path, objects, tile)
    reference = run_integer(lower_graph(graph), running(graph))
    for index in range(SAMPLES):
        for name, data in built.steps(data_of(reference, graph, index)):
            expected = np.ascontiguousarray(reference[name][index])
            actual = np.frombuffer(data, expected.dtype)
            assert np.array_equal(actual, expected.reshape(-1)), f"sample {index}, '{name}'"


@pytest.mark.parametrize("form", FORMS)
def test_float_steps_stay_within_rounding_of_the_reference(form: str, tmp_path: Path, objects: Objects) -> None:
    graph = float_graph(form)
    built = host(graph, tmp_path, objects)
    reference = run_float(graph, running(graph))
    for index in range(SAMPLES):
        for name, data in built.steps(data_of(reference, graph, index)):
            expected = reference[name][index].reshape(-1)
            limit = 1e-5 * float(np.abs(reference[name]).max())
            assert np.abs(np.frombuffer(data, expected.dtype) - expected).max() <= limit, name


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16])
def test_a_tied_table_is_one_array(dtype: DType, tmp_path: Path, objects: Objects) -> None:
    graph = typed_graph("rotary", "int8x16", dtype)
    built = host(graph, tmp_path / "built", objects)
    reference = run_integer(lower_graph(graph), running(graph))
    steps = dict(built.steps(data_of(reference, graph, 1)))
    assert steps["logits"] == np.ascontiguousarray(reference["logits"][1]).tobytes()
    emit_c(graph, GENERIC, "model", tmp_path)
    text = (tmp_path / "weights.c").read_text()
    assert text.count(f"{VOCABULARY} x 16") == 1


@pytest.mark.parametrize(("position", "count"), [(-1, 1), (POSITIONS - BLOCK + 1, BLOCK), (0, BLOCK + 1)])
def test_a_block_past_the_cache_is_an_error_of_its_step(
    position: int, count: int, tmp_path: Path, objects: Objects
) -> None:
    graph = typed_graph("slopes", "int8x16")
    built = host(graph, tmp_path, objects)
    given = running(graph)
    reference = run_integer(lower_graph(graph), given)
    data = data_of(reference, graph, 0)
    data["position"], data["count"] = np.int32(position).tobytes(), np.int32(count).tobytes()
    with pytest.raises(AssertionError):
        list(built.steps(data))
