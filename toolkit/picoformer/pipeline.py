"""The whole way of a model, stage by stage, each skipped when nothing it depends on has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer import stages
from picoformer.compilers import asked_toolchain, choose_compiler
from picoformer.compress.settings import QatSettings
from picoformer.config import Pipeline
from picoformer.emulator.choice import asked_emulator, choose_emulator
from picoformer.errors import ConfigError, DeviceError
from picoformer.files import atomic_write_bytes, atomic_write_text, several_processes
from picoformer.pipeline_stage import Announce, Stage, code_hash, key_of, known_figures, run_stage
from picoformer.targets import Target, load_target, stand_in

if TYPE_CHECKING:
    from picoformer.decoder.stages import TextBuild

HOST = "host"

Progress = Callable[[str, int, int, float], None]
TRAINING_ROOMS = (
    "models", "compress", "tokenizers", "datasets.py", "metrics.py", "stages", "config.py", "files.py",
)  # fmt: skip
FINETUNING_ROOMS = (
    "ir", "ops", "frontends", "passes", "quantize", "reference", "compress", "build_folder.py", "config.py", "files.py",
    "finetuning.py", "metrics.py", "quantization_report.py", "quantized_folder.py", "samples.py", "stages",
)  # fmt: skip
"""What these stages run of this package; `build` and what follows it depend on all of it."""


@dataclass(frozen=True)
class Tools:
    """Which toolchain and which emulator were asked for; "auto" takes what is there."""

    toolchain: str
    emulator: str


def run_pipeline(
    pipeline: Pipeline,
    progress: Progress | None = None,
    announce: Announce | None = None,
    force: bool = False,
    toolchain: str = "auto",
    emulator: str = "auto",
) -> Path:
    """Run every stage that is out of date; returns the output folder, report.json and report.html in it.

    `toolchain` (gcc, clang, zig) and `emulator` (qemu, unicorn) belong to what is out of date when they are named.
    """
    if several_processes():
        raise ConfigError("run takes one process; start its commands `train` and `distill` with torchrun")
    out = pipeline.output
    out.mkdir(parents=True, exist_ok=True)
    target = load_pipeline_target(pipeline, pipeline.target, "[firmware] target")
    builds: Mapping[str, TextBuild] = {}
    if pipeline.file.generation is not None:
        from picoformer.pipeline_text import text_builds

        builds = text_builds(pipeline)
    tools = Tools(asked_toolchain(toolchain), asked_emulator(emulator))
    figures: dict[str, dict[str, Any]] = {}
    is_ready = False
    notify = None if announce is None else lambda line: announce("training", line)
    for stage in _stages(pipeline, target, builds, figures, progress, notify, tools):
        record, key = out / "stages" / f"{stage.name}.json", key_of(stage)
        known = None if force else known_figures(record, key, stage)
        if known is None and not is_ready:
            boards = (target, *(build.target for build in builds.values()))
            for board in {board.name: board for board in boards}.values():
                _require_tools(board, tools)
            is_ready = True
        figures[stage.name] = run_stage(stage, record, key, announce) if known is None else known
        if known is not None and announce:
            announce(stage.name, "unchanged")
    return out


def load_pipeline_target(pipeline: Pipeline, target: str | Path, key: str) -> Target:
    """A target by its name or path; raises ConfigError naming the `key` of the pipeline file that says it."""
    try:
        return load_target(target)
    except ConfigError as error:
        raise ConfigError(f"{pipeline.path}: {key}: {error}") from None


def _require_tools(target: Target, tools: Tools) -> None:
    """Raise ToolError before any work is done when a program that a later stage needs is missing."""
    runs = stand_in(target)
    for built in (load_target(HOST), runs, *([] if target.is_library else [target])):
        choose_compiler(built, tools.toolchain)
    choose_emulator(runs, tools.emulator)


def _stages(
    pipeline: Pipeline,
    target: Target,
    builds: Mapping[str, TextBuild],
    figures: Mapping[str, dict[str, Any]],
    progress: Progress | None,
    notify: stages.Notify | None,
    tools: Tools,
) -> list[Stage]:
    """The stages in order. A stage's `run` may read the figures of those before it."""
    file, out = pipeline.file, pipeline.output
    training, everything = code_hash(TRAINING_ROOMS), code_hash(())
    model, calibration, inputs = out / "model.onnx", out / "calibration.npz", out / "test.npz"
    folder, verified = out / "firmware", out / "verify.json"
    found: list[Stage] = []
    checkpoint: Path | None = None
    if file.onnx is not None:
        from picoformer.frontends.onnx_load import external_files, self_contained

        given = file.onnx
        sources = tuple(pipeline.beside(p) for p in (given.path, given.calibration, given.inputs))

        def take() -> dict[str, Any]:
            for source, copy in zip(sources, (model, calibration, inputs), strict=True):
                if not source.is_file():
                    raise ConfigError(f"{pipeline.path}: [onnx] names {source}, which is not there")
                atomic_write_bytes(copy, self_contained(source) if copy == model else source.read_bytes())
            return {"bytes": model.stat().st_size}

        read = (*sources, *(external_files(sources[0]) if sources[0].is_file() else ()))
        found.append(Stage("onnx", take, read, (model, calibration, inputs), given.model_dump(), training))
    else:
        found, checkpoint = _training_stages(pipeline, training, progress, notify)
    if builds:
        from picoformer.pipeline_text import text_stages

        assert checkpoint is not None
        return [*found, *text_stages(pipeline, builds, figures, checkpoint, progress, tools, everything)]
    quantized: Path | None = None
    if file.finetuning is not None:
        quantized = out / "quantized"
        found.append(_finetuning_stage(pipeline, file.finetuning, model, calibration, quantized, progress))
    settings = [file.quantization.model_dump(), file.firmware.model_dump(), file.name, target.model_dump()]
    settings += [] if file.onnx is None else [file.onnx.shapes]
    settings += [] if tools.toolchain == "auto" else [tools.toolchain]
    build = Stage(
        "build",
        lambda: _build(pipeline, target, model, calibration, quantized, folder, progress, tools),
        (model, calibration) if quantized is None else (model, quantized),
        (folder,),
        settings,
        everything,
    )
    checked = (folder, inputs) if checkpoint is None else (folder, inputs, checkpoint)
    verify = Stage(
        "verify",
        lambda: _verify(pipeline, folder, inputs, checkpoint, verified, progress, tools),
        checked,
        (verified,),
        [file.verification.model_dump(), *([] if tools.emulator == "auto" else [tools.emulator])],
        everything,
    )
    report = Stage(
        "report",
        lambda: _report(figures, folder, verified, out),
        (verified, folder),
        (out / "report.json", out / "report.html"),
        figures,
        everything,
    )
    return [*found, build, verify, report]


