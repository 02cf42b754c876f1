"""What would make a model fit a board: schemes and boards that were tried, not guessed."""

from __future__ import annotations

from collections.abc import Iterable

from picoformer.backends.c import Draft, Tile, draft_c
from picoformer.errors import PicoformerError
from picoformer.estimate.costs import cost_table
from picoformer.estimate.made_up import made_up_graph
from picoformer.estimate.need import needs
from picoformer.estimate.sizes import image_sizes
from picoformer.firmware import SizeReport
from picoformer.ir import Graph
from picoformer.quantize import SCHEMES
from picoformer.targets import Target, in_binary, list_targets, load_target

_MOST_BOARDS = 3
_TEXT_BYTES = 1200
"""RAM of firmware that writes text beside the estimate, a bit for each token of the vocabulary not counted: the wire's
buffers of text and the sampler's bins, at most 1,157 bytes as the linker found on a Cortex-M0."""
_BEAM_BYTES = 768
"""And for each of several beams: its tokens, candidates and finished text in PF_BEAM_SCRATCH, about 700."""
_SPARE = 0.05
"""Share of the context that is held back from what would fit: the linker may find more than the estimate."""


def mends(float_graph: Graph, scheme: str, target: Target, sizes: SizeReport) -> str:
    """One clause: what fits `target`, in tiles or in other schemes, and the boards that the model fits as it is."""
    schemes = [name for name in SCHEMES if name != scheme and _fits_in(float_graph, name, target)]
    tiled = _fits_in(float_graph, scheme, target, "least")
    known = (load_target(name) for name in list_targets())
    boards = [board_with_memory(board) for board in nearest(known, target) if _has_room(board, sizes)]
    ways = []
    if tiled:
        ways.append("--tile least fits")
    if schemes:
        ways.append(f"--scheme {' or '.join(schemes)} fits")
    if boards:
        ways.append(f"{', '.join(boards[:_MOST_BOARDS])} {'has' if len(boards) == 1 else 'have'} the room")
    ways.append("or make the model smaller (prune, factorize, fewer rows)")
    return ", ".join(ways)


def decoder_mends(draft: Draft, target: Target, sizes: SizeReport) -> str:
    """One clause for a language model: how much context would fit, and what makes the rest smaller."""
    ways = []
    ram = needs(draft, target, sizes)[-1]
    block = draft.block
    if block is not None and not ram.fits:
        each = draft.state_bytes // block.context
        seen = draft.graph.types[draft.graph.outputs[0]].shape[-1] // 8  # a bit for each token of the vocabulary
        room = ram.available - (ram.needed - draft.state_bytes) - _TEXT_BYTES - seen
        room -= _BEAM_BYTES * draft.slots if draft.slots > 1 else 0
        context = int(room // each * (1 - _SPARE))
        if context >= block.rows:
            ways.append(f"--context {context} should fit the RAM")
        if block.rows > 1:
            ways.append("--block 1 takes less RAM and reads prompts slower")
    ways.append("take --scheme int4x16, a model with fewer parameters, or a board with more memory")
    return "; ".join(ways)


def nearest(boards: Iterable[Target], target: Target | None = None) -> list[Target]:
    """Boards, the smallest first; before them those of the same port as `target`, whose builds are of the same kind."""

    def distance(board: Target) -> tuple[bool, int, int, str]:
        ram, flash = board.region("data").length, board.region("code").length
        return target is not None and board.port != target.port, ram, flash, board.name

    return sorted((board for board in boards if not board.is_host), key=distance)


def board_with_memory(board: Target) -> str:
    """`stm32f446-nucleo (128 KB RAM, 512 KB flash)`."""
    ram, flash = (in_binary(board.region(holds).length) for holds in ("data", "code"))
    return f"{board.name} ({ram} RAM, {flash} flash)"


def _fits_in(float_graph: Graph, scheme: str, target: Target, tile: Tile = "auto") -> bool:
    try:
        draft = draft_c(made_up_graph(float_graph, scheme), target.isa, tile=tile)
    except PicoformerError:
        return False
    return all(need.fits for need in needs(draft, target, image_sizes(draft, target, cost_table(target))))


def _has_room(board: Target, sizes: SizeReport) -> bool:
    """Whether a board has the memory that the same image needs on another."""
    stack = board.stack_bytes - sizes.ram.stack
    has_flash = sizes.flash.total <= board.region("code").length
    return has_flash and sizes.ram.total + stack <= board.region("data").length
