"""From a graph to the C files of its model: model.c, model.h, weights.c, model_device.c, main.c, sources.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.backends.c.block import Block, block_of
from picoformer.backends.c.interface import Port, check_prefix, ports_of
from picoformer.backends.c.isa import layout_for
from picoformer.backends.c.length import counted_rows
from picoformer.backends.c.literals import array_body, c_type
from picoformer.backends.c.names import Names, comment, identifier, string
from picoformer.backends.c.operators import FUSED, Unsupported
from picoformer.backends.c.plan import MemoryPlan, PlacedValue, plan_memory
from picoformer.backends.c.site import Parts, Site, describe, dimensions
from picoformer.backends.c.source_operators import EMITTERS
from picoformer.backends.c.sources import sources_of
from picoformer.backends.c.tiling import Tile, check_tile
from picoformer.backends.c.tokenizer import write_tokenizer_c
from picoformer.errors import UnsupportedError
from picoformer.files import atomic_write_bytes, atomic_write_text, content_hash
from picoformer.ir import DType, Graph, Lowered
from picoformer.ir.operator import LoweringError
from picoformer.ops.graph_file import graph_identity
from picoformer.tokenizers.tables import TokenizerTables

IDENTITY_BYTES = 16
LARGEST_TEXT = 1 << 20
"""Bytes of constants that are written as numbers in C; more lie in a binary file, which compilers take quickly."""
TEXT_SOURCES = tuple(
    f"text/{name}.c" for name in ("beam", "generate", "logarithm", "random", "sampler", "stop_strings", "weights")
)
"""What turns logits into text on the device."""
EXAMPLE_TEXT, EXAMPLE_TOKENS = "The", 16
"""What main.c begins with, where there is a tokenizer, and how many tokens it writes at most."""
LONGEST_BEAM, BEAM_STOP_TOKENS = 128, 8
"""Tokens that a beam search over the wire may write, and stop tokens that it may look for."""


@dataclass(frozen=True)
class CModel:
    """What was written: `files` by name inside `folder`, the plan, the device's steps in order, bytes of constants."""

    folder: Path
    prefix: str
    files: tuple[str, ...]
    model_sources: tuple[str, ...]
    sources: tuple[str, ...]
    plan: MemoryPlan
    arena_bytes: int
    state_bytes: int
    weights_bytes: int
    functions: tuple[str, ...]

    @property
    def step_outputs(self) -> tuple[str, ...]:
        """Name of the value each step computes."""
        return tuple(step.output for step in self.plan.steps)


@dataclass(frozen=True)
class Row:
    """One call as the templates see it; `code` calls its functions, `again`: for rows that were computed before."""

    index: int
    step: int
    again: bool
    tiles: tuple[tuple[int, int], ...]
    """What `row` and `rows` of the code are, each time it runs; empty where it runs once."""
    name: str
    kind: str
    value: str
    type: str
    reads: str
    title: str
    offset: str
    code: str


@dataclass(frozen=True)
class TextExample:
    """What is known of a language model's text: the tokens that begin one, and the tables of its tokenizer, whose C is
    written beside the model's then."""

    begin: tuple[int, ...] = ()
    tokenizer: TokenizerTables | None = None


@dataclass(frozen=True)
class Draft:
    """A model's C before it is written: all that decides what it takes, nothing that costs time to print."""

    graph: Graph
    prefix: str
    plan: MemoryPlan
    ports: tuple[Port, ...]
    block: Block | None
    parts: Parts
    rows: tuple[Row, ...]
    sources: tuple[str, ...]
    offsets: dict[str, str]
    slots: int = 1
    """Texts that the device keeps side by side, where the model has states: beams."""

    @property
    def state_bytes(self) -> int:
        """Bytes of the states of all slots."""
        return self.slots * self.plan.state_bytes

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena."""
        return max(self.plan.peak, 16)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the arrays in weights.c."""
        return sum(array.values.nbytes for array in self.parts.arrays.values())