def _training_stages(
    pipeline: Pipeline, code: str, progress: Progress | None, notify: stages.Notify | None
) -> tuple[list[Stage], Path]:
    """From data to ONNX, or to the checkpoint where text is to be written; also that checkpoint."""
    file, out = pipeline.file, pipeline.output
    assert file.data is not None and file.student is not None
    data, student_section, distilling = file.data, file.student, file.distilling
    samples, student = out / "data.npz", out / "student.safetensors"
    is_file = data.source.endswith((".npz", ".txt"))
    source = str(pipeline.beside(data.source)) if is_file else data.source
    own = data.tokenizer.endswith(".json")
    text = stages.TextSettings(
        str(pipeline.beside(data.tokenizer)) if own else data.tokenizer, data.vocabulary, data.sequence
    )
    read = (*((Path(source),) if is_file else ()), *((Path(text.tokenizer),) if own else ()))
    taught, teacher = _teacher_stage(pipeline, samples, code, progress, notify)
    found = [
        Stage(
            "data",
            lambda: stages.make_dataset(source, samples, file.seed, data.test_fraction, text),
            read,
            (samples, stages.tokenizer_path(samples)) if stages.is_text(source) else (samples,),
            [data.model_dump(), file.seed],
            code,
        ),
        taught,
        Stage(
            "student",
            lambda: stages.distill_model(
                teacher, samples, student_section, distilling, student, data.augment, progress, notify
            ),
            (samples, teacher),
            (student,),
            [student_section.model_dump(), distilling, data.augment],
            code,
        ),
    ]
    checkpoint = student
    if file.pruning is not None:
        pruned, pruning = out / "pruned.safetensors", pipeline.pruning
        recovering = file.recovering
        found.append(
            Stage(
                "pruned",
                lambda: stages.prune_model(
                    student, samples, pruning, pruned, recovering, teacher, data.augment, progress, notify
                ),
                (samples, teacher, student),
                (pruned,),
                [pruning, recovering, data.augment, load_target(pruning.board).model_dump() if pruning.board else None],
                code,
            )
        )
        checkpoint = pruned
    if file.factorization is not None:
        whole, factorized, factorization = checkpoint, out / "factorized.safetensors", file.factorization
        mending = file.factorization_recovering
        found.append(
            Stage(
                "factorized",
                lambda: stages.factorize_model(
                    whole, samples, factorization, factorized, mending, teacher, data.augment, progress, notify
                ),
                (samples, teacher, whole),
                (factorized,),
                [factorization, mending, data.augment],
                code,
            )
        )
        checkpoint = factorized
    if file.generation is not None:  # a decoder is made of the checkpoint itself
        return found, checkpoint
    model, calibration, inputs = out / "model.onnx", out / "calibration.npz", out / "test.npz"

    def export() -> dict[str, Any]:
        stages.write_samples(samples, calibration, inputs, file.quantization.samples, file.seed)
        return stages.export_checkpoint(checkpoint, model, file.export.opset)

    settings = [file.export.model_dump(), file.quantization.samples, file.seed]
    found.append(Stage("onnx", export, (checkpoint, samples), (model, calibration, inputs), settings, code))
    return found, checkpoint


