"""Bundles for a Raspberry Pi: what is packed, and that onnxruntime answers as the source model does."""

from __future__ import annotations

import json
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import pi_models
from command_line import CLASSES, Workshop, open_workshop, picoformer, refuses, samples, succeeds
from pi_models import Bundles, description, open_bundles, scores_of, vector_of
from picoformer.importing import import_model
from picoformer.models.checkpoint import save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer
from picoformer.raspberry_pi import open_bundle, open_runner
from picoformer.reference import run_float


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("pi_shop"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return open_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def frames(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of frames, in float."""
    out = tmp_path_factory.mktemp("frames") / "frames"
    record = succeeds("pi", "package", shop.model, "-o", out, "--task", "classify", "--json").record
    assert record["scheme"] == "float32" and record["answers_of"] == "picoformer's float graph"
    assert record["parity"]["passed"] and record["parity"]["worst"] < 1e-5
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


@pytest.mark.parametrize("text", ["what a very good day", "the movie was not good", "zebra", "bad " * 40])
def test_a_text_is_classified_as_the_formula_says(bundles: Bundles, text: str) -> None:
    bundle = bundles.text_classifier()
    record = succeeds("pi", "classify", bundle, "--text", text, "--top", "3", "--json").record
    (found,) = record["results"]
    wanted = softmax(scores_of(text))
    order = np.argsort(-wanted)
    assert [entry["label"] for entry in found["top"]] == [pi_models.CLASSES[i] for i in order]
    np.testing.assert_allclose([entry["probability"] for entry in found["top"]], wanted[order], atol=2e-6)
    assert found["label"] == found["top"][0]["label"] and "truncated" not in found
    table = succeeds("pi", "classify", bundle, "--text", text, "--top", "1").out
    assert f"{pi_models.CLASSES[order[0]]} {wanted[order[0]]:.4f}" in table


def test_a_text_too_long_is_cut_with_its_last_token_kept_and_somebody_is_told(bundles: Bundles, tmp_path: Path) -> None:
    model, out = pi_models.write_classifier(tmp_path / "short.onnx", (1, 8)), tmp_path / "short"
    succeeds("pi", "package", model, "-o", out, "--tokenizer", bundles.tokenizer(), "--task", "classify")
    assert description(out)["text"]["max_length"] == 8
    long, short = "good " * 9 + "bad", "good day"
    found = [succeeds("pi", "classify", out, "--text", text, "--json").record["results"][0] for text in (long, short)]
    assert found[0]["truncated"] and "truncated" not in found[1]
    for text, answer in zip((long, short), found, strict=True):  # the short one is filled up, and masked
        wanted = softmax(scores_of(text, 8))
        assert answer["index"] == int(wanted.argmax()) and abs(answer["probability"] - wanted.max()) < 2e-6
    assert "its end was not looked at" in picoformer("pi", "classify", out, "--text", long).err


def test_the_tokenizer_says_how_long_a_text_may_be(bundles: Bundles, tmp_path: Path) -> None:
    tokenizer = pi_models.write_tokenizer(tmp_path / "tokenizer.json", longest=11)
    model = pi_models.write_classifier(tmp_path / "m.onnx")
    succeeds("pi", "package", model, "-o", tmp_path / "out", "--tokenizer", tokenizer)
    assert description(tmp_path / "out")["text"] == {
        "ids": "input_ids", "mask": "attention_mask", "types": None, "length": None, "max_length": 11, "pad": 0
    }  # fmt: skip
    refuses(["pi", "package", model, "-o", tmp_path / "b", "--tokenizer", tokenizer, "--max-length", "2"], "no room")


def test_an_embedding_is_the_mean_of_the_tokens_rows(bundles: Bundles, tmp_path: Path) -> None:
    bundle, texts = bundles.embedder(), ("what a good day", "the movie was bad")
    assert description(bundle)["embed"] == {"output": "last_hidden_state", "pooling": "mean", "normalize": True}
    out = tmp_path / "vectors.npz"
    words = ["pi", "embed", bundle, *(word for text in texts for word in ("--text", text)), "--json"]
    record = succeeds(*words, "-o", out).record
    wanted = np.stack([vector_of(text) for text in texts])
    np.testing.assert_allclose([result["embedding"] for result in record["results"]], wanted, atol=1e-6)
    np.testing.assert_allclose(np.load(out)["embedding"], wanted, atol=1e-6)
    assert abs(record["cosine"] - float(wanted[0] @ wanted[1])) < 1e-6
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    assert succeeds("pi", "embed", bundle, "--inputs", tmp_path / "texts.txt", "--json").record == record


def test_padding_takes_no_part_in_a_mean_and_the_first_row_can_be_taken(bundles: Bundles, tmp_path: Path) -> None:
    """A model of one length and without a mask: the rows behind the text are left out all the same."""
    model = pi_models.write_embedder(tmp_path / "fixed.onnx", (1, 12), masked=False)
    words = ["pi", "package", model, "--tokenizer", bundles.tokenizer()]
    succeeds(*words, "-o", tmp_path / "mean")
    succeeds(*words, "-o", tmp_path / "first", "--pooling", "first", "--no-normalize")
    text = "a good movie"
    found = [
        open_runner(open_bundle(tmp_path / name)).embed(text).vector for name in ("mean", "first")
    ]  # fmt: skip
    np.testing.assert_allclose(found[0], vector_of(text), atol=1e-6)
    np.testing.assert_allclose(found[1], np.tanh(pi_models.weights().table[2]), atol=1e-6)


def test_run_gives_what_our_float_graph_gives(shop: Workshop, frames: Path, tmp_path: Path) -> None:
    graph = import_model(shop.model)
    x = samples(5, 3)
    wanted = run_float(graph, {"x": x[:, None]})[graph.outputs[0]]
    np.savez(tmp_path / "x.npz", x=x)
    np.savetxt(tmp_path / "x.csv", x.reshape(5, -1), delimiter=",", header="a,row,of,names", comments="")
    name = graph.outputs[0]
    for file in ("x.npz", "x.csv"):
        out = tmp_path / "y.npz"
        record = succeeds("pi", "run", frames, "--inputs", tmp_path / file, "-o", out, "--json").record
        found = np.load(out)[name]
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
        np.testing.assert_array_equal(np.array([row[name] for row in record["results"]], np.float32), found)


@pytest.mark.parametrize(("scheme", "own"), [("int8", "int8"), ("int4", "int4x8")])
def test_integers_classify_as_our_integers_do(shop: Workshop, scheme: str, own: str, tmp_path: Path) -> None:
    from picoformer.build_folder import quantize_samples
    from picoformer.reference import lower_graph, run_integer

    out = tmp_path / "bundle"
    record = succeeds(
        "pi", "package", shop.model, "-o", out, "--scheme", scheme, "--calibration", shop.calibration, "--classes",
        "left,right,up", "--json",
    ).record  # fmt: skip
    assert record["answers_of"] == "picoformer's integers" and record["parity"]["labels_equal"] == 4
    _, typed, _ = quantize_samples(shop.model, shop.calibration, own)
    x = samples(40, 9)
    integers = run_integer(lower_graph(typed), {"x": x[:, None]})[typed.outputs[0]].reshape(40, -1)
    runner = open_runner(open_bundle(out))
    scores = np.stack([runner.run({"x": row})[typed.outputs[0]].reshape(-1) for row in x])
    clear = (
        np.ptp(np.sort(integers, axis=1)[:, -2:], axis=1) > 40
    )  # steps of 16 bits, above what the runtime's float is off
    assert clear.sum() > 25 and (scores.argmax(1) == integers.argmax(1))[clear].all()
    if scheme == "int8":  # signed activations, in pairs: the form that Arm's kernels take
        import onnx

        model = onnx.load(out / "model.onnx")
        kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("zero_point")}
        assert onnx.TensorProto.UINT8 not in kinds and any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    accuracy = succeeds("pi", "classify", out, "--inputs", shop.inputs, "--json").record
    labels = np.arange(6) % CLASSES
    right = [entry["index"] == label for entry, label in zip(accuracy["results"], labels, strict=True)]
    assert accuracy["accuracy"] == sum(right) / 6 and accuracy["results"][0]["label"] in ("left", "right", "up")


@pytest.mark.parametrize(("scheme", "rule", "bits"), [("int8", "labels", 8), ("int4", "close", 4)])
def test_without_samples_the_weights_alone_are_rounded(
    shop: Workshop, scheme: str, rule: str, bits: int, tmp_path: Path
) -> None:
    """Activations stay float: answers are near those of the float model, and not the same."""
    out = tmp_path / "bundle"
    record = succeeds("pi", "package", shop.model, "-o", out, "--scheme", scheme, "--classes", "a,b,c", "--json").record
    assert record["parity"]["rule"] == rule and record["answers_of"] == "picoformer's float graph with these weights"
    import onnx

    file = onnx.load(out / "model.onnx")
    assert not any(node.op_type == "QuantizeLinear" for node in file.graph.node)
    assert any(node.op_type == ("MatMulNBits" if bits == 4 else "DequantizeLinear") for node in file.graph.node)
    x, runner, graph = samples(20, 4), open_runner(open_bundle(out), 1), import_model(shop.model)
    floats = run_float(graph, {"x": x[:, None]})[graph.outputs[0]].reshape(20, -1)
    found = np.stack([runner.run({"x": row})[graph.outputs[0]].reshape(-1) for row in x])
    error = np.abs(found - floats).max() / np.abs(floats).max()
    assert 1e-4 < error < (0.05 if bits == 8 else 0.4)


def test_a_file_that_comes_quantized_is_packed_as_it_came(shop: Workshop, tmp_path: Path) -> None:
    file = tmp_path / "came.onnx"
    words = ["--calibration", shop.calibration, "--scheme", "int8", "--unsigned-activations", "-o", file]
    succeeds("export", shop.model, *words)
    record = succeeds("pi", "package", file, "-o", tmp_path / "out", "--classes", "a,b,c", "--json").record
    assert record["scheme"] == "as it came" and record["parity"]["rule"] == "labels"
    assert record["answers_of"] == "the file under onnxruntime, nothing optimized"
    assert (tmp_path / "out" / "model.onnx").read_bytes() == file.read_bytes()


def test_folders_of_build_and_quantize_are_packed_as_they_are(shop: Workshop, tmp_path: Path) -> None:
    succeeds("quantize", shop.model, "--calibration", shop.calibration, "-o", tmp_path / "q", "--scheme", "int8x16")
    for folder, scheme in ((shop.build("host"), "int8"), (tmp_path / "q", "int8x16")):
        out = tmp_path / f"bundle-{scheme}"
        record = succeeds("pi", "package", folder, "-o", out, "--json").record
        assert record["scheme"] == scheme and record["parity"]["passed"]
        assert description(out)["provenance"]["source"] == folder.name
        refuses(["pi", "package", folder, "-o", out, "--scheme", "int4"], "was made with", scheme)
        refuses(["pi", "package", folder, "-o", out, "--calibration", shop.calibration], "has its numbers already")
    record = succeeds("pi", "package", shop.build("host"), "-o", tmp_path / "f", "--scheme", "float32", "--json").record
    assert record["answers_of"] == "picoformer's float graph"


def test_a_checkpoint_of_tokens_says_how_many_there_are(bundles: Bundles, tmp_path: Path) -> None:
    """Padding is masked: the answer to a short text is torch's to the text alone."""
    config = TransformerConfig.uniform(1, 2, 24, 16, vocab_size=len(pi_models.TOKENS), classes=3, sequence=10)
    model = Transformer(config, seed=2).eval()
    with torch.no_grad():
        model.embedding.token.weight.mul_(30)
    save_checkpoint(model, tmp_path / "m.safetensors")
    out = tmp_path / "out"
    succeeds("pi", "package", tmp_path / "m.safetensors", "-o", out, "--tokenizer", bundles.tokenizer())
    assert description(out)["text"]["length"] == "valid_length" and description(out)["task"] == "classify"
    for text in ("good day", "the movie was very bad"):
        with torch.no_grad():
            wanted = model(torch.tensor([pi_models.ids_of(text)])).softmax(-1)[0].numpy()
        (found,) = succeeds("pi", "classify", out, "--text", text, "--json").record["results"]
        assert found["index"] == int(wanted.argmax()) and abs(found["probability"] - wanted.max()) < 1e-4


def test_check_says_within_what_and_refuses_a_model_that_says_something_else(
    bundles: Bundles, frames: Path, tmp_path: Path
) -> None:
    record = succeeds("pi", "check", bundles.text_classifier(), "--json").record
    assert record["passed"] and record["rule"] == "close" and record["worst"] <= record["bound"] == 1e-4
    assert record["text_equal"] is True and record["samples"] == 4
    other = open_runner(open_bundle(frames))
    arrays = dict(np.load(frames / "parity.npz"))
    name = next(key for key in arrays if "/output/" in key)
    arrays[name] = arrays[name] + 2e-4 * np.abs(arrays[name]).max()
    from picoformer.raspberry_pi.checking import check

    assert check(other).is_passed
    place = tmp_path / "bundle"
    _copy(frames, place)
    np.savez(place / "parity.npz", **arrays)
    _describe_again(place)
    refuses(["pi", "check", place], "NOT equal", "bound 0.0001")


def test_a_tokenizer_that_gives_other_tokens_is_seen(bundles: Bundles, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    _copy(bundles.text_classifier(), place)
    text = (place / "tokenizer.json").read_text()
    (place / "tokenizer.json").write_text(text.replace('"what"', '"whet"').replace('"Once"', '"once"'))
    parsed = description(place)
    parsed["parity"]["texts"] = ["what a day"] * 4
    (place / "bundle.json").write_text(json.dumps(parsed))
    _describe_again(place)
    refuses(["pi", "check", place], "NOT equal", "tokens of the texts OTHERS")


def test_the_archive_holds_the_bundle_and_nothing_of_this_machine(bundles: Bundles, tmp_path: Path) -> None:
    model = pi_models.write_classifier(tmp_path / "m.onnx")
    words = ["pi", "package", model, "--tokenizer", bundles.tokenizer(), "--archive", "--json", "-o"]
    archives = []
    for name in ("one", "two"):
        record = succeeds(*words, tmp_path / name / "bundle").record
        archives.append(Path(record["archive"]).read_bytes())
    assert archives[0] == archives[1] and str(tmp_path).encode() not in archives[0]
    with tarfile.open(tmp_path / "one" / "bundle.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert succeeds("pi", "check", tmp_path / "unpacked" / "bundle").out.startswith("  equal: ")
    refuses(["pi", "check", tmp_path / "one" / "bundle.tar.gz"], "tar -xzf bundle.tar.gz")


def test_a_runner_serves_several_threads(bundles: Bundles) -> None:
    runner = open_runner(open_bundle(bundles.text_classifier()), threads=1)
    texts = [" ".join(np.random.default_rng(seed).choice(pi_models.WORDS, 7)) for seed in range(24)]
    alone = [runner.classify(text).to_json() for text in texts]
    found: dict[int, list[dict]] = {}

    def work(at: int) -> None:
        found[at] = [runner.classify(text).to_json() for text in texts]

    workers = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all(found[at] == alone for at in range(4))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--classes", "a,b"], "2 names, and the model has 3 classes"),
        (["--classes", "nothing.txt"], "no such file"),
        (["--task", "generate"], "is no language model"),
        (["--output-name", "other", "--task", "embed"], "the model has logits"),
        (["--sampling", "temperature=0.5"], "writes no text"),
        (["--max-length", "5"], "says nothing without a tokenizer"),
        (["--scheme", "float32", "--calibration", "x.npz"], "says nothing about --scheme float32"),
        (["--context", "8"], "--context says nothing"),
    ],
)
def test_options_that_do_not_go_with_a_model_are_named(
    shop: Workshop, more: list[str], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refuses(["pi", "package", shop.model, "-o", out, *more], *([said] if "logits" not in said else ["--output-name"]))
    assert list(tmp_path.iterdir()) == []


def test_folders_with_other_files_are_left_alone(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    refuses(["pi", "package", shop.model, "-o", tmp_path / "mine"], "holds other files")
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear"


def test_commands_of_another_task_say_which_one(frames: Path, bundles: Bundles) -> None:
    refuses(["pi", "embed", frames, "--inputs", "x.npz"], "x.npz: no such file")
    refuses(["pi", "generate", frames, "--prompt", "a"], "was packed for classify, not for generate")
    refuses(["pi", "classify", bundles.embedder(), "--text", "a"], "was packed for embed")
    refuses(["pi", "classify", frames, "--text", "a"], "takes no text")
    refuses(["pi", "classify", frames], "nothing is asked")


def test_an_output_takes_the_place_of_nothing_that_is_read(frames: Path, bundles: Bundles, tmp_path: Path) -> None:
    asked = tmp_path / "asked.npz"
    np.savez(asked, x=samples())
    before = asked.read_bytes()
    refuses(["pi", "run", frames, "--inputs", asked, "-o", asked], "is read for this and would be lost")
    refuses(["pi", "run", frames, "--inputs", asked, "-o", frames / "model.onnx"], "lies in the bundle")
    embedder = bundles.embedder()
    refuses(["pi", "embed", embedder, "--text", "a", "-o", embedder / "parity.npz"], "lies in the bundle")
    assert asked.read_bytes() == before and succeeds("pi", "check", frames) and succeeds("pi", "check", embedder)


def test_what_a_recording_says_beside_its_samples_is_no_input(frames: Path, tmp_path: Path) -> None:
    labels = np.arange(len(samples())) % CLASSES
    aside = {"label_names": np.array(["a", "b", "c"]), "capture": np.array("{}"), "characters_per_label": np.array(1.0)}
    np.savez(tmp_path / "plain.npz", x=samples(), labels=labels)
    np.savez(tmp_path / "recorded.npz", x=samples(), labels=labels, **aside)
    plain, recorded = (
        succeeds("pi", "classify", frames, "--inputs", tmp_path / name, "--json").record
        for name in ("plain.npz", "recorded.npz")
    )
    assert recorded == plain and "accuracy" in recorded


def test_a_file_with_nothing_in_it_is_no_answer(frames: Path, bundles: Bundles, tmp_path: Path) -> None:
    for name, command, bundle in (
        ("a.txt", "classify", bundles.text_classifier()),
        ("a.txt", "embed", bundles.embedder()),
        ("a.csv", "run", frames),
    ):
        (tmp_path / name).write_text("")
        refuses(["pi", command, bundle, "--inputs", tmp_path / name], "is empty; give a sample a line")


def test_a_file_in_place_of_a_bundle_says_what_to_do_with_it(shop: Workshop) -> None:
    refuses(["pi", "check", shop.model], "is a file and no bundle; pack it with `picoformer pi package`")


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


def _describe_again(bundle: Path) -> None:
    """Sizes and hashes of what lies there now."""
    from hashlib import sha256

    parsed = description(bundle)
    for name, record in parsed["files"].items():
        data = (bundle / name).read_bytes()
        record["bytes"], record["sha256"] = len(data), sha256(data).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(parsed))
