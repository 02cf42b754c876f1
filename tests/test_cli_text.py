"""Bad input to the commands on language models: one line that names the culprit, exit code 1, nothing half written."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hugging_face
import test_llama2c
from command_line import picoformer, refuses, succeeds
from picoformer.cli_text import DECODER_SCHEMES as OFFERED
from picoformer.decoder import build as decoder_build
from picoformer.decoder.quantize import DECODER_SCHEMES
from picoformer.errors import FitError
from picoformer.firmware import _refuse_overflow
from picoformer.targets import load_target
from text_models import CONTEXT, TEXT, TOKENS, built, model_folder

Words = list[Any]


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder to do harm to."""
    return Path(shutil.copytree(model_folder(place), tmp_path / "model"))


def commands(model: Path, out: Path, text: Path) -> list[Words]:
    """Every command that reads a checkpoint."""
    text.write_text(TEXT)
    return [
        ["generate", model, "--prompt-ids", "1", "--tokens", "2"],
        ["perplexity", model, "--text", text],
        ["build", model, "--target", "host", "-o", out],
        ["export", model, "--format", "c", "-o", out],
    ]


def refused_by_all(model: Path, place: Path, *said: str) -> None:
    for words in commands(model, place / "out", place / "text.txt"):
        refuses(words, *said)
        assert not (place / "out").exists()
        assert not [path for path in place.iterdir() if path.name.startswith(".out")]


