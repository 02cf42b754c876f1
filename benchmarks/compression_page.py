"""The page of compression figures: means and spreads over runs, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from compression_tasks import TASKS, Task

Results = Sequence[dict[str, Any]]

PREFACE = """\
# What compression costs, on trained models

Made by `python benchmarks/compression.py`. Every figure is the mean over runs and, in brackets, its standard
deviation: five folds of scikit-learn's digits (one image of 360 is 0.28 points), three seeds of the documentation
that comes with Python (465,000 characters, a tenth held back; the seed chooses text, weights and batches). "Difference"
is taken within each run, so that folds and seeds that are easier for everyone cancel out. Quantized models are run on
the integer reference, which the firmware equals byte for byte.
"""


def page(results: dict[str, Results]) -> str:
    """The whole page."""
    return "\n".join([PREFACE, *(section(TASKS[name], runs) for name, runs in results.items())])


class Table:
    """Figures of one task's runs as text: in percent for accuracy, as they are for bits."""

    def __init__(self, task: Task, runs: Results) -> None:
        self.task, self.runs = task, runs
        self.scale, self.digits = (100.0, 2) if task.metric == "accuracy" else (1.0, 4)

    def values(self, *keys: str) -> Any:
        """A figure of every run, (runs,)."""
        found = []
        for run in self.runs:
            value: Any = run
            for key in keys:
                value = value[key]
            found.append(value)
        return np.array(found, np.float64) * self.scale

    def model(self, name: str) -> Any:
        """How good a model is in every run."""
        return self.values(name, self.task.metric)

    def size(self, name: str) -> int:
        """Its parameters; folds and seeds may differ by a few."""
        return round(float(np.mean([run[name]["parameters"] for run in self.runs])))

    def show(self, numbers: Any) -> str:
        """Mean and standard deviation."""
        return f"{numbers.mean():.{self.digits}f} ({self.spread(numbers):.{self.digits}f})"

    def difference(self, ours: Any, base: Any) -> str:
        """Mean and standard deviation of the difference within runs; for bits also relative."""
        change = ours - base
        relative = "" if self.task.metric == "accuracy" else f", {100 * (change / base).mean():+.2f} %"
        return f"{change.mean():+.{self.digits}f} ({self.spread(change):.{self.digits}f}){relative}"

    @staticmethod
    def spread(numbers: Any) -> float:
        """The standard deviation, of one run 0."""
        return float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0


def section(task: Task, runs: Results) -> str:
    """One task's tables."""
    table = Table(task, runs)
    parts = [distillation(table), pruning(table), factorization(table), quantization(table)]
    if "vocabulary" in runs[0]:
        parts.append(vocabulary(runs))
    return "\n".join([f"## {task.title}", "", *parts])


def rows(*cells: Sequence[str]) -> str:
    """A table: the first row of `cells` is its head."""
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]]) + "\n"


def distillation(table: Table) -> str:
    """Teacher, student alone, student distilled."""
    teacher, alone, soft, distilled = (table.model(name) for name in ("teacher", "alone", "soft", "distilled"))
    found = "### Distillation\n\n" + rows(
        ("model", "parameters", "result", "against alone"),
        ("teacher", f"{table.size('teacher'):,}", table.show(teacher), ""),
        ("student alone", f"{table.size('alone'):,}", table.show(alone), ""),
        ("from the teacher's outputs", f"{table.size('soft'):,}", table.show(soft), table.difference(soft, alone)),
        (
            "and from its weights",
            f"{table.size('distilled'):,}",
            table.show(distilled),
            table.difference(distilled, alone),
        ),
    )
    share = 100 * table.size("distilled") / table.size("teacher")
    found += f"\nThe student has {share:.1f} % of the teacher's parameters."
    if table.task.metric == "accuracy":
        return f"{found} It keeps {100 * (distilled / teacher).mean():.2f} % of its accuracy.\n"
    closed = 100 * (distilled - alone) / (teacher - alone)
    each = ", ".join(f"{part:.0f}" for part in closed)
    return f"{found} Distillation closes {closed.mean():.0f} % of the gap (by run: {each}).\n"


