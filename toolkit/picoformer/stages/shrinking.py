"""The stages that make a checkpoint smaller, each from files to files: pruned, vocabulary, factorized."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings
from picoformer.datasets import Dataset, load_dataset
from picoformer.errors import ConfigError
from picoformer.stages.data import read_text
from picoformer.stages.training import Notify, Progress, finish, judge_model, recover, run_files


def prune_model(
    checkpoint: Path,
    data_path: Path,
    settings: PruneSettings,
    out: Path,
    recovery: DistillSettings | None = None,
    teacher_path: Path | None = None,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Prune, in rounds where the settings say so, then recover: from the teacher where there is one, else from the
    labels. Between rounds it recovers likewise, with the rates of `recovery`."""
    from picoformer.compress.prune import prune
    from picoformer.models.checkpoint import load_checkpoint

    data = load_dataset(data_path)
    model, _ = load_checkpoint(checkpoint)
    if settings.rounds > 1 and recovery is None:
        raise ConfigError(f"rounds = {settings.rounds} needs the section [recovery], which trains in between; add it")

    def recover_a_little(smaller: Any, _round: int) -> None:
        assert recovery is not None
        short = dataclasses.replace(recovery, epochs=settings.round_epochs)
        recover(smaller, data, short, teacher_path, augment, progress)

    smaller, report = prune(
        model,
        data.x_train,
        data.y_train,
        settings,
        board_limits(settings),
        recover_a_little,
        lambda found: float(judge_model(found, data)[_metric(data)]),
    )
    before_recovery = report.rounds[-1].metric
    files = run_files(out, notify)
    recover(smaller, data, recovery, teacher_path, augment, progress, files)
    more = {f"{_metric(data)}_before_recovery": before_recovery, "bytes_int8": report.bytes_after}
    return finish(smaller, data, out, files, **more, pruning=report.to_dict())


def _metric(data: Dataset) -> str:
    """The figure that a model for this data is judged by."""
    return "bits_per_character" if data.characters_per_label else "accuracy"


def board_limits(settings: PruneSettings) -> Any:
    """What the flash and RAM of `settings.board` leave for weights and activations; None without a board."""
    from picoformer.compress.budget import Limits
    from picoformer.targets import load_target

    if not settings.board:
        return None
    target = load_target(settings.board)
    if target.is_host:
        raise ConfigError(f"board = '{settings.board}' is this machine, which has no flash; name a board")
    flash, ram = target.region("code").length, target.region("data").length
    room = flash - settings.code_bytes
    if room <= 0:
        raise ConfigError(f"code_bytes = {settings.code_bytes:,}, but {target.name} has {flash:,} bytes of flash")
    return Limits(bytes=room, ram=ram - target.stack_bytes)


def prune_vocabulary_files(
    checkpoint: Path, tokenizer_file: Path, corpus: tuple[Path, ...], out: Path, tokenizer_out: Path, min_count: int = 1
) -> dict[str, Any]:
    """Keep the tokens that the texts `corpus` use, in a checkpoint and its tokenizer.json; returns sizes."""
    from picoformer.compress.vocabulary import prune_vocabulary
    from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
    from picoformer.models.tokenizer import load_tokenizer, save_tokenizer

    model, _ = load_checkpoint(checkpoint)
    texts = [read_text(path) for path in corpus]
    smaller = prune_vocabulary(model, load_tokenizer(tokenizer_file), texts, min_count)
    figures = smaller.report.to_dict()
    save_tokenizer(smaller.tokenizer, tokenizer_out)
    save_checkpoint(smaller.model, out, {"figures": figures})
    return figures


def factorize_model(
    checkpoint: Path,
    data_path: Path,
    settings: FactorizeSettings,
    out: Path,
    recovery: DistillSettings | None = None,
    teacher_path: Path | None = None,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Make matrices into pairs of lower rank, then recover as after pruning."""
    from picoformer.compress.factorize import factorize
    from picoformer.models.checkpoint import load_checkpoint

    data = load_dataset(data_path)
    model, _ = load_checkpoint(checkpoint)
    smaller, report = factorize(model, data.x_train, settings)
    before_recovery = judge_model(smaller, data)[_metric(data)]
    files = run_files(out, notify)
    recover(smaller, data, recovery, teacher_path, augment, progress, files)
    more = {f"{_metric(data)}_before_recovery": before_recovery, "factorization": report.to_dict()}
    return finish(smaller, data, out, files, **more)
