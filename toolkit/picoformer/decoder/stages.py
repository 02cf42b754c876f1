"""A pipeline's stages behind the checkpoint of a language model: from files to a build, and to what it says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.datasets import Dataset, load_dataset
from picoformer.decoder.build import DecoderBuild, build_decoder, open_decoder
from picoformer.decoder.calibration import WINDOW
from picoformer.decoder.judging import foretold_nats, parting
from picoformer.decoder.opening import load_tokenizer
from picoformer.decoder.perplexity import device_nats
from picoformer.decoder.sessions import DeviceSession, context_of
from picoformer.decoder.verify import verify_decoder
from picoformer.decoder.writing import REFERENCE, Written, open_text, write_text
from picoformer.errors import ConfigError, DeviceError
from picoformer.files import atomic_write_text
from picoformer.generation import SamplerSettings, Stopping
from picoformer.generation.request import ENDS
from picoformer.models.importers import load_decoder
from picoformer.targets import Target
from picoformer.verification import Measured, flash_bytes, ram_bytes

if TYPE_CHECKING:
    from picoformer.compress.settings import QatSettings
    from picoformer.quantize import QuantizeSettings
    from picoformer.tokenizers import TextTokenizer

Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class TextBuild:
    """What is built: for which target, in which numbers, for how many tokens at a time, and how much constants may grow
    by for wider weights."""

    target: Target
    scheme: str
    context: int
    block: int
    wide_weights: float | None = None


@dataclass(frozen=True)
class TextJudging:
    """What a build is asked: texts to continue and how, and how many held-back windows each form is judged on (0: all)
    and compared step by step on."""

    prompts: tuple[str, ...]
    tokens: int
    sampler: SamplerSettings
    windows: int = 0
    device_windows: int = 1
    compared: int = 2
    least_sqnr_db: float = 10.0


def build_text(
    checkpoint: Path,
    data: Path,
    tokenizer: Path,
    wanted: TextBuild,
    folder: Path,
    samples: int,
    seed: int,
    settings: QuantizeSettings,
    training: QatSettings | None = None,
    name: str = "decoder",
    prefix: str = "model",
    toolchain: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build a checkpoint as a decoder, calibrated on `samples` windows of the training text (and, with `training`,
    trained on them); returns its figures."""
    model, found = load_decoder(checkpoint), load_dataset(data)
    load_tokenizer(tokenizer, model.config.vocab_size)
    settings = dataclasses.replace(settings, wide_weights=wanted.wide_weights)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(found.x_train))[:samples])
    build = build_decoder(
        model, wanted.target, folder, wanted.scheme, wanted.context, wanted.block, found.x_train[chosen], settings,
        tokenizer, prefix, name, toolchain,
        None if progress is None else lambda what, done, total: progress(what, done, total, 0.0),
        training=training,
    )  # fmt: skip
    return {"parameters": build.build.manifest.parameters, "macs": build.build.manifest.macs}


def held_back(data: Dataset, length: int, count: int) -> tuple[Any, Any]:
    """(tokens, the tokens one further) of `count` windows of `length` (0: all) evenly over the test text."""
    pieces = [
        np.concatenate([part[:, at : at + length] for at in range(0, part.shape[1] - length + 1, length)])
        for part in (data.x_test, data.y_test)
    ]
    chosen = np.linspace(0, len(pieces[0]) - 1, min(count or len(pieces[0]), len(pieces[0]))).astype(int)
    return pieces[0][chosen], pieces[1][chosen]


