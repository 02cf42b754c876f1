"""An encoder of real size, in the layout of all-MiniLM-L6-v2 with random weights, goes through in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytestmark = pytest.mark.slow

CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip
PARAMETERS = 22_500_000
MOST = {"onnx": 1200, "c-arrays": 1200}
"""MiB that a process may take at its peak, interpreter and libraries (150) included; the float weights are 86."""

RUN = """
import sys
from pathlib import Path
from picoformer import EncoderChoice
from picoformer.encoder.opening import opened
from picoformer.exported import Source
from picoformer.exporting import export_files
from picoformer.quantize import QuantizeSettings

folder, form, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
settings = QuantizeSettings(rounding="nearest", widen=0.0)
with opened(folder, EncoderChoice(32, "embedding", True)) as model:
    source = Source(model, folder / "calibration.npz", "int8", settings, {}, False, None)
    export_files(source, form, out)
status = Path("/proc/self/status").read_text()  # getrusage would give what the parent took before this program began
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def make_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {}

    def put(name: str, *shape: int) -> None:
        weights[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(384, np.float32), np.zeros(384, np.float32)

    for table, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        put(f"embeddings.{table}_embeddings.weight", rows, 384)
    norm("embeddings.LayerNorm")
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        square = [f"attention.self.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
        sizes = [*((name, 384, 384) for name in square), ("intermediate.dense", 1536, 384), ("output.dense", 384, 1536)]
        for name, outputs, inputs in sizes:
            put(f"{at}.{name}.weight", outputs, inputs)
            put(f"{at}.{name}.bias", outputs)
        norm(f"{at}.attention.output.LayerNorm")
        norm(f"{at}.output.LayerNorm")
    assert sum(value.size for value in weights.values()) > PARAMETERS
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, folder / "model.safetensors")
    lengths = rng.integers(4, 33, 8)
    np.savez(folder / "calibration.npz", input_ids=rng.integers(0, 30522, (8, 32)), valid_length=lengths)
    return folder


def test_peak_memory(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "minilm")
    for form, most in MOST.items():
        out = tmp_path / ("m.onnx" if form == "onnx" else form)
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(folder), form, str(out)],
            capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        peak = int(done.stdout.split()[-1])
        assert peak < most, f"{form}: {peak} MiB"
        written = sum(file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")))
        assert written > PARAMETERS
