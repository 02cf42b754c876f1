"""Mutated files are read or refused in one line; and the fuzzer sees each way of not doing so."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

import fuzz
import fuzz_files
from picoformer.errors import ConfigError, ModelError, PicoformerError
from picoformer.frontends.onnx import load_onnx
from picoformer.passes import optimize
from picoformer.targets import load_target


@pytest.mark.parametrize(("first", "count"), [(0, 100), pytest.param(100, 1000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused_in_one_line(first: int, count: int) -> None:
    report = fuzz.run(first, count, 120)
    assert report.findings == []
    assert report.done == count
    assert report.read > count / 20 and report.refused > count / 2


def _two_lines() -> None:
    raise ModelError("one\ntwo")


def _much() -> None:
    bytearray(fuzz.MEMORY_BYTES)


def _key() -> None:
    {}["x"]


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "two lines": (_two_lines, "2 lines"),
    "a traceback": (_key, "KeyError in test_fuzz.py"),
    "too slow": (lambda: time.sleep(3), "over 1 s"),
    "memory": (_much, "takes more memory than there is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, says = FAULTS[fault]
    monkeypatch.setattr(fuzz_files, "make", lambda *_: reader)
    monkeypatch.setattr(fuzz, "SECONDS_PER_CASE", 1)
    if fault == "memory":
        monkeypatch.setattr(fuzz, "MEMORY_BYTES", 1 << 62)
    assert says in fuzz.outcome(0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_written_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_files, "make", lambda *_: (tmp_path / "outside" / "written").touch)
    assert "files were written: [('outside/written', 0)]" in fuzz.outcome(0, tmp_path)


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    import random

    written = []
    for name in ("a", "b"):
        for case in range(30):
            folder = tmp_path / name / str(case)
            folder.mkdir(parents=True)
            fuzz_files.make(random.Random(case), folder)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file() and not path.is_symlink())
        written.append([(path.parent.name, path.name, path.read_bytes()) for path in files])
    assert written[0] == written[1]


def _model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], opset: int = 21) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value(name, 1, shape) for name, shape in inputs.items()], [value("y", 1, inputs["x"])]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def test_what_it_found_in_onnx_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def refused(model: onnx.ModelProto, says: str) -> None:
        path.write_bytes(model.SerializeToString())
        with pytest.raises(PicoformerError, match=says):
            optimize(load_onnx(path))

    plain = _model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)})
    huge = _model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, 1 << 40)
    refused(huge, "opset 1099511627776, in which Relu may differ")
    broken = onnx.numpy_helper.from_array(np.arange(3), "i")
    broken.dims[0] = 4
    plain.graph.initializer.append(broken)
    refused(plain, "holds a broken tensor 'i'")
    nodes = [onnx.helper.make_node("Attention", ["x", "k", "k"], ["y"])]
    refused(_model(nodes, {"x": (5, 2, 4, 8), "k": (1, 2, 4, 8)}, 23), "queries, keys and values need the same batch")


def test_what_it_found_in_targets(tmp_path: Path) -> None:
    text = (fuzz_files.ROOT / "targets" / "riscv32-virt.toml").read_text()
    for key in ("port", "exit"):
        (tmp_path / "board.toml").write_text(re.sub(f'^{key} = ".*"', f'{key} = "{"a" * 5000}"', text, flags=re.M))
        with pytest.raises(ConfigError, match=f"key '{key}'"):
            load_target(tmp_path / "board.toml")
    with pytest.raises(ConfigError, match="aaaa"):
        load_target("a" * 5000)
