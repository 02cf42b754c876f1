"""The command of encoder-decoders: translate sources, here or on a board."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import ANY, COUNT, FILE, emulator_option, json_option
from picoformer.cli_output import progress, show
from picoformer.cli_text import DECODER_SCHEME, DECODER_SCHEMES, token_ids


@click.command()
@click.argument("model", type=ANY)
@click.argument("texts", nargs=-1)
@click.option("--source-ids", metavar="5,17", help="Token ids to translate, in place of a text.")
@click.option("--pairs", type=FILE, help="Lines of source, tab, text: translate all and count those that are exact.")
@click.option("--tokens", type=click.IntRange(1, 65536), default=128, show_default=True, help="Most tokens to write.")
@click.option("--length-penalty", type=float, default=1.0, help="Of beam search: above 0 prefers longer texts.")
@click.option("--beams", type=click.IntRange(1, 64), default=1, show_default=True, help="Beams of a search; 1: greedy.")
@click.option("--source", type=COUNT, default=0, help="Tokens of a source at most; 0: all the model knows.")
@click.option("--context", type=COUNT, default=0, help="Tokens of a text at most; 0: all the model knows.")
@click.option("--tokenizer", type=ANY, help="tokenizer.json or a SentencePiece model.")
@click.option("--calibration", type=FILE, help="Lines of source, tab, text; without any the model writes its own.")
@click.option("--scheme", type=DECODER_SCHEMES, default=DECODER_SCHEME, show_default=True, help="The numbers.")
@click.option("--target", help="Where a build runs: its target, host, or reference (numpy); default: reference.")
@click.option("--port", help="Serial port of a board that runs this build.")
@emulator_option
@json_option
def translate(model: Path, texts: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Translate or rewrite texts with an encoder-decoder.

    Here or on a board. MODEL is a Hugging Face folder (BART, Marian, T5, mT5), that of one trained here, or the
    folder of a build.
    """
    from picoformer.encoder_decoder.translating import TranslateOptions, translate_files

    def emit(text: str) -> None:
        click.echo(text, nl=False)
        sys.stdout.flush()

    ids = token_ids("--source-ids", options["source_ids"])
    chosen = TranslateOptions(**{**options, "texts": texts, "source_ids": ids})
    with progress() as tick:
        record = translate_files(
            model, chosen, None if as_json else emit, lambda what, done, total: tick(what, done, total, 0.0)
        )

    def figures() -> None:
        if record["pairs"]:
            click.echo(f"{record['exact']} of {record['pairs']} exact, {record['exact_share']:.1%}")

    show(record, as_json, figures)


COMMANDS = (translate,)
