"""The measured figures as Markdown: results.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from growth import AXES, BASE, FIGURES, SCHEME, slopes
from models import DESCRIPTIONS, REFERENCE, SHAPES

PEERS = [
    ("instructions, Cortex-M4F", "48,789,199 (6.59 /MAC)", ("int8", "cortex-m4"), "instructions"),
    (
        "instructions, Cortex-M55 (its best build, clang)",
        "18,689,017 (2.52 /MAC)",
        ("int8", "cortex-m55"),
        "instructions",
    ),
    ("RAM: arena, stack, data; Cortex-M4F", "70,572 B", ("int8", "cortex-m4"), "ram"),
    ("flash: model and code; Cortex-M4F", "246,808 B (code 91,768)", ("int8", "cortex-m4"), "flash"),
    ("logits against float", "32.2 dB", ("int8", "cortex-m4"), "sqnr"),
]
"""What TFLite Micro with CMSIS-NN takes for the reference encoder (with ReLU: it has no GELU), beside our line."""
PEER_SOURCE = "TFLite Micro + CMSIS-NN measured under QEMU 7.2, gcc 12.2, int8, counted in the same way"


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    return (
        "\n".join([*_head(results), *_peers(results), *_models(results), *_operators(results), *_growth(results)])
        + "\n"
    )


def _head(results: dict[str, Any]) -> Iterable[str]:
    yield from _HEAD.splitlines()
    yield "| board | compiler | flags | emulator |"
    yield "|---|---|---|---|"
    for name, tool in results["tools"].items():
        flags = " ".join(tool["flags"])
        yield f"| {name}: {tool['description']} | {tool['compiler']} | `{flags}` | {tool['emulator']} |"


_HEAD = """\
# Measured figures

Made by `make bench`. Instructions are executed instructions in the emulator, **not cycles**. Cycles are modelled: the
published timings of the core, least and most, applied to the instructions that were executed, for memory without wait
states (a board's flash has some); for cores without a figure none are published. RAM is arena + stack + data, flash is
model + code; the wire and the fault handling are counted beside the inference code. Every integer line was compared
with the integer reference: equal. Where a core has no line, the model is too large for its board.

"""


def _peers(results: dict[str, Any]) -> Iterable[str]:
    yield from ("", "## Beside the strongest peer", "", f"Reference encoder. Peer: {PEER_SOURCE}.", "")
    yield "| | peer | picoformer | |"
    yield "|---|---|---|---|"
    found = {(line["scheme"], line["cpu"]): line for line in results["lines"] if line["model"] == REFERENCE}
    for title, peer, key, figure in PEERS:
        if key not in found:
            continue
        line = found[key]
        first = float(peer.split()[0].replace(",", ""))
        if figure == "instructions":
            ours, text = (
                line["instructions"],
                f"{line['instructions']:,} ({line['instructions'] / line['macs']:.2f} /MAC)",
            )
        elif figure == "ram":
            ours, text = line["ram_bytes"]["total"], f"{line['ram_bytes']['total']:,} B"
        elif figure == "flash":
            ours = line["flash_bytes"]["total"]
            text = f"{ours:,} B (code {line['flash_bytes']['code']:,})"
        else:
            yield f"| {title} | {peer} | {line['sqnr_db']:.1f} dB | {line['sqnr_db'] - first:+.1f} dB |"
            continue
        yield f"| {title} | {peer} | {text} | {first / ours:.1f} times less |"


def _models(results: dict[str, Any]) -> Iterable[str]:
    for model in SHAPES:
        lines = [line for line in results["lines"] if line["model"] == model]
        if not lines:
            continue
        yield from ("", f"## {model[0].upper()}{model[1:]}", "")
        yield f"{DESCRIPTIONS.get(model, 'The reference encoder with ReLU')}; {lines[0]['macs']:,} MACs."
        yield ""
        yield "| core | scheme | instructions | /MAC | cycles, M | RAM, B | arena | stack | flash, B | code | SQNR |"
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for line in sorted(lines, key=lambda line: (line["cpu"], line["scheme"])):
            ram, flash, cycles = line["ram_bytes"], line["flash_bytes"], line["cycles"]
            modelled = "–" if cycles is None else f"{cycles['low'] / 1e6:.2f} – {cycles['high'] / 1e6:.2f}"
            quality = "" if line["sqnr_db"] is None else f"{line['sqnr_db']:.1f} dB"
            each = line["instructions"] / line["macs"]
            yield (
                f"| {line['cpu']} | {line['scheme']} | {line['instructions']:,} | {each:.2f} | "
                f"{modelled} | {ram['total']:,} | {ram['arena']:,} | {ram['stack']:,} | {flash['total']:,} | "
                f"{flash['code']:,} | {quality} |"
            )


def _operators(results: dict[str, Any]) -> Iterable[str]:
    lines = [line for line in results["lines"] if line["model"] == REFERENCE]
    operators = list(dict.fromkeys(op for line in lines for op in line["per_operator"]))
    yield from ("", "## Reference encoder by operator", "")
    yield "Instructions, and where there are products how many each takes; results.json has the other models too."
    yield ""
    yield f"| core, scheme | {' | '.join(operators)} |"
    yield f"|---|{'---|' * len(operators)}"
    for line in sorted(lines, key=lambda line: (line["cpu"], line["scheme"])):
        cells = []
        for op in operators:
            cost = line["per_operator"].get(op)
            share = f" ({cost['instructions'] / cost['macs']:.2f})" if cost and cost["macs"] else ""
            cells.append("–" if cost is None else f"{cost['instructions']:,}{share}")
        yield f"| {line['cpu']}, {line['scheme']} | {' | '.join(cells)} |"


def _growth(results: dict[str, Any]) -> Iterable[str]:
    if "growth" not in results:
        return
    base = ", ".join(f"{axis} {size}" for axis, size in BASE.items())
    yield from ("", "## Growth", "", "![How instructions and RAM grow](growth.svg)", "")
    yield f"An encoder of {base}, FFN four times the width, {SCHEME}, Cortex-M4; one of these changed at a time."
    yield "The exponents are those of the growth between the last two sizes: 1 is linear, 2 is quadratic."
    yield ""
    yield f"| | sizes | {' | '.join(FIGURES.values())} | exponents |"
    yield f"|---|---|{'---|' * len(FIGURES)}---|"
    for axis in AXES:
        points = results["growth"][axis]
        cells = [" ".join(f"{point[figure]:,}" for point in points) for figure in FIGURES]
        last = ", ".join(f"{slopes(points, figure)[-1]:.2f}" for figure in FIGURES)
        yield f"| {axis} | {' '.join(str(point['size']) for point in points)} | {' | '.join(cells)} | {last} |"
