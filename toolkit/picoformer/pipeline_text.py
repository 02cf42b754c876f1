"""The stages of a pipeline that ends in a language model that writes: each build of it, what it says, one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picoformer.config import Pipeline
from picoformer.decoder.stages import TextBuild, TextJudging, build_text, verify_text
from picoformer.errors import ConfigError
from picoformer.pipeline import Progress, Tools, load_pipeline_target
from picoformer.pipeline_stage import Stage
from picoformer.stages import tokenizer_path


def text_builds(pipeline: Pipeline) -> dict[str, TextBuild]:
    """Every build by the name that its folder and its stages end in, the first one's empty; raises ConfigError."""
    file = pipeline.file
    generation, data = file.generation, file.data
    assert generation is not None and data is not None
    first = TextBuild(
        load_pipeline_target(pipeline, pipeline.target, "[firmware] target"),
        file.quantization.scheme,
        generation.context or data.sequence,
        min(generation.block, generation.context or data.sequence),
        file.quantization.wide_weights,
    )
    found = {"": first}
    for further in generation.also:
        target = first.target
        if further.target:
            target = load_pipeline_target(pipeline, pipeline.target_path(further.target), "[generation] also")
        context = further.context or first.context
        wide = first.wide_weights if further.wide_weights is None else further.wide_weights
        scheme, block = further.scheme or first.scheme, min(further.block or first.block, context)
        build = TextBuild(target, scheme, context, block, wide)
        name = f"-{build.scheme}-{target.name}" + (f"-{context}" if context != first.context else "")
        if build == first or name in found:
            raise ConfigError(f"{pipeline.path}: [generation] also names one build twice; remove it or change it")
        found[name] = build
    return found


def text_stages(
    pipeline: Pipeline,
    builds: Mapping[str, TextBuild],
    figures: Mapping[str, dict[str, Any]],
    checkpoint: Path,
    progress: Progress | None,
    tools: Tools,
    code: str,
) -> list[Stage]:
    """From the checkpoint to the report; `figures` are those of the stages before, as they come in."""
    file, out = pipeline.file, pipeline.output
    generation = file.generation
    assert generation is not None
    data = out / "data.npz"
    tokenizer = tokenizer_path(data)
    judging = TextJudging(
        generation.prompts, generation.tokens, generation.sampler(file.seed), generation.windows,
        generation.device_windows, file.verification.samples or 1, file.verification.min_sqnr_db,
    )  # fmt: skip
    found: list[Stage] = []
    for name, wanted in builds.items():
        found += _build_stages(pipeline, name, wanted, judging, checkpoint, data, tokenizer, progress, tools, code)
    folders = {name: (out / f"firmware{name}", out / f"verify{name}.json") for name in builds}

    def report() -> dict[str, Any]:
        from picoformer.reporting_text import write_text_reports

        write_text_reports(figures, list(folders.values()), out)
        return {}

    inputs = tuple(path for pair in folders.values() for path in pair)
    return [*found, Stage("report", report, inputs, (out / "report.json", out / "report.html"), figures, code)]


def _build_stages(
    pipeline: Pipeline,
    name: str,
    wanted: TextBuild,
    judging: TextJudging,
    checkpoint: Path,
    data: Path,
    tokenizer: Path,
    progress: Progress | None,
    tools: Tools,
    code: str,
) -> tuple[Stage, Stage]:
    """One build, and what it says."""
    file, out = pipeline.file, pipeline.output
    folder, verified = out / f"firmware{name}", out / f"verify{name}.json"
    training = file.finetuning if wanted.scheme.startswith("int4") else None

    def build() -> dict[str, Any]:
        return build_text(
            checkpoint, data, tokenizer, wanted, folder, file.quantization.samples, file.seed,
            file.quantization.settings(), training, file.name, file.firmware.prefix, tools.toolchain, progress,
        )  # fmt: skip

    chosen = [wanted.target.model_dump(), wanted.scheme, wanted.context, wanted.block, wanted.wide_weights]
    settings = [chosen, file.quantization.model_dump(), training, file.firmware.prefix, file.name, file.seed]
    settings += [] if tools.toolchain == "auto" else [tools.toolchain]
    asked = [judging, *([] if tools.emulator == "auto" else [tools.emulator])]
    return (
        Stage(f"build{name}", build, (checkpoint, data, tokenizer), (folder,), settings, code),
        Stage(
            f"verify{name}",
            lambda: verify_text(folder, data, judging, verified, tools.emulator, progress),
            (folder, data),
            (verified,),
            asked,
            code,
        ),
    )
