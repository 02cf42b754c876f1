"""What is measured in one run of one task: each function trains or changes a model and judges it on held-back data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from compression_tasks import AUGMENT, Task

from picoformer.compress.count import count_bytes, count_macs, count_parameters
from picoformer.compress.distill import distill
from picoformer.compress.factorize import factorize
from picoformer.compress.prune import prune
from picoformer.compress.qat import train_quantized
from picoformer.compress.settings import FactorizeSettings
from picoformer.compress.train import train
from picoformer.compress.training_state import RunFiles
from picoformer.compress.vocabulary import prune_vocabulary
from picoformer.datasets import Dataset, next_tokens, python_documentation, split_text
from picoformer.ir import DType, Graph
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.stages import judge_model
from picoformer.tokenizers.training import train_tokenizer

Result = dict[str, Any]
BATCH = 64


@dataclass(frozen=True)
class Run:
    """One fold or seed of a task, and the folder that its models lie in."""

    task: Task
    seed: int
    folder: Path

    def data(self) -> Dataset:
        return self.task.data(self.folder, self.seed)

    @property
    def augment(self) -> Any:
        return AUGMENT if self.task.augment else None

    def model(self, name: str) -> Transformer:
        return load_checkpoint(self.folder / f"{name}.safetensors")[0]

    def keep(self, name: str, model: Transformer, data: Dataset) -> Result:
        """Keep a model under a name; what it is and how good."""
        save_checkpoint(model, self.folder / f"{name}.safetensors")
        return {"parameters": count_parameters(model.config), "macs": count_macs(model.config),
                "bytes": count_bytes(model.config), **judge_model(model, data)}  # fmt: skip

    def seeded(self, settings: Any) -> Any:
        return dataclasses.replace(settings, seed=self.seed)

    def answers(self, teacher: str) -> RunFiles:
        """Where the answers of a teacher are kept, so that they are computed once for all who learn from it."""
        return RunFiles(teacher_outputs=self.folder / f"{teacher}-outputs")


def teacher(run: Run) -> Result:
    data, task = run.data(), run.task
    model = Transformer(task.teacher(data), seed=run.seed)
    train(model, data.x_train, data.y_train, run.seeded(task.teaching), run.augment)
    return run.keep("teacher", model, data)


def alone(run: Run) -> Result:
    data = run.data()
    model = Transformer(run.task.student(data), seed=run.seed)
    train(model, data.x_train, data.y_train, run.seeded(run.task.alone), run.augment)
    return run.keep("alone", model, data)


def distilled(run: Run, name: str, **keys: Any) -> Result:
    data = run.data()
    model = Transformer(run.task.student(data), seed=run.seed)
    settings = dataclasses.replace(run.seeded(run.task.distilling), **keys)
    files = run.answers("teacher")
    distill(run.model("teacher"), model, data.x_train, data.y_train, settings, run.augment, files=files)
    return run.keep(name, model, data)


def recovered(run: Run, name: str, model: Transformer) -> Result:
    """A compressed teacher as it is, and after recovery from the teacher as it was."""
    data = run.data()
    before = judge_model(model, data)[run.task.metric]
    settings, files = run.seeded(run.task.recovering), run.answers("teacher")
    distill(run.model("teacher"), model, data.x_train, data.y_train, settings, run.augment, files=files)
    return {**run.keep(name, model, data), "before": before}


def pruned(run: Run) -> Result:
    """Half of the heads and neurons of the teacher, or as many parameters, chosen in several ways."""
    data, whole = run.data(), run.model("teacher")
    half = dataclasses.replace(
        whole.config,
        heads=tuple(count // 2 for count in whole.config.heads),
        d_ff=tuple(count // 2 for count in whole.config.d_ff),
    )
    found = {}
    for name, settings in run.task.pruning.items():
        limit = count_parameters(half) if settings.budget else 0
        chosen = dataclasses.replace(settings, limit=limit, seed=run.seed)
        smaller, _ = prune(whole, data.x_train, data.y_train, chosen)
        found[name] = recovered(run, "pruned", smaller)
    # How much of a recovery is only more training.
    found["nothing pruned, trained as long"] = recovered(run, "trained_on", run.model("teacher"))
    return found


def factorized(run: Run) -> Result:
    """The teacher at several sizes, by plain SVD and by that of the inputs' second moment, without recovery."""
    data, whole = run.data(), run.model("teacher")
    found = {}
    sizes: list[dict[str, Any]] = [{"rank": rank} for rank in run.task.ranks]
    for keys in (*sizes, *({"keep": keep} for keep in run.task.keeps)):
        for method in ("plain", "activation"):
            smaller, report = factorize(whole, data.x_train, FactorizeSettings(method=method, samples=512, **keys))
            found[f"{next(iter(keys.values())):g} {method}"] = {
                "parameters": report.parameters_after,
                "before": judge_model(smaller, data)[run.task.metric],
            }
    keep = run.task.keeps[1]
    smaller, _ = factorize(whole, data.x_train, FactorizeSettings(keep=keep, samples=512))
    found[f"{keep:g} recovered"] = recovered(run, "factorized", smaller)
    return found


