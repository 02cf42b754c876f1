"""The same model on a Raspberry Pi: bundles run by onnxruntime. Neither torch nor the compiler, numpy and little else.

    from picoformer.raspberry_pi import open_bundle, open_runner
    runner = open_runner(open_bundle("bundle"), threads=4)
    runner.classify("what a fine day").label
    runner.generate(runner.request(prompt="Once", seed=1), on_text=print)
    runner.answer({"text": "what a fine day"})      # JSON in, JSON out: what a server and a pipe need

A `Runner` may be used by several threads at once. What is wrong with an input is a DataError or a ConfigError that
names it, what is wrong with a bundle a ModelError.
"""

from picoformer.raspberry_pi.bundle import FORMAT, Bundle, open_bundle
from picoformer.raspberry_pi.manifest import TASKS, Manifest
from picoformer.raspberry_pi.runner import Classification, Embedded, Generation, Runner, open_runner

__all__ = [
    "FORMAT",
    "TASKS",
    "Bundle",
    "Classification",
    "Embedded",
    "Generation",
    "Manifest",
    "Runner",
    "open_bundle",
    "open_runner",
]
