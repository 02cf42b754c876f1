"""The stages that make a checkpoint smaller, each from files to files: pruned, vocabulary, factorized."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings
from picoformer.datasets import Dataset, load_dataset
from picoformer.errors import ConfigError, DataError
from picoformer.stages.data import check_tokenizer, read_text
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
    labels. Between rounds it recovers likewise, with the rates of `recovery`. A model that fits already stays as it is.
    """
    from picoformer.compress.prune import prune

    model, data = _take(checkpoint, data_path, None if recovery is None else teacher_path)
    if settings.rounds > 1 and recovery is None:
        raise ConfigError(f"rounds = {settings.rounds} needs the section [recovery], which trains in between; add it")

    def recover_a_little(smaller: Any, _round: int) -> None:
        assert recovery is not None
        short = dataclasses.replace(recovery, epochs=settings.round_epochs)
        recover(smaller, data, short, teacher_path, augment, progress)

    limits = board_limits(settings)
    smaller, report = prune(
        model,
        data.x_train,
        data.y_train,
        settings,
        limits,
        recover_a_little,
        lambda found: float(judge_model(found, data)[_metric(data)]),
    )
    files = run_files(out, notify)
    more: dict[str, Any] = {f"{_metric(data)}_before_recovery": report.rounds[-1].metric}
    more["bytes_int8"] = report.bytes_after
    fits = settings.has_budget and smaller.config == model.config
    if fits:
        more["pruned"] = "fits already; nothing pruned"
    recover(smaller, data, None if fits else recovery, teacher_path, augment, progress, files)
    if limits is not None:
        more |= {"board": limits.board.describe(smaller.config), "board_bytes": limits.board.estimate(smaller.config)}
    return finish(smaller, data, out, files, **more, pruning=report.to_dict())


def _take(checkpoint: Path, data_path: Path, teacher_path: Path | None) -> tuple[Any, Dataset]:
    """The model of a checkpoint and data that it and the teacher of its recovery go with; where the data does not say
    of which tokenizer it is, it counts as the checkpoint's."""
    from picoformer.compress.teacher import check_takes, load_teacher
    from picoformer.models.checkpoint import load_checkpoint, trained_tokenizer

    data = load_dataset(data_path)
    model, extra = load_checkpoint(checkpoint)
    check_tokenizer(checkpoint, trained_tokenizer(extra), data)
    check_takes(str(checkpoint), model.config, data.x_train)
    data = dataclasses.replace(data, tokenizer=data.tokenizer or trained_tokenizer(extra))
    if teacher_path is not None:
        check_tokenizer(teacher_path, load_teacher(teacher_path).tokenizer, data)
    return model, data


def _metric(data: Dataset) -> str:
    """The figure that a model for this data is judged by."""
    return "bits_per_character" if data.characters_per_label else "accuracy"


def board_limits(settings: PruneSettings) -> Any:
    """The Limits that flash and RAM of `settings.board` leave for weights and activations; None without a board."""
    from picoformer.compress.budget import Board
    from picoformer.targets import load_target

    if not settings.board:
        return None
    target = load_target(settings.board)
    if target.is_host:
        raise ConfigError(f"board = '{settings.board}' is this machine, which has no flash; name a board")
    flash, ram = target.region("code").length, target.region("data").length
    return Board(target.name, flash, settings.code_bytes, ram, target.stack_bytes, settings.runtime_bytes).limits()


def prune_vocabulary_files(
    checkpoint: Path, tokenizer_file: Path, corpus: tuple[Path, ...], out: Path, tokenizer_out: Path, min_count: int = 1
) -> dict[str, Any]:
    """Keep the tokens that the texts `corpus` use, in a checkpoint and its tokenizer.json; returns sizes."""
    from picoformer.compress.vocabulary import prune_vocabulary
    from picoformer.models.checkpoint import load_checkpoint, save_checkpoint, trained_tokenizer
    from picoformer.tokenizers.training import hash_tokenizer, load_tokenizer, save_tokenizer

    model, extra = load_checkpoint(checkpoint)
    tokenizer, trained_on = load_tokenizer(tokenizer_file), trained_tokenizer(extra)
    if trained_on and trained_on != hash_tokenizer(tokenizer):
        raise DataError(
            f"{tokenizer_file}: not the tokenizer that {checkpoint} was trained with (SHA-256 {trained_on[:12]}…); "
            "give the one beside its data set"
        )
    smaller = prune_vocabulary(model, tokenizer, [read_text(path) for path in corpus], min_count)
    figures = smaller.report.to_dict()
    save_tokenizer(smaller.tokenizer, tokenizer_out)
    save_checkpoint(smaller.model, out, {"figures": figures, "tokenizer": hash_tokenizer(smaller.tokenizer)})
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

    model, data = _take(checkpoint, data_path, None if recovery is None else teacher_path)
    smaller, report = factorize(model, data.x_train, settings)
    before_recovery = judge_model(smaller, data)[_metric(data)]
    files = run_files(out, notify)
    recover(smaller, data, recovery, teacher_path, augment, progress, files)
    more = {f"{_metric(data)}_before_recovery": before_recovery, "factorization": report.to_dict()}
    return finish(smaller, data, out, files, **more)