# --- checkpoints --------------------------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def poison(value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors["model.norm.weight"][3] = value

    return change


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_checkpoint(kept: float, folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused_by_all(folder, tmp_path, "model.safetensors")


def test_an_oversized_checkpoint(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(64))
    refused_by_all(folder, tmp_path, "model.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(value: float, folder: Path, tmp_path: Path) -> None:
    change_weights(folder, poison(value))
    refused_by_all(folder, tmp_path, "model.norm.weight", "NaN or infinite")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hidden_size": 24}, "config.json asks for"),
        ({"vocab_size": TOKENS + 1}, "has shape"),
        ({"num_hidden_layers": 2}, "is missing"),
        ({"num_key_value_heads": 2}, "kv_heads[0] = 2"),
        ({"model_type": "mamba"}, "'mamba' is not covered"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
    ],
)
def test_a_configuration_of_another_model(keys: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    hugging_face.change_config(folder, **keys)
    refused_by_all(folder, tmp_path, said)


def test_a_file_of_llama2c_that_is_cut_or_goes_on(tmp_path: Path) -> None:
    shape = test_llama2c.Shape()
    data = test_llama2c.write(tmp_path / "model.bin", shape, test_llama2c.random_weights(shape), 1)
    for wrong in (data[:-4], data + bytes(4), data[:100], b""):
        (tmp_path / "model.bin").write_bytes(wrong)
        refused_by_all(tmp_path / "model.bin", tmp_path, "model.bin")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    for name in ("empty", "model.onnx", "missing", "missing.bin"):
        for words in commands(tmp_path / name, tmp_path / "out", tmp_path / "text.txt")[:2]:
            refuses(words, name)


def test_weights_of_16_bits_are_read(folder: Path, tmp_path: Path) -> None:
    """float16 is what many checkpoints are stored in; its largest numbers are no infinities."""

    def halve(tensors: dict[str, Any]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16)

    change_weights(folder, halve)
    words: Words = ["generate", folder, "--prompt-ids", "1", "--tokens", "2", "--scheme", "float32", "--json"]
    assert len(succeeds(*words).record["tokens"]) == 2


# --- texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the text has 0 tokens, fewer than a window of 64"),
        (b"short", "fewer than a window of 64"),
        (b"abc \xff def" * 100, "byte 4 is no UTF-8"),
        (b"abc \xed\xa0\x80" * 100, "byte 4 is no UTF-8"),
    ],
)
def test_a_text_that_does_not_serve(data: bytes, said: str, place: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(data)
    model, out = model_folder(place), tmp_path / "out"
    refuses(["perplexity", model, "--text", text, "--scheme", "float32"], said)
    refuses(["build", model, "--target", "host", "--calibration", text, "-o", out], said)
    refuses(["generate", model, "--prompt", "a", "--calibration", text], said)
    assert not out.exists()


def test_a_text_that_is_not_there(place: Path, tmp_path: Path) -> None:
    model = model_folder(place)
    refuses(["perplexity", model, "--text", tmp_path / "no.txt", "--scheme", "float32"], "no.txt")
    refuses(["build", model, "--target", "host", "--calibration", tmp_path / "no.txt", "-o", tmp_path / "o"], "no.txt")
    refuses(["build", model, "--target", "host", "--calibration", tmp_path / "no.npz", "-o", tmp_path / "o"], "no.npz")


@pytest.mark.parametrize("window", [1, CONTEXT + 1])
def test_a_window_outside_the_context(window: int, place: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    words: Words = ["perplexity", model_folder(place), "--text", tmp_path / "text.txt", "--scheme", "float32"]
    refuses([*words, "--window", str(window)], f"--window {window}: use 2 to {CONTEXT}")


def load_tokens(place: Path) -> list[int]:
    """TEXT as the model's tokenizer has it."""
    from picoformer.tokenizers import load_text_tokenizer

    tokenizer = built(place, "int8x16", "mps2-an386", 3).tokenizer
    assert tokenizer is not None
    return load_text_tokenizer(tokenizer).encode(TEXT)


def test_perplexity_of_a_text(place: Path, tmp_path: Path) -> None:
    """Float, reference and device; a window may have no characters at all."""
    (tmp_path / "text.txt").write_text(TEXT)
    words: Words = [
        "perplexity",
        built(place, "int8x16", "mps2-an386", 3).build.folder,
        "--text",
        tmp_path / "text.txt",
    ]
    record = succeeds(*words, "--window", "12", "--windows", "3", "--target", "host", "--json").record
    assert record["tokens"] == 33 and record["windows"] == 3
    assert record["share_of_text"] == 36 / len(load_tokens(place)) < 1
    assert record["device_perplexity"] == record["reference_perplexity"] != record["float_perplexity"]
    assert record["reference_perplexity"] == pytest.approx(record["float_perplexity"], rel=0.02)
    assert record["float_perplexity"] > 20  # a random model knows nothing
    bits = np.log2(record["float_perplexity"]) * record["tokens"] / record["characters"]
    assert record["float_bits_per_character"] == pytest.approx(bits)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.float32), np.zeros((1, 2, 3), np.int32), np.zeros((0, 4), np.int32),
        np.full((1, 80), 1 << 40), np.full((1, 80), -1), np.full((1, 80), TOKENS),
    ],
    ids=["float", "rank 3", "empty", "huge", "negative", "past the vocabulary"],
)  # fmt: skip
def test_tokens_that_are_none(array: Any, place: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "tokens.npz", tokens=array)
    words: Words = ["build", model_folder(place), "--target", "host", "--calibration", tmp_path / "tokens.npz"]
    refuses([*words, "-o", tmp_path / "out"], "token")
    assert not (tmp_path / "out").exists()
    refuses(["verify", built(place, "int8x16", "mps2-an386", 3).build.folder, "--inputs", tmp_path / "tokens.npz"],
            "token")  # fmt: skip


# --- options ------------------------------------------------------------------------------------------------


def test_the_schemes_on_offer_are_those_there_are() -> None:
    assert tuple(OFFERED.choices) == DECODER_SCHEMES


