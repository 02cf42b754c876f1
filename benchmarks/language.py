"""How near a quantized language model stays to its float model, into language.md and language.json:

    picoformer run examples/tiny-gpt/pipeline.toml
    python benchmarks/language.py [FOLDER]

FOLDER is what that run left (examples/tiny-gpt/build). Bits per character of all held-back text, the greedy text behind
each prompt of the pipeline file and where it parts from the float model's, instructions, RAM, flash. Two minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.config import load_pipeline
from picoformer.decoder.build import open_decoder
from picoformer.decoder.stages import TextBuild, TextJudging, build_text, verify_text
from picoformer.files import atomic_write_text
from picoformer.generation import SamplerSettings
from picoformer.models.importers import load_decoder
from picoformer.ops import Embedding, Linear
from picoformer.stages import tokenizer_path
from picoformer.targets import load_target

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "tiny-gpt"
TOKENS = 128
"""Most that each greedy text goes on; the context has room for them behind the longest prompt."""


@dataclass(frozen=True)
class Row:
    """One build: its name, and what differs."""

    name: str
    target: str
    scheme: str
    context: int = 160
    block: int = 8
    wide_weights: float | None = None


ROWS = (
    Row("int8x16", "mps2-an500", "int8x16"),
    Row("int8x16, no weight of 16 bits", "mps2-an500", "int8x16", wide_weights=0.0),
    Row("int4x16", "mps2-an500", "int4x16"),
    Row("int4x16, no wider weight", "mps2-an500", "int4x16", wide_weights=0.0),
    Row("int8x16", "microbit", "int8x16", context=40, block=1),
    Row("int8x16, no weight of 16 bits", "microbit", "int8x16", context=40, block=1, wide_weights=0.0),
)


def measure(folder: Path) -> dict[str, Any]:
    """Every row's figures."""
    pipeline = load_pipeline(EXAMPLE / "pipeline.toml").file
    assert pipeline.generation is not None
    data, checkpoint = folder / "data.npz", folder / "student.safetensors"
    rows = []
    for row in ROWS:
        settings = pipeline.quantization.settings()
        wanted = TextBuild(load_target(row.target), row.scheme, row.context, row.block, row.wide_weights)
        judging = TextJudging(pipeline.generation.prompts, TOKENS, SamplerSettings(greedy=True), compared=1)
        with tempfile.TemporaryDirectory() as place:
            built, record = Path(place) / "firmware", Path(place) / "verify.json"
            build_text(
                checkpoint, data, tokenizer_path(data), wanted, built, pipeline.quantization.samples, pipeline.seed,
                settings, name="tiny-gpt",
            )  # fmt: skip
            verify_text(built, data, judging, record)
            verified = json.loads(record.read_text("utf-8"))
            types = weight_types(built)
        rows.append({**dataclasses.asdict(row), "weights": types, **verified["text"]})
        print(f"{row.target}, {row.name}: done", file=sys.stderr, flush=True)
    return {"parameters": sum(weight.size for weight in load_decoder(checkpoint).weights.values()), "rows": rows}


def weight_types(folder: Path) -> dict[str, list[str]]:
    """Type → the weights and tables that have it."""
    graph = open_decoder(folder).build.graph
    found: dict[str, list[str]] = {}
    for name in graph.constants:
        if any(isinstance(node.op, Linear | Embedding) and node.inputs[1] == name for node in graph.consumers[name]):
            found.setdefault(graph.types[name].dtype.value, []).append(name)
    return found


INTRODUCTION = """\
# A trained language model in integers

`python benchmarks/language.py` behind `picoformer run examples/tiny-gpt/pipeline.toml`: the student of that example, of
{parameters:,} parameters, against its own float model. Bits per character are of all held-back text in windows of at
most 128 tokens, on the reference; the device gets the first window alone, hence another figure. Instructions are of one
more token, counted in QEMU. RAM is arena, caches, data and stack.

| target | scheme | context | float | integers | | device | instructions/token | RAM | flash |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""

PARTING = """
## Greedy text against the float model's, up to {tokens} tokens

Tokens up to the first that the float model would not have taken there, and in brackets how far the float model's two
best logits lie apart at that place.

"""


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = found["rows"]
    text = INTRODUCTION.format(parameters=found["parameters"])
    for row in rows:
        base, bits = row["float_bits_per_character"], row["reference_bits_per_character"]
        cells = (
            row["target"],
            row["name"],
            row["context"],
            f"{base:.4f}",
            f"{bits:.4f}",
            f"{100 * (bits / base - 1):+.3f} %",
            f"{row['device_bits_per_character']:.4f}",
            f"{row['instructions_per_token']:,.0f}",
            f"{row['ram_bytes']['total']:,}",
            f"{row['flash_bytes']['total']:,}",
        )
        text += _line(cells)
    text += "\nWeights and tables by their type:\n\n"
    for row in rows:
        types = "; ".join(f"{key}: {_names(names)}" for key, names in sorted(row["weights"].items()))
        text += f"- {row['target']}, {row['name']}: {types}\n"
    text += PARTING.format(tokens=TOKENS)
    text += _line(("prompt", *(f"{row['target']}, {row['name']}" for row in rows)))
    text += "|---" + "|---:" * len(rows) + "|\n"
    for index, first in enumerate(rows[0]["texts"]):
        prompt = first["prompt"].replace("\n", "\\n")
        text += _line((f"`{prompt}`", *(_agreement(row["texts"][index]) for row in rows)))
    text += f"\n## What {rows[0]['target']} writes, {rows[0]['name']}\n"
    for each in rows[0]["texts"]:
        text += f"\n```\n{each['prompt']}|{each['text']}\n```\n"
    return text


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _names(names: list[str]) -> str:
    """All of a few names; the number of many."""
    return ", ".join(f"`{name.removesuffix('.weight')}`" for name in names) if len(names) <= 12 else str(len(names))


def _agreement(text: dict[str, Any]) -> str:
    if text["as_float"] == text["tokens"]:
        return f"all {text['tokens']}"
    return f"{text['as_float']} of {text['tokens']} ({text['float_margin']:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLE / "build")
    found = measure(parser.parse_args().folder)
    atomic_write_text(HERE / "language.json", json.dumps(found, indent=1) + "\n")
    atomic_write_text(HERE / "language.md", page(found))
    print(page(found))


if __name__ == "__main__":
    main()