def _teacher_stage(
    pipeline: Pipeline, samples: Path, code: str, progress: Progress | None, notify: stages.Notify | None
) -> tuple[Stage, Path]:
    """The teacher, trained or taken from where it is, and its file."""
    file = pipeline.file
    assert file.data is not None
    if file.teacher_file is not None:
        from picoformer.frontends.onnx_load import external_files

        given = pipeline.beside(file.teacher_file.path)
        if not given.is_file():
            raise ConfigError(f"{pipeline.path}: [teacher] names {given}, which is not there; mend path")
        teacher = pipeline.output / f"teacher{given.suffix}"
        read = (given, samples, *(external_files(given) if given.suffix == ".onnx" else ()))
        take = Stage("teacher", lambda: stages.take_teacher(given, samples, teacher), read, (teacher,), None, code)
        return take, teacher
    assert file.teacher is not None
    section, teaching, augment = file.teacher, file.teaching, file.data.augment
    teacher = pipeline.output / "teacher.safetensors"
    trained = Stage(
        "teacher",
        lambda: stages.train_model(samples, section, teaching, teacher, augment, progress, notify),
        (samples,),
        (teacher,),
        [section.model_dump(), teaching, augment],
        code,
    )
    return trained, teacher


def _finetuning_stage(
    pipeline: Pipeline,
    training: QatSettings,
    model: Path,
    calibration: Path,
    quantized: Path,
    progress: Progress | None,
) -> Stage:
    """From the ONNX file to its quantized graph, the integers trained on the data set or on samples of its own."""
    file, out = pipeline.file, pipeline.output
    samples, source = calibration, None
    if file.onnx is None:
        samples, source = out / "training.npz", out / "data.npz"
    elif file.onnx.training:
        samples = pipeline.beside(file.onnx.training)

    def finetune() -> dict[str, Any]:
        from picoformer.finetuning import finetune_files

        if source is not None:
            stages.write_training_samples(source, samples)
        wanted = file.quantization
        return finetune_files(
            model, calibration, samples, wanted.scheme, quantized, training, wanted.settings(), _shapes(pipeline),
            progress=progress,
        )  # fmt: skip

    return Stage(
        "finetuned",
        finetune,
        (model, calibration, source or samples),
        (quantized,) if source is None else (quantized, samples),
        [file.quantization.model_dump(), training, _shapes(pipeline)],
        code_hash(FINETUNING_ROOMS),
    )


def _shapes(pipeline: Pipeline) -> dict[str, tuple[int, ...]] | None:
    """The sizes that [onnx] gives dynamic axes."""
    onnx = pipeline.file.onnx
    return None if onnx is None else {name: tuple(sizes) for name, sizes in onnx.shapes.items()}


def _build(
    pipeline: Pipeline,
    target: Target,
    model: Path,
    calibration: Path,
    quantized: Path | None,
    folder: Path,
    progress: Progress | None,
    tools: Tools,
) -> dict[str, Any]:
    from picoformer.build_folder import build_files

    wanted, firmware = pipeline.file.quantization, pipeline.file.firmware
    build = build_files(
        model,
        calibration if quantized is None else None,
        wanted.scheme,
        target,
        folder,
        firmware.prefix,
        wanted.settings() if quantized is None else None,
        _shapes(pipeline),
        name=pipeline.file.name,
        quantized=quantized,
        tile=firmware.tile,
        toolchain=tools.toolchain,
        progress=None if progress is None else lambda what, done, total: progress(what, done, total, 0.0),
    )
    return {"parameters": build.manifest.parameters, "macs": build.manifest.macs}


def _verify(
    pipeline: Pipeline,
    folder: Path,
    inputs: Path,
    checkpoint: Path | None,
    out: Path,
    progress: Progress | None,
    tools: Tools,
) -> dict[str, Any]:
    from picoformer.verification import verify_files

    wanted = pipeline.file.verification
    found = verify_files(folder, inputs, None, checkpoint, wanted.samples, progress, wanted.min_sqnr_db, tools.emulator)
    if not found.report.passed:
        raise DeviceError(f"parity does not hold: {found.report.failures[0]}")
    atomic_write_text(out, json.dumps(found.to_json(), indent=1) + "\n")
    return {"accuracy": found.accuracy, "instructions": found.report.instructions_per_inference}


def _report(figures: Mapping[str, dict[str, Any]], folder: Path, verified: Path, out: Path) -> dict[str, Any]:
    from picoformer.reporting import write_reports

    write_reports(figures, folder, verified, out)
    return {}
