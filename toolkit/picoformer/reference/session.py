"""Running a graph with states run by run: float or integer meaning, every value of the last run at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from picoformer.errors import DataError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.reference.executor import LoweredGraph


class StateSession:
    """A graph and what it keeps between runs; caches are zero at first, as on a device.

    `run_node` computes a node's output from its operands that are not constants. `samples`, where it is not 0: so many
    texts side by side, along a first axis that every array then has, but for the inputs without one.
    """

    def __init__(self, graph: Graph, run_node: Mapping[str, Callable[..., Array]], samples: int = 0) -> None:
        self.graph, self.samples = graph, samples
        self._run_node = run_node
        first = (samples,) if samples else ()
        self._states: dict[str, Array] = {
            before: np.zeros((*first, *graph.types[before].shape), graph.types[before].dtype.numpy)
            for before, _ in graph.states
        }
        self._source: dict[str, Array] = {}
        self.values: dict[str, Array] = {}
        """What the last run computed, by name; of a block the rows that were there."""

    def read_source(self, inputs: Mapping[str, Array]) -> None:
        """Compute the prologue for the inputs of the graph's source: what hangs on it is kept for all runs after.

        With `samples` every input has them in front. Raises DataError for inputs that do not fit.
        """
        graph, first = self.graph, (self.samples,) if self.samples else ()
        values: dict[str, Array] = {}
        for name in graph.source:
            value = None if name not in inputs else np.asarray(inputs[name])
            if value is None or value.shape != (*first, *graph.types[name].shape):
                found = "missing" if value is None else list(value.shape)
                raise DataError(f"input '{name}' is {found}: give {[*first, *graph.types[name].shape]}")
            values[name] = value
        self._source = dict(values)
        with np.errstate(over="ignore", under="ignore"):
            for node in graph.nodes:
                if node.output in graph.prologue:
                    result = self._run_node[node.output](*(values[name] for name in graph.activations(node)))
                    values[node.output] = result
        self._states |= {before: values[after] for before, after in graph.states if after in graph.prologue}
        self.values = values

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run on the graph's inputs but for the states; the arrays of a block may have 1 row to as many as it has.

        Returns the outputs but for the states. Raises DataError for inputs that do not fit.
        """
        graph = self.graph
        values: dict[str, Array] = {**self._states, **self._source}
        values |= {after: values[before] for before, after in graph.states if after in graph.prologue}
        if graph.source and not self._source:
            raise DataError(f"model '{graph.name}' has read no source yet; give it one first")
        for name in graph.ports[0]:
            if name in graph.source:
                continue
            if name not in inputs:
                raise DataError(f"input '{name}' is missing; given: {', '.join(inputs) or 'none'}")
            values[name] = np.asarray(inputs[name])
        rows = int(values[graph.count]) if graph.count else 0
        for name in graph.block.intersection(graph.inputs):
            shape = graph.types[name].shape
            expected = (*((self.samples,) if self.samples else ()), rows, *shape[1:])
            if not 1 <= rows <= shape[0] or values[name].shape != expected:
                raise DataError(
                    f"input '{name}' is {list(values[name].shape)}: give 1 to {shape[0]} rows, and count them"
                )
        with np.errstate(over="ignore", under="ignore"):
            for node in graph.nodes:
                if node.output in graph.prologue:
                    continue
                result = self._run_node[node.output](*(values[name] for name in graph.activations(node)))
                values[node.output] = self._there(result, rows) if node.output in graph.block else result
        self._states = {before: values[after] for before, after in graph.states}
        self.values = values
        return {name: values[name] for name in graph.ports[1]}

    def _there(self, value: Array, rows: int) -> Array:
        """The rows of a block that are there: what is made of a position alone has all of them."""
        return value[:, :rows] if self.samples and value.ndim > 1 else value[:rows]

    @property
    def states(self) -> dict[str, Array]:
        """What is kept, by the names of the inputs. Arrays are never written to, only replaced: a copy may be kept."""
        return dict(self._states)

    @states.setter
    def states(self, states: Mapping[str, Array]) -> None:
        self._states = dict(states)


def float_session(graph: Graph, samples: int = 0) -> StateSession:
    """The float meaning of a float graph, from caches of zeros on."""

    def bind(index: int) -> Callable[..., Array]:
        node = graph.nodes[index]

        def run(*activations: Array) -> Array:
            given = iter(activations)
            operands = [graph.constants[n] if n in graph.constants else next(given) for n in node.inputs]
            result = np.asarray(node.op.compute(*operands))
            return result.astype(np.float32) if graph.types[node.output].dtype is DType.FLOAT32 else result

        return run

    return StateSession(graph, {node.output: bind(index) for index, node in enumerate(graph.nodes)}, samples)


def integer_session(lowered: LoweredGraph) -> StateSession:
    """The integer meaning of a quantized graph, from caches of zeros on."""
    pairs = zip(lowered.graph.nodes, lowered.steps, strict=True)
    return StateSession(lowered.graph, {node.output: step.execute for node, step in pairs})
