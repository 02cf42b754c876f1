"""Encoders of many shapes through the whole chain: equality is asked here, not quality, so random weights will do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import picoformer
from picoformer.build_folder import open_build
from picoformer.emulator.session import open_device
from picoformer.link.device import RefusedError
from picoformer.link.messages import Status
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.targets import load_target

Export = Callable[[dict[str, Any]], Path]

FRAMES: dict[str, Any] = {"input_size": 5, "sequence": 6}
TOKENS: dict[str, Any] = {"vocab_size": 23, "sequence": 7}
IMAGE: dict[str, Any] = {"image": (2, 6, 8), "patch": (3, 4)}

SHAPES: dict[str, dict[str, Any]] = {
    "pre-norm frames, gelu, learned, mean": {**FRAMES},
    "post-norm tokens, relu, sinusoidal, cls": {
        **TOKENS, "norm_position": "post", "final_norm": False, "activation": "relu", "positions": "sinusoidal",
        "pooling": "cls", "cls_token": True, "scale_embedding": True,
    },
    "pre-norm patches, silu, learned, cls": {**IMAGE, "activation": "silu", "pooling": "cls", "cls_token": True},
    "pre-norm tokens, tanh gelu, no positions, every row": {
        **TOKENS, "activation": "gelu_tanh", "positions": "none", "pooling": "none",
    },
    "causal tokens, shared key heads, every row": {
        **TOKENS, "activation": "gelu_tanh", "pooling": "none", "causal": True, "kv_heads": (1, 2), "classes": 23,
    },
    "one head, odd widths": {**FRAMES, "d_model": 10, "heads": (1, 1), "head_dim": 7, "d_ff": (9, 3)},
}  # fmt: skip


def make(shape: dict[str, Any]) -> Transformer:
    keys = {"d_model": 12, "heads": (3, 2), "head_dim": 4, "d_ff": (16, 10), "classes": 4, **shape}
    return Transformer(TransformerConfig.from_dict(keys), seed=3)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A shape's model as an ONNX file, exported once: that takes longer than the rest of its chain."""
    files: dict[str, Path] = {}

    def export(shape: dict[str, Any]) -> Path:
        if repr(shape) not in files:
            files[repr(shape)] = tmp_path_factory.mktemp("model") / "model.onnx"
            export_onnx(make(shape), files[repr(shape)])
        return files[repr(shape)]

    return export