def pruning(table: Table) -> str:
    """Half of the teacher's heads and neurons gone, or as many parameters, chosen in several ways."""
    teacher = table.model("teacher")
    lines = [("chosen by", "parameters", "before recovery", "after recovery", "against the teacher")]
    for name in table.runs[0]["pruned"]:
        before, after = table.values("pruned", name, "before"), table.values("pruned", name, table.task.metric)
        size = round(float(np.mean([run["pruned"][name]["parameters"] for run in table.runs])))
        against = table.difference(after, teacher)
        lines.append((name, f"{size:,}", table.show(before), table.show(after), against))
    return "### Pruning: half of the heads and neurons of the teacher\n\n" + rows(*lines)


def factorization(table: Table) -> str:
    """Bytes against metric, by plain SVD and activation-aware."""
    lines = [("size", "parameters", "plain SVD", "activation-aware", "difference")]
    for keep in (*table.task.ranks, *table.task.keeps):
        plain, aware = (table.values("factorized", f"{keep:g} {way}", "before") for way in ("plain", "activation"))
        size = np.mean([run["factorized"][f"{keep:g} activation"]["parameters"] for run in table.runs])
        lines.append(
            (title(keep), f"{size:,.0f}", table.show(plain), table.show(aware), table.difference(aware, plain))
        )
    keep = table.task.keeps[1]
    recovered = table.values("factorized", f"{keep:g} recovered", table.task.metric)
    text = "### Low-rank factorization of the teacher, without recovery\n\n" + rows(*lines)
    against = table.difference(recovered, table.model("teacher"))
    return f"{text}\nActivation-aware at {keep:g}, recovered: {table.show(recovered)}, {against} against the teacher.\n"


def title(size: float) -> str:
    """What a size of a factorized model is: a rank, or a share of the parameters."""
    return f"rank {size:g}" if size >= 1 else f"{size:g} of the parameters"


def quantization(table: Table) -> str:
    """Every scheme on the integer reference, and what training on the grid brings back."""
    floats = table.values("quantized", "float32")
    lines = [("scheme", "bytes of constants", "result", "against float")]
    lines.append(("float32", f"{4 * table.size('distilled'):,}", table.show(floats), ""))
    names = (
        "int8",
        "int8 nearest",
        "int8x16",
        "int4x16",
        "int4x8",
        "int4x8 qat",
        "int4x8 nearest",
        "int4x8 nearest qat",
    )
    for name in names:
        found = table.values("quantized", name)
        size = np.mean([run["quantized"]["weights"][name.split()[0]] for run in table.runs])
        lines.append((name, f"{size:,.0f}", table.show(found), table.difference(found, floats)))
    weight = 1.0 - table.task.qat.soft_weight
    labels = f"labels counting {weight:g} beside the float model's outputs" if weight else "from the float model alone"
    return (
        "### Quantization of the distilled student\n\n"
        + rows(*lines)
        + '\n"nearest": one scale per channel, weights to the nearest step, no bias correction; else the defaults.\n'
        + f'"qat": trained on from there, on the grid it had, {labels}.\n'
    )


def vocabulary(runs: Results) -> str:
    """What goes with the tokens that nobody uses."""
    found = [run["vocabulary"] for run in runs]
    mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    less = 100 * (1 - mean["bytes_after"] / mean["bytes_before"])
    same = "yes" if all(one["round_trips"] for one in found) else "NO"
    return (
        "### Vocabulary\n\n"
        f"A student with {mean['tokens_before']:,.0f} byte-level BPE tokens, cut to those of the held-back tenth\n"
        f"of the text: {mean['tokens_after']:,.0f} tokens, {mean['bytes_before']:,.0f} → "
        f"{mean['bytes_after']:,.0f} bytes at int8 ({less:.0f} % less). Bits per character of "
        f"that text: {mean['before']:.4f} → {mean['after']:.4f}.\n"
        f"Every text comes back equal, foreign ones too: {same}.\n"
    )
