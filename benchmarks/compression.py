"""Distillation, pruning, factorization and quantization on two trained tasks, into compression.md and compression.json:

    python benchmarks/compression.py [FOLDER] [--tasks digits,language] [--processes 2]

Takes about half an hour on two cores. Models and figures are kept in FOLDER (build/compression); what is there is not
measured again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from compression_page import page
from compression_steps import Run, steps
from compression_tasks import TASKS

from picoformer.files import atomic_write_text

HERE = Path(__file__).parent


def measure(folder: Path, task_name: str, seed: int) -> dict[str, Any]:
    """Every step of one run; each step's figures are kept as soon as they are there."""
    task = TASKS[task_name]
    run = Run(task, seed, folder / task_name / str(seed))
    run.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, step in steps(task).items():
        kept = run.folder / f"{name}.json"
        if not kept.is_file():
            start = time.process_time()
            figures = step(run)
            atomic_write_text(kept, json.dumps(figures) + "\n")
            seconds = time.process_time() - start
            print(f"{task_name} {seed} {name}: {seconds:.0f} s of one core", file=sys.stderr, flush=True)
        found[name] = json.loads(kept.read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE.parent / "build/compression")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    chosen = [TASKS[name] for name in arguments.tasks.split(",")]
    results: dict[str, dict[int, Any]] = {task.name: {} for task in chosen}
    # The longest first, so that no core is left alone with one of them at the end.
    jobs = [(task.name, seed) for task in sorted(chosen, key=lambda task: len(task.runs)) for seed in task.runs]
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = {pool.submit(measure, arguments.folder, name, seed): (name, seed) for name, seed in jobs}
        for future in as_completed(futures):
            name, seed = futures[future]
            results[name][seed] = future.result()
    ordered = {task.name: [results[task.name][seed] for seed in task.runs] for task in chosen}
    if len(chosen) == len(TASKS):
        atomic_write_text(HERE / "compression.json", json.dumps(ordered, indent=1) + "\n")
        atomic_write_text(HERE / "compression.md", page(ordered))
    print(page(ordered))


if __name__ == "__main__":
    main()
