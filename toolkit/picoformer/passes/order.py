"""The passes in their order, each with the reason it stands where it does, and what is refused at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Node, verify
from picoformer.ops import Add, Binary, Conv, MatMul, Mul, Softmax, Unary, Where
from picoformer.passes.activation import ACTIVATION, stand_alone
from picoformer.passes.attention import ATTENTION, UNMERGED_ATTENTION
from picoformer.passes.convolution import CONVOLUTION
from picoformer.passes.expression import ancestors
from picoformer.passes.formulas import drop_inner_grids
from picoformer.passes.layout import LAYOUT, sink_reshape
from picoformer.passes.linear import LINEAR, SCALES
from picoformer.passes.norm import NORM, fold_norm_gain
from picoformer.passes.pooling import POOLING
from picoformer.passes.rewrite import (
    Rule,
    fold_constants,
    merge_duplicates,
    order_operands,
    remove_dead,
    rewrite,
)
from picoformer.passes.rms_norm import RMS_NORM
from picoformer.passes.rope import ROPE
from picoformer.passes.roundings import ROUNDINGS
from picoformer.passes.simplify import ARITHMETIC, REST
from picoformer.passes.static_masks import STATIC_MASKS


@dataclass(frozen=True)
class Pass:
    """A step of `optimize`: its name, what it does, and why it comes here."""

    name: str
    run: Callable[[Graph], Graph]
    reason: str


def _rules(*groups: tuple[Rule, ...]) -> Callable[[Graph], Graph]:
    rules = [rule for group in groups for rule in group]
    return lambda graph: rewrite(graph, rules)


ORDER: tuple[Pass, ...] = (
    Pass("remove_dead", remove_dead, "what no output needs must not keep a fusion from seeing a single reader"),
    Pass("fold_constants", fold_constants, "weights behind a transpose or a product are only now constants"),
    Pass("arithmetic", _rules(ARITHMETIC), "every later pass then knows one spelling of each sum and product"),
    Pass("inner_grids", drop_inner_grids, "a norm that is spelled out is only seen without the grids of its steps"),
    Pass("roundings", _rules(ROUNDINGS), "an attention is only seen when no grid of the file stands inside it"),
    Pass("layout", _rules(LAYOUT), "a mean followed by a reshape becomes the mean that LayerNorm is recognised by"),
    Pass("merge_duplicates", merge_duplicates, "x − mean computed twice must be one value before norms are matched"),
    Pass("layer_norm", _rules(NORM, ARITHMETIC), "before biases are folded, which would take up the norm's own"),
    Pass("rms_norm", _rules(RMS_NORM, ARITHMETIC), "after LayerNorm, whose centred value has a mean square too"),
    Pass("activation", _rules(ACTIVATION), "before scales are folded: the ½ of a GELU belongs to it, not to a weight"),
    Pass(
        "linear",
        _rules(LINEAR, CONVOLUTION, LAYOUT),
        "attention looks for the Linears that make queries, keys and values",
    ),
    Pass("rope", _rules(ROPE, LAYOUT), "the moves around it then meet those that part the heads of an attention"),
    Pass("pooling", _rules(POOLING), "while the mask still stands beside the mean it belongs to"),
    Pass("unit_length", _rules(RMS_NORM, ARITHMETIC), "a masked mean is one value now, and may be brought to length 1"),
    Pass("static_masks", _rules(STATIC_MASKS), "attention knows full and causal masks; pieces of any other are such"),
    Pass("attention", _rules(ATTENTION), "before scales are folded: 1/√d is the attention's, wherever it is written"),
    Pass("unmerged_attention", _rules(UNMERGED_ATTENTION), "only what the pass before could not merge is left"),
    Pass("rest", _rules(REST), "norms, masks and shared heads have taken up what is theirs"),
    Pass("functions", _rules((stand_alone,)), "after every fusion; before scales, so that a sign goes into weights"),
    Pass(
        "scales",
        _rules(SCALES, ARITHMETIC, LINEAR, CONVOLUTION, LAYOUT),
        "what is still multiplied by a constant goes into weights",
    ),
    Pass("rows", _rules(LAYOUT, ROUNDINGS, (sink_reshape,)), "after attention: reshapes around it find their inverse"),
    Pass("merge_duplicates_again", merge_duplicates, "three slices of one packed Linear may have become equal"),
    Pass("order_operands", order_operands, "the residual stands first in both dialects"),
    Pass("fold_norm_gain", fold_norm_gain, "last: it changes the meaning of a value, so nothing may match it after"),
)
"""All of `optimize`."""


def optimize(graph: Graph) -> Graph:
    """The graph in the few operators that have an integer meaning; the outputs stay what they were.

    Raises UnsupportedError naming a node that remains spelled out (a product before others: the rest of an attention
    hangs on it), and what would mend it.
    """
    graph = rewritten(graph)
    refuse_left_over(graph)
    return graph


def refuse_left_over(graph: Graph) -> None:
    """Raise UnsupportedError for the first of `refusals`, if there are any."""
    for node, reason in refusals(graph):
        raise UnsupportedError(f"{graph.name}: node '{node.name}' ({node.op.kind}, output '{node.output}') {reason}")


def rewritten(graph: Graph) -> Graph:
    """The graph after all passes, whatever is left in it."""
    for step in ORDER:
        graph = verify(step.run(graph))
    return graph


def refusals(graph: Graph) -> list[tuple[Node, str]]:
    """What has no place in an optimized graph, products first, each with the reason and the mend."""
    nodes = sorted(graph.nodes, key=lambda n: not isinstance(n.op, MatMul))
    return [(node, reason) for node in nodes if (reason := unsupported_reason(graph, node)) is not None]


def unsupported_reason(graph: Graph, node: Node) -> str | None:
    """Why a node has no place in an optimized graph, and the mend; None when it has one."""
    if isinstance(node.op, MatMul):
        return _product_reason(graph, node)
    if isinstance(node.op, Conv):
        return "is a convolution whose weight is computed; make the weight a constant"
    if isinstance(node.op, Where):
        return (
            "chooses between two activations; only masks of attention and mean pooling that keep the first "
            "valid_length keys are covered"
        )
    if isinstance(node.op, (Unary, Binary)):
        return (
            f"computes '{node.op.function}' outside a LayerNorm, GELU, SiLU, softmax or mean that is recognised; "
            f"write it with the framework's own layer, or export with opset 20 so that the layer stays one node"
        )
    if graph.types[node.output].dtype is DType.INT32 and node.op.kind in ("Add", "Mul"):
        return "computes with integers; give the result as an input of its own"
    return None


def _product_reason(graph: Graph, node: Node) -> str:
    above = graph.producers.get(node.inputs[0])
    softmax = above if above is not None and isinstance(above.op, Softmax) else None
    for reader in graph.nodes:
        if isinstance(reader.op, Softmax) and node.output in ancestors(graph, reader.inputs[0], (Add, Mul, Where), 4):
            softmax = reader
    if softmax is not None:
        above = graph.producers.get(softmax.inputs[0])
        if above is not None and above.op.kind in ("Add", "Where"):
            return (
                "belongs to an attention with a mask that is neither causal nor 'the first valid_length keys'; export "
                "without it, or let the program add a valid length"
            )
        return (
            "belongs to an attention in a form that is not covered: queries, keys and values need the same batch and "
            "heads, and scores = q·kᵀ·scale"
        )
    return "multiplies two activations outside an attention; only products with constant weights are covered there"
