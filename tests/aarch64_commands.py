"""Runs under the aarch64 Python: several commands in one process, since starting it takes the emulator seconds.

Standard input: a JSON list of commands, each a list of words. Standard output: a JSON object with what each left behind
and what was imported along the way."""

from __future__ import annotations

import json
import platform
import sys

from click.testing import CliRunner

from picoformer.cli import main


def run() -> None:
    answers = []
    for words in json.load(sys.stdin):
        result = CliRunner().invoke(main, words, prog_name="picoformer")
        answers.append({"code": result.exit_code, "out": result.stdout, "err": result.stderr})
    modules = sorted(name for name in sys.modules if name.split(".")[0] not in sys.stdlib_module_names)
    json.dump({"machine": platform.machine(), "answers": answers, "modules": modules}, sys.stdout)


run()