def samples(shape: dict[str, Any], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if "vocab_size" in shape:
        return {"x": rng.integers(0, shape["vocab_size"], (count, shape["sequence"])).astype(np.int64)}
    inner = shape.get("image") or (shape["sequence"], shape["input_size"])
    return {"x": rng.normal(0, 1, (count, *inner)).astype(np.float32)}


SCHEMES = [(name, scheme) for scheme in ("int8", "float32") for name in SHAPES] + [
    ("post-norm tokens, relu, sinusoidal, cls", "int8x16"),
]


@pytest.mark.parametrize("name,scheme", SCHEMES)
def test_every_shape_holds_down_the_chain(
    name: str, scheme: str, tmp_path: Path, arm_tools: None, exported: Export
) -> None:
    shape = SHAPES[name]
    calibration = None if scheme == "float32" else samples(shape, 24)
    picoformer.build(exported(shape), calibration=calibration, scheme=scheme, target="mps2-an386", out=tmp_path / "out")
    found = picoformer.verify(tmp_path / "out", inputs=samples(shape, 6, seed=1))
    assert found.report.passed, found.report.failures
    assert [link.to for link in found.report.links][-1] == "mps2-an386"
    if scheme != "float32":
        equal = [link.equal for link in found.report.links if link.source in ("reference", "host")]
        assert equal == [True, True]
        assert found.report.links[-1].sqnr_db is not None and found.report.links[-1].sqnr_db > 20


@pytest.mark.parametrize("scheme,target", [("int4x8", "mps2-an386"), ("int4x16", "host")])
def test_int4_weights_hold_down_the_chain(
    scheme: str, target: str, tmp_path: Path, arm_tools: None, exported: Export
) -> None:
    """Rows longer than a block, of odd lengths, beside the int8 ones at both ends."""
    shape = {**FRAMES, "d_model": 36, "heads": (3,), "head_dim": 11, "d_ff": (65,)}
    out = tmp_path / "out"
    picoformer.build(exported(shape), calibration=samples(shape, 24), scheme=scheme, target=target, out=out)
    found = picoformer.verify(out, inputs=samples(shape, 3, seed=1))
    assert found.report.passed, found.report.failures
    links = {(link.source, link.to): link for link in found.report.links}
    assert links["reference", "host"].equal and (target == "host" or links["host", target].equal)
    end = found.report.links[-1]
    assert end.sqnr_db is not None and end.sqnr_db > 15
    code = (out / target / "source" / "model.c").read_text()
    assert code.count("pf_linear_s4_") == 6 and "block_multiplier = " in code
    assert ("pf_linear_s8_s" if scheme == "int4x8" else "pf_linear_s16_s") in code


@pytest.mark.parametrize("scheme", ["int8", "float32"])
def test_a_valid_length_masks_padding_on_the_device(
    scheme: str, tmp_path: Path, arm_tools: None, exported: Export
) -> None:
    """What lies past the valid length changes nothing, and a shorter input gives another answer than the full one."""
    shape = SHAPES["pre-norm frames, gelu, learned, mean"]
    calibration = samples(shape, 24) if scheme == "int8" else None
    out = tmp_path / "out"
    picoformer.build(
        exported(shape), calibration=calibration, scheme=scheme, target="mps2-an386", out=out, valid_length=True
    )
    x = np.repeat(samples(shape, 1, seed=2)["x"], 4, axis=0)
    x[1, 4:] = 7.5
    lengths = np.array([4, 4, 6, 0], np.int32)
    found = picoformer.verify(out, inputs={"x": x, "valid_length": lengths})
    assert found.report.passed, found.report.failures

    build, target = open_build(out), load_target("mps2-an386")
    with open_device(build.firmware(target), target) as session:
        from picoformer.verification import Runner

        runner = Runner(session, build.graph, len(build.steps(target)), target.name, None)
        y = runner({"x": x[:, None], "valid_length": lengths}).outputs["logits"]
    assert np.array_equal(y[0], y[1]) and not np.array_equal(y[0], y[2])


def test_an_id_outside_the_embedding_is_an_error_frame(tmp_path: Path, device_target: str, exported: Export) -> None:
    shape = SHAPES["pre-norm tokens, tanh gelu, no positions, every row"]
    picoformer.build(exported(shape), calibration=samples(shape, 8), target=device_target, out=tmp_path / "out")
    build, target = open_build(tmp_path / "out"), load_target(device_target)
    good = np.zeros(7, "<i4")
    with open_device(build.firmware(target), target) as session:
        for bad in (23, -1, 1 << 30):
            ids = good.copy()
            ids[5] = bad
            session.device.write_input(0, ids.tobytes())
            with pytest.raises(RefusedError) as refused:
                session.device.run(crc=True, outputs=True)
            assert refused.value.status == Status.STEP_FAILED
            with pytest.raises(RefusedError) as stale:
                session.device.read_output(0)
            assert stale.value.status == Status.STALE
        session.device.write_input(0, good.tobytes())
        assert session.device.run(outputs=True).outputs, "the device still answers"


def test_ids_outside_the_embedding_are_refused_before_anything_runs(tmp_path: Path, exported: Export) -> None:
    shape = SHAPES["pre-norm tokens, tanh gelu, no positions, every row"]
    for bad in (23, -1, (1 << 32) + 3):
        wrong = samples(shape, 8)
        wrong["x"][3, 2] = bad
        with pytest.raises(picoformer.PicoformerError, match=r"'x' holds .* the model takes 0 to 22"):
            picoformer.build(exported(shape), calibration=wrong, target="host", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_valid_length_past_the_input_is_refused(tmp_path: Path, exported: Export) -> None:
    shape = SHAPES["pre-norm frames, gelu, learned, mean"]
    picoformer.build(exported(shape), scheme="float32", target="host", out=tmp_path / "out", valid_length=True)
    wrong = {**samples(shape, 2), "valid_length": np.array([3, 7], np.int32)}
    with pytest.raises(picoformer.PicoformerError, match=r"'valid_length' holds 3 to 7; the model takes 0 to 6"):
        picoformer.verify(tmp_path / "out", inputs=wrong)


def test_weights_in_a_file_beside_the_model_come_along(tmp_path: Path, exported: Export) -> None:
    """As today's exporter writes by default: the build folder must not depend on where the model came from."""
    shape = SHAPES["pre-norm frames, gelu, learned, mean"]
    source = tmp_path / "source"
    source.mkdir()
    model = onnx.load(exported(shape))
    onnx.save(model, source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    picoformer.build(source / "m.onnx", calibration=samples(shape, 24), target="host", out=tmp_path / "out")
    (source / "m.data").unlink()
    assert picoformer.verify(tmp_path / "out", inputs=samples(shape, 4, seed=1)).report.passed


def test_a_model_that_calibration_destroyed_does_not_pass(tmp_path: Path) -> None:
    shape = SHAPES["pre-norm frames, gelu, learned, mean"]
    tiny = {"x": samples(shape, 24)["x"] * 0.01}
    picoformer.build(make(shape), calibration=tiny, target="host", out=tmp_path / "out")
    found = picoformer.verify(tmp_path / "out", inputs=samples(shape, 4, seed=1))
    assert not found.report.passed and "quantization lost the model" in found.report.failures[-1]
    assert picoformer.verify(tmp_path / "out", inputs=samples(shape, 4, seed=1), min_sqnr=-99).report.passed


def test_a_valid_length_is_compared_with_the_file_at_full_length(tmp_path: Path, exported: Export) -> None:
    shape = SHAPES["pre-norm frames, gelu, learned, mean"]
    picoformer.build(
        exported(shape), calibration=samples(shape, 24), target="host", out=tmp_path / "out", valid_length=True
    )
    found = picoformer.verify(tmp_path / "out", inputs={**samples(shape, 2), "valid_length": np.array([3, 6])})
    assert found.report.passed
    assert found.report.links[0].source == "float onnx, full length" and found.report.links[0].max_abs < 1e-5
