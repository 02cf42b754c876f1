"""Bundles as `pi package` writes them, made once: the trained digits, a model of texts, a tiny language model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import text_models
from digits_student import trained
from picoformer.bundling.options import BundleOptions
from picoformer.bundling.write import package
from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

LENGTH, WIDTH, CLASSES = 24, 16, 3
LABELS = "calm,cross,gläd"
DIGITS = ",".join(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


@cache
def digits(place: Path, scheme: str) -> Path:
    """The trained student, with names for its classes."""
    student = trained()
    np.savez(place / "digits.npz", **student.calibration)
    out = place / f"digits-{scheme}"
    calibration = None if scheme == "float32" else place / "digits.npz"
    package(student.onnx, out, BundleOptions(scheme=scheme, classes=DIGITS, calibration=calibration))
    return out


@cache
def texts(place: Path, task: str) -> Path:
    """Token vectors, through tanh, their mean over the text: classified, or as they are."""
    random = np.random.default_rng(5)
    tokenizer = place / "texts-tokenizer.json"
    save_tokenizer(train_tokenizer(text_models.TEXT, "bpe", 300), tokenizer)
    weights = {"table": random.normal(size=(400, WIDTH)), "out": random.normal(size=(WIDTH, CLASSES))}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Tanh", ["rows"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "out"], ["logits"]),
    ]
    name, shape = ("logits", [1, CLASSES]) if task == "classify" else ("hidden", [1, LENGTH, WIDTH])
    graph = helper.make_graph(
        nodes, "texts", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, LENGTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()]
        + [numpy_helper.from_array(np.array([1]), "axes")],
    )  # fmt: skip
    model = place / f"texts-{task}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), model)
    out = place / f"texts-{task}"
    classes = LABELS if task == "classify" else None
    package(model, out, BundleOptions(task=task, tokenizer=tokenizer, classes=classes))
    return out


@cache
def language(place: Path, scheme: str = "float32") -> Path:
    """The tiny Llama with its tokenizer."""
    out = place / f"language-{scheme}"
    package(text_models.model_folder(place), out, BundleOptions(scheme=scheme, sampling={"tokens": 12}))
    return out