def draft_c(
    graph: Graph, target_isa: Sequence[str], prefix: str = "model", tile: Tile = "auto", slots: int = 1
) -> Draft:
    """Decide everything about a model's C without writing it; raises as `emit_c` does. `slots`: see Draft."""
    check_prefix(prefix)
    tile = check_tile(tile)
    layout = layout_for(graph, target_isa)
    lowered = _lower(graph)
    _refuse(graph)
    ports = ports_of(graph, prefix)
    block = block_of(graph)
    keep = [port.value for port in ports if port.is_length]
    if block:
        keep += [block.count, block.position]
    plan = plan_memory(graph, layout, keep, "none" if block else tile)
    length = next((port for port in ports if port.is_length), None)
    if length is not None:
        plan = replace(plan, schedule=counted_rows(graph, plan.schedule, length.value, length.longest))
    names = _local_names(plan)
    offsets = {value.name: f"AT_{names[value.name].upper()}" for value in (*plan.values, *plan.states)}
    parts = Parts(prefix, Names(_own_symbols(prefix, ports)))
    rows = []
    for index, call in enumerate(plan.schedule.calls):
        step = plan.steps[call.step]
        meanings = tuple(lowered[node.output] for node in step.nodes)
        site = Site(graph, step, index, meanings, names[step.output], layout, plan, offsets, parts)
        emitter = EMITTERS[step.kind] if len(step.nodes) == 1 else FUSED[step.kind]
        assert callable(emitter)
        rows.append(_row(site, emitter(site)))
    sources = sources_of(parts.functions, target_isa, layout.single_rows)
    if block or length is not None:
        parts.accessors.add(DType.INT32)
    if block:
        sources = tuple(sorted({*sources, *TEXT_SOURCES}))
    return Draft(graph, prefix, plan, ports, block, parts, tuple(rows), sources, offsets, slots)


def emit_c(
    graph: Graph, target_isa: Sequence[str], prefix: str, out: Path, *, card: Sequence[str] = (), tile: Tile = "auto"
) -> CModel:
    """Write a model as C99 into the folder `out` and say what was written.

    `graph` is quantized throughout or float32 throughout. `target_isa` is the target's list of instruction sets.
    `prefix` starts every symbol and file name. `card` is lines for the comment on top of the model: what it is, where
    it came from, how well it does. `tile` says what goes by tiles of rows (see tiling.py). Raises UnsupportedError
    naming the node that has no C; ConfigError for a prefix that is no identifier, an instruction set that is not known,
    or a `tile` that says nothing.
    """
    return write_c(draft_c(graph, target_isa, prefix, tile), out, card=card)


def write_c(
    draft: Draft, out: Path, *, card: Sequence[str] = (), text: TextExample = TextExample(),
    largest_text: int = LARGEST_TEXT,
) -> CModel:  # fmt: skip
    """Write a draft into the folder `out`; see `emit_c`. `text`: what a language model's example begins with.
    `largest_text`: bytes of constants beyond which they go into a binary file."""
    return _write(_context(draft, card), draft, out, text, largest_text)


def _lower(graph: Graph) -> dict[str, Lowered | None]:
    """Output → the integer meaning of the node that computes it, None for each when the graph is float."""
    quantized = any(type_.quant is not None for type_ in graph.types.values())
    lowered: dict[str, Lowered | None] = {}
    for node in graph.nodes:
        if node.op.kind == "Reshape":
            continue
        emitter = EMITTERS[node.op.kind]
        if isinstance(emitter, Unsupported):
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as C: {emitter.reason}")
        try:
            meaning = node.op.lower(graph.operands(node), graph.types[node.output]) if quantized else None
        except (LoweringError, NotImplementedError) as error:
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as C: {error}") from error
        lowered[node.output] = meaning
    return lowered


def _refuse(graph: Graph) -> None:
    """Raise UnsupportedError for what no operator is to blame for."""
    if all(node.op.kind == "Reshape" for node in graph.nodes):
        raise UnsupportedError(f"model '{graph.name}' computes nothing; give a model with at least one operator")
    for node in graph.nodes:
        if node.op.kind == "Reshape" and node.inputs[0] in graph.constants:
            raise UnsupportedError(f"node '{node.name}' (Reshape) reshapes a constant; fold constants first")
        if not graph.activations(node):
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) reads constants only; fold constants first")
        type_ = graph.types[node.output]
        if type_.elements == 0 or type_.dtype is DType.BOOL:
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) computes {type_}, which has no place in C")
    for name in graph.outputs:
        if name in graph.constants:
            raise UnsupportedError(f"output '{name}' of model '{graph.name}' is a constant; drop it")


def _local_names(plan: MemoryPlan) -> dict[str, str]:
    """Value or scratch → its identifier inside model.c."""
    names = Names()
    found: dict[str, str] = {}
    appends = [step.output for step in plan.steps if step.output in plan.aliases]
    for name in (*(value.name for value in (*plan.values, *plan.states)), *appends):
        found[name] = names.unique(identifier(name))
    return found