def import_graph(run: Run, name: str) -> Graph:
    """The float graph of a model, through ONNX, as a build makes it."""
    from picoformer.importing import import_model

    path = run.folder / f"{name}.onnx"
    export_onnx(run.model(name), path)
    return import_model(path, None, False)


def judge_graph(run: Run, graph: Graph, data: Dataset, execute: Callable[[dict[str, Any]], dict[str, Any]]) -> float:
    """The metric of a graph's outputs on the test part, real numbers or its integers."""
    from picoformer.samples import Labels, judge_outputs

    name = graph.outputs[0]
    x = data.x_test[:, None] if data.x_test.ndim < len(graph.types["x"].shape) + 1 else data.x_test
    x = x.astype(np.int32) if x.dtype.kind == "i" else x
    parts = [execute({"x": x[start : start + BATCH]})[name] for start in range(0, len(x), BATCH)]
    labels = Labels(data.y_test, data.characters_per_label)
    return float(judge_outputs(graph, np.concatenate(parts), labels).to_dict()[run.task.metric])


def quantized(run: Run) -> Result:
    """The distilled student in every scheme, on the integer reference, which the firmware equals."""
    data, graph = run.data(), import_graph(run, "distilled")
    rng = np.random.default_rng(run.seed)
    order = rng.permutation(len(data.x_train))
    x = data.x_train[:, None].astype(np.int32) if data.x_train.dtype.kind == "i" else data.x_train[:, None]
    calibration = {"x": x[np.sort(order[: run.task.calibration])]}
    found: Result = {"float32": judge_graph(run, graph, data, lambda values: run_float(graph, values))}

    def integers(typed: Graph) -> float:
        steps = lower_graph(typed)
        return judge_graph(run, typed, data, lambda values: run_integer(steps, values))

    def typed(scheme: str, **keys: Any) -> Graph:
        chosen = SCHEMES[scheme]
        settings = QuantizeSettings(weights=chosen.weights, activations=chosen.activations, **keys)
        return quantize(graph, calibration, run_float, settings)

    for scheme in SCHEMES:
        found[scheme] = integers(typed(scheme))
    plain = {"block": 0, "rounding": "nearest", "bias_correction": False}
    for scheme in ("int8", "int4x8"):
        found[f"{scheme} nearest"] = integers(typed(scheme, **plain))
    few = order[: run.task.qat_samples]
    for name, keys in (("int4x8", {}), ("int4x8 nearest", plain)):
        start = typed("int4x8", **keys)
        trained, report = train_quantized(
            graph, start, {"x": x[few]}, run.seeded(run.task.qat), data.y_train[few], None
        )
        found[f"{name} qat"] = integers(trained)
        found[f"{name} qat sqnr"] = [report.sqnr_db_before, report.sqnr_db_after]
    found["weights"] = {
        scheme: sum(g.types[n].bytes for n in g.constants)
        for scheme in SCHEMES
        for g in [typed(scheme, rounding="nearest", bias_correction=False)]
    }
    assert all(DType.INT4 in {t.dtype for t in typed(s, **plain).types.values()} for s in ("int4x8", "int4x16"))
    return found


def vocabulary(run: Run) -> Result:
    """A model of 4,096 byte-level BPE tokens, cut to the tokens of one tenth of the text."""
    train_text, test_text = split_text(python_documentation(), run.seed, 0.1)
    tokenizer = train_tokenizer("".join(train_text), "bpe", 4096)

    def ids(blocks: list[str]) -> list[Any]:
        return [np.array(tokenizer.encode(block).ids, np.int64) for block in blocks]

    train_ids, test_ids = ids(train_text), ids(test_text)
    characters = sum(map(len, test_text)) / sum(map(len, test_ids))
    data = next_tokens(train_ids, test_ids, 32, 4096, characters)
    model = Transformer(run.task.student(data), seed=run.seed)
    train(model, data.x_train, data.y_train, dataclasses.replace(run.seeded(run.task.alone), epochs=1))
    corpus = test_text
    smaller = prune_vocabulary(model, tokenizer, corpus)
    text = "".join(train_text)
    new = dataclasses.replace(
        data, classes=smaller.model.config.vocab_size,
        **{f"{a}_{p}": smaller.remap(getattr(data, f"{a}_{p}")) for a in "xy" for p in ("test",)},
        x_train=data.x_train[:1] * 0, y_train=data.y_train[:1] * 0,
    )  # fmt: skip
    return {
        **smaller.report.to_dict(),
        "round_trips": all(
            smaller.tokenizer.decode(smaller.tokenizer.encode(part).ids) == part
            for part in (text, *corpus, "naïve 日本 🙂")
        ),
        "before": judge_model(model, data)["bits_per_character"],
        "after": judge_model(smaller.model, new)["bits_per_character"],
    }


def steps(task: Task) -> dict[str, Callable[[Run], Result]]:
    """Every measurement of a task by name, in an order in which each finds the models it needs."""
    found: dict[str, Callable[[Run], Result]] = {
        "teacher": teacher,
        "alone": alone,
        "soft": lambda run: distilled(run, "soft", init_from_teacher=False),
        "distilled": lambda run: distilled(run, "distilled"),
        "pruned": pruned,
        "factorized": factorized,
        "quantized": quantized,
    }
    if task.name == "language":
        found["vocabulary"] = vocabulary
    return found
