"""The commands that train and compress: data set, teacher, student, pruning, factorization, integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import (
    COUNT,
    FILE,
    FOLDER,
    compress_options,
    config_option,
    json_option,
    quantize_options,
    read_shapes,
)
from picoformer.cli_output import notice, progress, show, show_figures
from picoformer.errors import ConfigError


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write.")
@click.option("--seed", type=COUNT, default=0, show_default=True, help="Of the split.")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Held back for testing.",
)
@click.option("--tokenizer", default="character", show_default=True, help="Of a text: character, bpe, or a .json file.")
@click.option("--vocabulary", type=click.IntRange(1), default=512, show_default=True, help="Tokens of a bpe.")
@click.option("--sequence", type=click.IntRange(1), default=64, show_default=True, help="Tokens in a window of text.")
@json_option
def dataset(
    source: str,
    output: Path,
    seed: int,
    test_fraction: float,
    tokenizer: str,
    vocabulary: int,
    sequence: int,
    as_json: bool,
) -> None:
    """Write a data set as an .npz.

    SOURCE is digits (scikit-learn's), synthetic_signal, python_documentation (the reference topics that come with
    Python), a .txt, or an .npz with x_train, y_train, x_test, y_test, or with samples and labels as `capture` writes
    them. The tokenizer of a text is written beside it: data.tokenizer.json for data.npz.
    """
    from picoformer.stages import TextSettings, make_dataset

    figures = make_dataset(source, output, seed, test_fraction, TextSettings(tokenizer, vocabulary, sequence))
    show(figures, as_json, lambda: show_figures(figures))


def _section(pipeline_file: Path, key: str) -> Any:
    from picoformer.config import load_pipeline

    pipeline = load_pipeline(pipeline_file)
    for needed in ("data", key):
        if getattr(pipeline.file, needed) is None:
            raise ConfigError(f"{pipeline_file}: has no section [{needed}]; add it")
    return pipeline.file


@click.command()
@click.argument("data", type=FILE)
@config_option
@click.option("-o", "--output", type=FILE, required=True, help="The file to write.")
@json_option
def train(data: Path, config: Path, output: Path, as_json: bool) -> None:
    """Train the model of [teacher] from scratch.

    DATA is an .npz that `picoformer dataset` wrote. A run that was stopped goes on where its state was last saved. For
    several processes, put `torchrun --nproc-per-node 2 -m` in front.
    """
    from picoformer.stages import train_model

    file = _section(config, "teacher")
    with progress() as tick:
        figures = train_model(data, file.teacher, file.teaching, output, file.data.augment, tick, notice)
    show(figures, as_json, lambda: show_figures(figures))


@click.command()
@click.argument("teacher", type=FILE)
@click.argument("data", type=FILE)
@config_option
@click.option("-o", "--output", type=FILE, required=True, help="The file to write.")
@json_option
def distill(teacher: Path, data: Path, config: Path, output: Path, as_json: bool) -> None:
    """Distill TEACHER into the model of [student].

    TEACHER is a checkpoint (.safetensors) or an ONNX file, DATA an .npz that `picoformer dataset` wrote. What the
    teacher says is kept in teacher-outputs beside OUTPUT. A run that was stopped goes on where its state was last
    saved. For several processes, put `torchrun --nproc-per-node 2 -m` in front.
    """
    from picoformer.stages import distill_model

    file = _section(config, "student")
    with progress() as tick:
        figures = distill_model(teacher, data, file.student, file.distilling, output, file.data.augment, tick, notice)
    show(figures, as_json, lambda: show_figures(figures))


@click.command()
@compress_options
def prune(checkpoint: Path, data: Path, config: Path, teacher: Path | None, output: Path, as_json: bool) -> None:
    """Drop what matters least, then recover: heads, neurons, width.

    Settings come from [pruning] and [recovery]; CHECKPOINT is a .safetensors, DATA a data set.
    """
    from picoformer.config import load_pipeline
    from picoformer.reporting import print_pruning
    from picoformer.stages import prune_model

    file = _section(config, "pruning")
    settings = load_pipeline(config).pruning
    with progress() as tick:
        figures = prune_model(
            checkpoint, data, settings, output, file.recovering, teacher, file.data.augment, tick, notice
        )

    def table() -> None:
        show_figures(figures)
        print_pruning(figures)

    show(figures, as_json, table)


@click.command()
@click.argument("checkpoint", type=FILE)
@click.argument("tokenizer", type=FILE)
@click.argument("corpus", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The checkpoint to write.")
@click.option("--tokenizer-output", type=FILE, required=True, help="The tokenizer.json to write.")
@click.option(
    "--min-count", type=click.IntRange(1), default=1, show_default=True, help="Tokens that occur less often go too."
)
@json_option
def prune_vocabulary(
    checkpoint: Path,
    tokenizer: Path,
    corpus: tuple[Path, ...],
    output: Path,
    tokenizer_output: Path,
    min_count: int,
    as_json: bool,
) -> None:
    """Keep the tokens that a corpus uses.

    CHECKPOINT is a .safetensors, TOKENIZER its tokenizer.json, CORPUS one or more texts. A byte-level BPE keeps its
    bytes, so every text comes back as it was.
    """
    from picoformer.stages import prune_vocabulary_files

    figures = prune_vocabulary_files(checkpoint, tokenizer, corpus, output, tokenizer_output, min_count)
    show(figures, as_json, lambda: show_figures(figures))


@click.command()
@compress_options
def factorize(checkpoint: Path, data: Path, config: Path, teacher: Path | None, output: Path, as_json: bool) -> None:
    """Make matrices into pairs of lower rank, then recover.

    Settings come from [factorization] and [factorization_recovery]; CHECKPOINT is a .safetensors, DATA a data set.
    """
    from picoformer.reporting import print_factorization
    from picoformer.stages import factorize_model

    file = _section(config, "factorization")
    settings, recovery = file.factorization, file.factorization_recovering
    with progress() as tick:
        figures = factorize_model(
            checkpoint, data, settings, output, recovery, teacher, file.data.augment, tick, notice
        )

    def table() -> None:
        show_figures(figures)
        print_factorization(figures)

    show(figures, as_json, table)


@click.command()
@click.argument("model", type=FILE)
@quantize_options
@click.option("--data", type=FILE, help='.npz to train on, "labels" if they count; by default the calibration samples.')
@click.option("--epochs", type=click.IntRange(1), help="Times through the data.")
@click.option("--batch", type=click.IntRange(1), help="Samples in a step.")
@click.option("--learning-rate", type=float, help="How far, in steps of its grid, an update moves a weight.")
@click.option("--soft-weight", type=float, help="Of the float model's outputs; labels get what is left to 1.")
@click.option("--seed", type=COUNT, help="Of the order of the samples.")
@click.option("--valid-length", is_flag=True, help="Add an input for the number of rows that are not padding.")
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write; build takes it.")
@json_option
def finetune(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    settings: Any,
    data: Path | None,
    epochs: int | None,
    batch: int | None,
    learning_rate: float | None,
    soft_weight: float | None,
    seed: int | None,
    valid_length: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Quantize a model, then train its integers.

    MODEL is an ONNX file or a checkpoint (.safetensors); it is the teacher, so samples alone are enough. Use the result
    with build --quantized.
    """
    from picoformer.compress.settings import QatSettings
    from picoformer.finetuning import finetune_files

    if calibration is None:
        raise ConfigError("finetune needs --calibration: an .npz with samples of the model's inputs")
    wanted = {
        "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "soft_weight": soft_weight, "seed": seed,
    }  # fmt: skip
    training = QatSettings(**{key: value for key, value in wanted.items() if value is not None})  # type: ignore[arg-type]
    with progress() as tick:
        figures = finetune_files(
            model, calibration, data, scheme, output, training, settings, read_shapes(shapes), valid_length, tick
        )
    if not figures["improved"]:
        notice("trained integers were no better on their own samples: kept those from before; lower --learning-rate")

    def table() -> None:
        kept = {key: value for key, value in figures.items() if key not in ("losses", "changed", "improved")}
        show_figures(kept)
        click.echo(f"  {'integers changed':<26} {figures['changed']:.2%}")

    show(figures, as_json, table)


COMMANDS = (dataset, train, distill, prune, prune_vocabulary, factorize, finetune)