def _own_symbols(prefix: str, ports: Sequence[Port]) -> list[str]:
    symbols = [f"{prefix}_{word}" for word in ("t", "init", "run", "step", "step_names")]
    for port in ports:
        symbols += [f"{prefix}_{word}_{port.ident}" for word in ("input", "output", "quantize", "dequantize", "set")]
    return symbols


def _row(site: Site, code: str) -> Row:
    step, graph = site.step, site.graph
    reads = [f"'{name}'" if name.strip() != name else name for name in step.reads(graph)]
    into = [dimensions(graph.types[name].shape) for name in step.reads(graph)]
    title = f"{step.kind}: {', '.join(into)} -> {dimensions(site.out.shape)}"
    if site.tiling is not None and site.tiling.tiles > 1:
        title += f", {site.tiling.height} rows at a time"
    return Row(
        site.call_index,
        site.plan.schedule.calls[site.call_index].step,
        site.plan.schedule.calls[site.call_index].again,
        site.tiling.tile_rows if site.tiling else (),
        site.name,
        step.kind,
        step.output,
        describe(site.out),
        comment(", ".join(reads)),
        comment(title),
        site.offsets[site.plan.written(site.call_index).name],
        code,
    )


def _context(draft: Draft, card: Sequence[str]) -> dict[str, Any]:
    graph, plan, parts, offsets = draft.graph, draft.plan, draft.parts, draft.offsets
    identity = graph_identity(graph)[:IDENTITY_BYTES]
    return {
        "prefix": draft.prefix,
        "PREFIX": draft.prefix.upper(),
        "graph": graph,
        "card": [comment(line) for line in card],
        "plan": plan,
        "arena_bytes": draft.arena_bytes,
        "state_bytes": plan.state_bytes,
        "slots": draft.slots,
        "longest_beam": LONGEST_BEAM,
        "stop_tokens": BEAM_STOP_TOKENS,
        "block_idents": _block_idents(draft),
        "weights_bytes": draft.weights_bytes,
        "arrays": list(parts.arrays.values()),
        "structs": parts.structs,
        "accessors": sorted(parts.accessors, key=lambda dtype: dtype.value),
        "kept_accessors": sorted(parts.kept, key=lambda dtype: dtype.value),
        "uses_length": parts.uses_length,
        "uses_relative": any(function.startswith("pf_relative_") for function in parts.functions),
        "block": draft.block,
        "prologue_calls": _prologue_calls(graph, plan),
        "source_rows": max((graph.types[name].elements for name in graph.source), default=0),
        "rows": draft.rows,
        "steps": sorted((row for row in draft.rows if not row.again), key=lambda row: row.step),
        "tilings": plan.schedule.tilings,
        "counted": any(tiling.counted for tiling in plan.schedule.tilings),
        "pieces": [_piece(graph, plan, index) for index in range(len(plan.schedule.calls))],
        "inputs": [port for port in draft.ports if not port.is_output],
        "outputs": [port for port in draft.ports if port.is_output],
        "places": [(offsets[value.name], value) for value in plan.values],
        "kept": [(offsets[value.name], value) for value in plan.states],
        "place_width": max(len(f"{offsets[v.name]} = {v.offset},") for v in (*plan.values, *plan.states)),
        "offsets": offsets,
        "identity": [f"0x{byte:02x}" for byte in identity],
        "describe": lambda name: describe(graph.types[name]),
        "describe_place": lambda place: _describe_place(graph, place),
        "comment": comment,
        "string": string,
        "array_body": array_body,
        "c_type": c_type,
    }


def _block_idents(draft: Draft) -> dict[str, str]:
    """What the inputs of a decode step are called in C."""
    if draft.block is None:
        return {}
    known = {draft.block.count: "count", draft.block.position: "position"}
    types = draft.graph.types
    known |= {name: "source" if types[name].shape else "source_length" for name in draft.block.source}
    return {known.get(port.value, "tokens"): port.ident for port in draft.ports if not port.is_output}


def _prologue_calls(graph: Graph, plan: MemoryPlan) -> int:
    """How many calls read the source: the first ones, all of them."""
    found = [plan.steps[call.step].output in graph.prologue for call in plan.schedule.calls]
    assert found == sorted(found, reverse=True)
    return sum(found)


@dataclass(frozen=True)
class _Piece:
    """What a call leaves, as the device runtime is told: rows of `row_bytes` bytes, `height` of them at a time."""

    step: int
    offset: int
    rows: int
    height: int
    row_bytes: int
    """0 where the call repeats what was computed before."""
    stride: int
    """Bytes from one row's place to the next; 0 where each tile takes the place of the one before."""
    counted: bool
    """Whether it has as many rows as the block of a run, or as the valid length says."""
    kept: bool
    """Whether it is a state: its offset is that in the memory that is kept."""