@pytest.mark.parametrize("command", ["generate", "build"])
def test_another_scheme(command: str, place: Path, tmp_path: Path) -> None:
    words: Words = {
        "generate": ["generate", model_folder(place), "--prompt", "a"],
        "build": ["build", model_folder(place), "--target", "host", "-o", tmp_path / "out"],
    }[command]
    answer = picoformer(*words, "--scheme", "int3")
    assert answer.code == 2 and "int3" in answer.err
    if command == "build":
        refuses([*words, "--scheme", "int8"], "scheme 'int8' is not for language models; use one of float32, int8x16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--context", str(CONTEXT * 4), "--block", "600"], "a block of 600"),
        (["--block", str(CONTEXT + 1)], f"a block of {CONTEXT + 1} tokens does not go with a context of {CONTEXT}"),
        (["--prefix", "9x"], "9x"),
        (["--tile", "4%"], "--tile says nothing about a language model's build"),
        (["--shape", "x=1,2"], "--shape says nothing"),
        (["--valid-length"], "--valid-length says nothing"),
        (["--equalization", "on"], "--equalization says nothing"),
    ],
)
def test_options_that_do_not_go_with_a_language_model(words: list[str], said: str, place: Path, tmp_path: Path) -> None:
    refuses(["build", model_folder(place), "--target", "host", "-o", tmp_path / "out", *words], said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--beams", "2"], ["--block", "4"], ["--context", "9"], ["--tokenizer", "x.json"]])
def test_options_that_only_language_models_have(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    refuses(["build", tmp_path / "model.onnx", "--target", "host", "-o", tmp_path / "out", *words],
            f"{words[0]} says nothing about this model's build")  # fmt: skip


def test_a_model_that_is_too_large_is_refused_before_it_writes_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bytes, the three largest constants and what would mend it."""
    keys = {"vocab_size": 1000, "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 8,
            "intermediate_size": 512, "num_hidden_layers": 4, "max_position_embeddings": 512}  # fmt: skip
    hugging_face.save(hugging_face.Case("Llama", hugging_face.LLAMA, keys), tmp_path / "large")

    def never(*words: Any, **more: Any) -> Any:
        raise AssertionError("it was calibrated")

    monkeypatch.setattr(decoder_build, "written_windows", never)
    line = refuses(
        ["build", tmp_path / "large", "--target", "microbit", "-o", tmp_path / "out"], "does not fit microbit", "flash",
        "embedding.token.weight 128,000", "head.weight 128,000", "feed_forward", "RAM", "--context", "int4x16",
    )  # fmt: skip
    assert line.count("layers.0.feed_forward") <= 1
    refuses(["generate", tmp_path / "large", "--prompt-ids", "1", "--target", "microbit"], "does not fit microbit")
    assert not (tmp_path / "out").exists()


def test_a_context_that_is_proposed_fits(tmp_path: Path) -> None:
    keys = {"vocab_size": TOKENS, "max_position_embeddings": 4096, "num_hidden_layers": 1}
    hugging_face.save(hugging_face.Case("Llama", hugging_face.LLAMA, keys), tmp_path / "long")
    words: Words = ["build", tmp_path / "long", "--target", "microbit", "--scheme", "float32", "-o", tmp_path / "out"]
    line = refuses([*words, "--context", "300"], "RAM (ram) needs", "--block 1 takes less RAM")
    context = re.search(r"--context (\d+) should fit the RAM", line)
    assert context is not None and 100 < int(context[1]) < 300
    succeeds(*words, "--context", context[1])


def test_the_linker_refuses_in_words_of_language_models() -> None:
    output = "region `ram' overflowed by 40 bytes"
    for is_text, said in ((True, "a smaller --context, --block 1, --scheme int4x16"), (False, "prune, fewer rows")):
        with pytest.raises(FitError, match=said):
            _refuse_overflow(output, load_target("microbit"), [], is_text)


def test_a_folder_with_files_of_a_person_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for words in (["build", model_folder(place), "--target", "host"], ["export", model_folder(place), "--format", "c"]):
        refuses([*words, "-o", tmp_path / "mine"], "holds other files")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_build_of_another_kind_writes_no_text(place: Path, tmp_path: Path) -> None:
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    np.savez(tmp_path / "tokens.npz", tokens=np.ones((1, 3), np.int32))
    for words in (["emulate", folder, "--inputs", tmp_path / "tokens.npz"],):
        refuses(words, "language model", "generate")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "decoder.json").unlink()
    refuses(["generate", tmp_path / "copy", "--prompt", "a"], "copy")


def test_a_build_is_what_it_is(place: Path, tmp_path: Path) -> None:
    """Options that ask for another build than the one that is there."""
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    (tmp_path / "text.txt").write_text(TEXT)
    generate: Words = ["generate", folder, "--prompt", "the", "--tokens", "2"]
    perplexity: Words = ["perplexity", folder, "--text", tmp_path / "text.txt"]
    for words in (generate, perplexity):
        refuses([*words, "--scheme", "float32"], "--scheme float32", "was built with int8x16")
        refuses([*words, "--context", "9"], "--context 9", f"was built with {CONTEXT}")
        refuses([*words, "--block", "1"], "--block 1", "was built with 8")
        refuses([*words, "--calibration", tmp_path / "text.txt"], "--calibration", "is built already")
        refuses(
            [*words, "--target", "microbit"], "was built for mps2-an386; give --target mps2-an386, host or reference"
        )
    refuses([*perplexity, "--beams", "2"], "--beams 2", "was built with 3")
    succeeds(*generate, "--scheme", "int8x16", "--context", str(CONTEXT), "--block", "8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--greedy", "--temperature", "1"], "--temperature does nothing with --greedy"),
        (["--greedy", "--top-k", "0"], "--top-k does nothing with --greedy"),
        (["--greedy", "--min-p", "0.1"], "--min-p does nothing with --greedy"),
        (["--length-penalty", "1"], "--length-penalty does nothing with one beam"),
        (["--early-stopping", "never"], "--early-stopping does nothing with one beam"),
    ],
)
def test_options_that_would_do_nothing(words: list[str], said: str, place: Path) -> None:
    refuses(["generate", model_folder(place), "--prompt", "the", "--scheme", "float32", *words], said)


def test_the_table_of_generate_has_what_was_measured(place: Path) -> None:
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    words: Words = ["generate", folder, "--prompt", "the", "--tokens", "3", "--seed", "1"]
    record = succeeds(*words, "--target", "mps2-an386", "--json").record
    lines = succeeds(*words, "--target", "mps2-an386").out.splitlines()
    for title, number in (
        ("ram, bytes", record["ram_bytes"]["total"]),
        ("flash, bytes", record["flash_bytes"]["total"]),
        ("instructions per token", round(record["instructions_per_token"])),
    ):
        assert f"  {title:<26} {number:,}" in lines
    lines = succeeds(*words).out.splitlines()
    assert f"  {'instructions':<26} not counted: the reference is not counted" in lines
    assert not any("not measured" in line or "flash" in line for line in lines)


def test_a_port_that_is_not_there_prints_no_prompt(place: Path) -> None:
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    answer = picoformer("generate", folder, "--prompt", "the", "--port", "/dev/none")
    assert answer.code == 1 and answer.out == "" and "/dev/none" in answer.err


def test_a_context_past_the_trained_positions_is_told(place: Path, tmp_path: Path) -> None:
    said = f"picoformer: a context of {2 * CONTEXT} is more than the {CONTEXT} positions the model was trained for"
    more = ["--scheme", "float32", "--context", str(2 * CONTEXT)]
    for words in (
        ["generate", model_folder(place), "--prompt", "the", "--tokens", "2"],
        ["build", model_folder(place), "--target", "host", "-o", tmp_path / "out"],
    ):
        answer = picoformer(*words, *more)
        assert answer.code == 0 and answer.err.startswith(said) and answer.err.count("\n") == 1


def test_inspect_says_who_knows_of_language_models(place: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    for model in (model_folder(place), built(place, "int8x16", "mps2-an386", 3).build.folder, tmp_path / "model.bin"):
        refuses(["inspect", model], "is a language model; `build` says")


def test_a_reader_that_has_enough_is_no_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind `| head`."""

    def closed(*words: Any, **more: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("picoformer.cli.show", closed)
    answer = picoformer("targets")
    assert answer.err == "" and answer.out == ""


# --- export -------------------------------------------------------------------------------------------------


def test_export_writes_the_c_of_a_language_model(place: Path, tmp_path: Path) -> None:
    words: Words = ["export", model_folder(place), "--scheme", "float32", "--context", "16"]
    record = succeeds(*words, "--format", "c", "--prefix", "tale", "-o", tmp_path / "c", "--json").record
    assert record["scheme"] == "float32" and record["state_bytes"] == 2 * 16 * 6 * 4
    names = {path.name for place in ("src", "include") for path in (tmp_path / "c" / place).iterdir()}
    assert {"tale.c", "tale.h", "tale_decoder.c", "tale_decoder.h", "tale_tokenizer.c", "tale_tokenizer.h"} <= names
    listed = (tmp_path / "c" / "CMakeLists.txt").read_text()
    assert "    src/tale_tokenizer.c\n" in listed and "    src/text/tokenizer.c\n" in listed


# --- verify -------------------------------------------------------------------------------------------------


def test_verify_takes_texts(place: Path, tmp_path: Path) -> None:
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    tokens = np.random.default_rng(0).integers(0, TOKENS, (2, 20)).astype(np.int32)
    np.savez(tmp_path / "tokens.npz", tokens=tokens)
    record = succeeds("verify", folder, "--inputs", tmp_path / "tokens.npz", "--json", "--min-sqnr", "5").record
    links = {(link["from"], link["to"]): link for link in record["links"]}
    assert links["reference", "host"]["equal"] and links["host", "mps2-an386"]["equal"]
    assert record["instructions"]["per_inference"] > 10_000 and record["samples"] == 2 * (2 + 10)
    operators = record["instructions"]["per_operator"]
    # One more token's, over full caches, on both sides: this build reads three tokens a run.
    assert sum(operator["macs"] for operator in operators) == record["macs"]
    np.savez(tmp_path / "tokens.npz", tokens=np.ones((1, CONTEXT + 1), np.int32))
    refuses(["verify", folder, "--inputs", tmp_path / "tokens.npz"], f"more than the context of {CONTEXT}",
            "tokens.npz", "shorten the texts")  # fmt: skip
    np.savez(tmp_path / "tokens.npz", tokens=np.full((2, 3), TOKENS))
    refuses(["verify", folder, "--inputs", tmp_path / "tokens.npz"], "tokens.npz: text 0: ", "outside the vocabulary")
    np.savez(tmp_path / "tokens.npz", tokens=np.ones((2, 3)))
    refuses(["verify", folder, "--inputs", tmp_path / "tokens.npz"], "tokens.npz", "token ids are integers")


def test_verify_names_the_element_that_differs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware of another weight: its first step that differs, with its numbers."""
    from picoformer.decoder.build import open_decoder
    from picoformer.decoder.verify import verify_decoder
    from picoformer.firmware import build_firmware

    copy = tmp_path / "copy"
    shutil.copytree(built(place, "int8x16", "mps2-an386", 3).build.folder, copy)
    source = copy / "host" / "source"
    text = (source / "model.c").read_text()
    before, after = text.split(".query_drop = ", 1)
    (source / "model.c").write_text(f"{before}.query_drop = 1{after}")  # more bits than any
    build_firmware(source, load_target("host"), copy / "host")
    report = verify_decoder(open_decoder(copy), [[1, 5, 9, 200, 7]], 4, with_onnx=False).report
    assert not report.passed
    failure = next(line for line in report.failures if line.startswith("reference → host"))
    for part in ("layers.0.attention.context", "position 0", "element [", "expected", "found"):
        assert part in failure
