"""Refusing what cannot fit before it is quantized: by the least that any calibration data could make of it."""

from __future__ import annotations

from picoformer.backends.c import Tile, draft_c
from picoformer.errors import UnsupportedError
from picoformer.estimate.costs import cost_table
from picoformer.estimate.made_up import made_up_graph
from picoformer.estimate.mend import mends
from picoformer.estimate.need import Need, misfit, needs
from picoformer.estimate.sizes import image_sizes
from picoformer.estimate.tiles import is_price
from picoformer.ir import Graph
from picoformer.quantize import QuantizeSettings
from picoformer.targets import Target

SPARE = 0.05
"""The part of an image that calibration data might save: whoever is over by less is measured when it is quantized."""


def refuse_early(
    graph: Graph,
    target: Target,
    scheme: str,
    settings: QuantizeSettings | None = None,
    tile: Tile = "auto",
    toolchain: str = "auto",
) -> None:
    """Raise FitError when the float `graph`, quantized in `scheme`, is sure not to fit a board: as a build does that
    has quantized it, with the same words."""
    if target.is_host:
        return
    try:
        typed = made_up_graph(graph, scheme, least=True)
    except UnsupportedError:
        return  # the build says what it cannot do, and what would mend that
    draft = draft_c(typed, target.isa, tile="least" if is_price(tile) else tile)
    sizes = image_sizes(draft, target, cost_table(target, toolchain))
    has_budget = settings is not None and settings.budget is not None  # then weights are made to fit
    short = [one for one in needs(draft, target, sizes) if _is_sure(one) and not (has_budget and one.memory == "flash")]
    if short:
        raise misfit(target, short, mends(graph, scheme, target, sizes))


def _is_sure(need: Need) -> bool:
    return need.surely_too_large and need.needed * (1 - SPARE) > need.available