def _piece(graph: Graph, plan: MemoryPlan, index: int) -> _Piece:
    call, tiling, place = plan.schedule.calls[index], plan.schedule.tiling_of(index), plan.written(index)
    counted = place.value in graph.block
    rows = graph.types[place.value].shape[0] if counted else tiling.rows if tiling else 1
    row_bytes = graph.types[place.value].bytes // rows
    height = tiling.height if tiling else rows
    stride = 0 if place.height else row_bytes
    return _Piece(
        call.step, place.offset, rows, height, 0 if call.again else row_bytes, stride,
        counted or (tiling is not None and tiling.counted), place in plan.states,
    )  # fmt: skip


def _describe_place(graph: Graph, place: PlacedValue) -> str:
    if not place.value:
        return "scratch"
    rows = f", {place.height} rows of it" if place.height else ""
    return describe(graph.types[place.value]) + rows


def _binary_weights(draft: Draft, out: Path) -> dict[str, Any]:
    """Write weights.bin, little-endian; what the template says of it."""
    placed, data = [], bytearray()
    for array in draft.parts.arrays.values():
        placed.append((array, len(data)))
        data += np.ascontiguousarray(array.values, array.values.dtype.newbyteorder("<")).tobytes()
    atomic_write_bytes(out / "weights.bin", bytes(data))
    return {"placed_arrays": placed, "weights_sha256": content_hash(bytes(data))}


def _text_context(draft: Draft, out: Path, text: TextExample) -> dict[str, Any]:
    """What the example of a language model is made of; writes its tokenizer."""
    tokenizer = None if text.tokenizer is None else write_tokenizer_c(text.tokenizer, out, draft.prefix)
    context = draft.block.context if draft.block else 1
    begin = text.begin[: max(1, context - 1)]
    return {
        "tokenizer": tokenizer,
        "begin": begin,
        "text": EXAMPLE_TEXT,
        "text_bytes": len(EXAMPLE_TEXT),
        "written": min(EXAMPLE_TOKENS, context),
    }


def _write(context: dict[str, Any], draft: Draft, out: Path, text: TextExample, largest_text: int) -> CModel:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    prefix, sources = draft.prefix, draft.sources

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    model_sources: tuple[str, ...] = (f"{prefix}.c", "weights.c", f"{prefix}_device.c")
    texts = {
        f"{prefix}.h": "model.h.j2",
        f"{prefix}.c": "model.c.j2",
        f"{prefix}_weights.h": "weights.h.j2",
        "weights.c": "weights.c.j2",
        f"{prefix}_device.c": "device.c.j2",
        "main.c": "main.c.j2",
    }
    others: list[str] = []
    if draft.weights_bytes > largest_text:
        others.append("weights.bin")
        model_sources = (f"{prefix}.c", "weights.S", f"{prefix}_device.c")
        texts["weights.S"] = "weights.S.j2"
        del texts["weights.c"]
        context |= _binary_weights(draft, out)
    if draft.block:
        model_sources = (*model_sources[:2], f"{prefix}_decoder.c", model_sources[2])
        texts |= {f"{prefix}_decoder.h": "decoder.h.j2", f"{prefix}_decoder.c": "decoder.c.j2"}
        texts["main.c"] = "main_text.c.j2"
        context |= _text_context(draft, out, text)
        if (tokenizer := context["tokenizer"]) is not None:
            model_sources = (*model_sources[:-1], *tokenizer.sources, model_sources[-1])
            sources = tuple(sorted({*sources, *tokenizer.firmware}))
            others += [*tokenizer.sources, *tokenizer.headers]
    written = {name: environment.get_template(template).render(context) for name, template in texts.items()}
    listing: dict[str, Any] = {"model_sources": list(model_sources), "sources": list(sources), "include": ["include"]}
    listing["weights_bytes"], listing["prefix"] = draft.weights_bytes, prefix
    if draft.block:
        listing["defines"] = ["PF_TEXT"]
    written["sources.json"] = json.dumps(listing, indent=2) + "\n"
    own = [*model_sources[:-1], *(f"firmware/{name}" for name in sources)]
    written["sources.txt"] = "\n".join([*own, ""])
    for name, content in written.items():
        atomic_write_text(out / name, content)
    return CModel(
        out,
        prefix,
        (*written, *others),
        model_sources,
        sources,
        draft.plan,
        draft.arena_bytes,
        draft.plan.state_bytes,
        draft.weights_bytes,
        tuple(draft.parts.functions),
    )