def verify_text(
    folder: Path, data: Path, judging: TextJudging, out: Path, emulator: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Compare every form of a build, judge them on held-back text, and let the target write; the record goes to `out`.

    Raises DeviceError where forms differ that have to be equal.
    """
    build, found = open_decoder(folder), load_dataset(data)
    context = build.record.context
    compared, _ = held_back(found, min(context, found.x_test.shape[1]), judging.compared)
    verification = verify_decoder(
        build, compared.tolist(), compared.shape[1] // 2, emulator=emulator, least_sqnr_db=judging.least_sqnr_db,
        progress=progress,
    )  # fmt: skip
    if not verification.report.passed:
        raise DeviceError(f"parity does not hold: {verification.report.failures[0]}")
    record = verification.to_json()
    record["text"] = {
        "context": context,
        "parameters": build.build.manifest.parameters,
        **_bits(build, found, judging, emulator, progress),
        **_texts(build, judging, emulator, progress),
    }
    atomic_write_text(out, json.dumps(record, indent=1) + "\n")
    return {"instructions": record["text"]["instructions_per_token"]}


def _bits(
    build: DecoderBuild, data: Dataset, judging: TextJudging, emulator: str, progress: Progress | None
) -> dict[str, Any]:
    """Bits a character of the float model and the reference on held-back text, and of the device and the reference on
    the windows of it that the device gets."""
    length = min(build.record.context, WINDOW, data.x_test.shape[1])
    windows, wanted = held_back(data, length, judging.windows)
    per_character = 1.0 / (math.log(2.0) * data.characters_per_label)

    def tick(what: str, total: int) -> Callable[[int], None]:
        return lambda done: progress(f"foretelling, {what}", done, total, 0.0) if progress else None

    graphs = {"float": build.build.float_graph}
    if build.build.manifest.scheme != "float32":
        graphs[REFERENCE] = build.build.graph
    nats = {name: foretold_nats(graph, windows, wanted, tick(name, len(windows))) for name, graph in graphs.items()}
    found: dict[str, Any] = {
        "judged_tokens": int(wanted.size),
        "judged_characters": float(wanted.size * data.characters_per_label),
        **{f"{name}_bits_per_character": float(value.mean() * per_character) for name, value in nats.items()},
    }
    few = min(judging.device_windows, len(windows))
    if few:
        own = nats.get(REFERENCE, nats["float"])[:few]
        with open_text(build, "", None, emulator) as (opened, _):
            session = DeviceSession(opened.device, build.build.graph)
            device = device_nats(session, build.build.graph, windows[:few], wanted[:few], tick("device", few))
        found |= {
            "device_tokens": int(wanted[:few].size),
            "device_bits_per_character": float(device.mean() * per_character),
            "device_expected_bits_per_character": float(own.mean() * per_character),
        }
    return found


def _texts(build: DecoderBuild, judging: TextJudging, emulator: str, progress: Progress | None) -> dict[str, Any]:
    """What the target writes behind each prompt. It has to be what the reference writes."""
    tokenizer = load_tokenizer(build.tokenizer, build.record.vocabulary)
    assert tokenizer is not None
    texts, counts, prompt_counts, stack = [], [], [], 0
    cost = None
    for index, prompt in enumerate(judging.prompts):
        if progress:
            progress("writing text", index, len(judging.prompts), 0.0)
        ids = tokenizer.encode(prompt)
        room = context_of(build.build.graph) - len(ids) + 1
        if room < 2:
            raise ConfigError(
                f"[generation] prompt {prompt!r} has {len(ids)} tokens, the context {build.record.context}; shorten it"
            )
        stopping = Stopping(judging.tokens, build.record.eos)
        written, expected = (
            _write(build, ids, judging.sampler, stopping, where, emulator, tokenizer) for where in ("", REFERENCE)
        )
        if written.generated.tokens != expected.generated.tokens:
            raise DeviceError(f"the text behind {prompt!r} is another on the device than on the reference")
        cost = written.cost
        counts += [] if cost.per_token is None else [cost.per_token]
        prompt_counts += [] if cost.prompt is None else [cost.prompt / len(ids)]
        stack = max(stack, cost.stack or 0)
        agreed = parting(build.build.float_graph, ids, written.generated.tokens) if judging.sampler.greedy else None
        texts.append(
            {
                "prompt": prompt,
                "text": written.generated.text.decode("utf-8", "replace"),
                "tokens": len(written.generated.tokens),
                "end": ENDS[written.generated.end],
                "as_float": None if agreed is None else agreed.tokens,
                "float_margin": None if agreed is None else agreed.margin,
            }
        )
    assert cost is not None
    target = build.build.target
    sizes = None if target.is_host else build.build.sizes(target)[0]
    ram = ram_bytes(build.build, target, sizes, Measured(None, cost.uncounted, stack, cost.emulator))
    return {
        "texts": texts,
        "instructions_per_token": float(np.mean(counts)) if counts else None,
        "instructions_per_prompt_token": float(np.mean(prompt_counts)) if prompt_counts else None,
        "ram_bytes": dict(vars(ram)),
        "flash_bytes": dict(vars(flash_bytes(sizes))),
    }


def _write(
    build: DecoderBuild,
    prompt: Sequence[int],
    sampler: SamplerSettings,
    stopping: Stopping,
    where: str,
    emulator: str,
    tokenizer: TextTokenizer,
) -> Written:
    stream = tokenizer.stream()
    for token in prompt:
        stream.feed_bytes(token)
    return write_text(build, prompt, sampler, stopping, where, emulator=emulator, bytes_of=stream.feed_bytes)
