"""Writing text: reference, firmware on this machine and in emulators give the same tokens, and say what they took."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from command_line import refuses, succeeds
from picoformer.decoder.build import DecoderBuild
from picoformer.decoder.generating import GenerateOptions, generate_files
from picoformer.decoder.writing import REFERENCE, beam_texts, write_text
from picoformer.errors import DataError, PicoformerError
from picoformer.generation import BeamSettings, End, SamplerSettings, Stopping
from picoformer.models.importers import load_decoder
from picoformer.tokenizers import load_text_tokenizer
from text_models import CONTEXT, TEXT, TOKENS, bridge, built, model_folder

PROMPT = [1, 40, 41, 42, 43, 44, 45, 46, 47, 48, 200]
"""More than a block."""
SETTINGS = {
    "greedy": SamplerSettings(greedy=True),
    "plain": SamplerSettings(seed=1),
    "cold": SamplerSettings(temperature=0.3, seed=2),
    "top_k": SamplerSettings(temperature=0.8, top_k=5, seed=3),
    "top_p": SamplerSettings(top_p=0.7, min_p=0.01, seed=4),
    "penalty": SamplerSettings(0.9, 20, 0.9, 0.0, 1.3, 2**64 - 1),
}
M4 = "mps2-an386"


@pytest.fixture(scope="module")
def build(place: Path, arm_tools: None) -> DecoderBuild:
    return built(place, "int8x16", M4, 3)


def tokens_of(build: DecoderBuild, where: str, settings: SamplerSettings, tokens: int = 12, **more: Any) -> Any:
    return write_text(build, PROMPT, settings, Stopping(tokens), where, **more).generated


# --- the same tokens everywhere -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_tokens_on_reference_host_and_device(name: str, build: DecoderBuild) -> None:
    wanted = tokens_of(build, REFERENCE, SETTINGS[name])
    assert len(wanted.tokens) == 12 and wanted.end is End.MAX_TOKENS
    assert tokens_of(build, "host", SETTINGS[name]) == wanted
    assert tokens_of(build, "", SETTINGS[name]) == wanted


def test_another_seed_is_another_text(build: DecoderBuild) -> None:
    texts = {tokens_of(build, "host", SamplerSettings(seed=seed)).tokens for seed in range(4)}
    assert len(texts) == 4


def test_float_text_is_the_same_on_reference_and_host(place: Path) -> None:
    """Logits differ in their last bits only, and no draw of these falls between."""
    build = built(place, "float32", "host")
    for settings in SETTINGS.values():
        assert tokens_of(build, "host", settings) == tokens_of(build, REFERENCE, settings)


@pytest.mark.parametrize("early", [False, True, "never"])
def test_the_same_beams_everywhere(early: Any, build: DecoderBuild) -> None:
    settings = BeamSettings(3, 0.8, early, 8, (2, 60))
    wanted, _ = beam_texts(build, PROMPT, settings, REFERENCE)
    assert len(wanted) == 3 and len({text.tokens for text in wanted}) == 3
    for where in ("host", ""):
        found, cost = beam_texts(build, PROMPT, settings, where)
        assert found == wanted
        assert (cost.search is not None) == (where == "")


@pytest.mark.parametrize("where", [REFERENCE, "host", ""])
def test_a_text_ends_where_it_should(where: str, build: DecoderBuild) -> None:
    greedy = SETTINGS["greedy"]
    whole = tokens_of(build, REFERENCE, greedy, 200)
    assert whole.end is End.CONTEXT and len(whole.tokens) == CONTEXT - len(PROMPT) + 1
    stop = whole.tokens[3]
    first = whole.tokens.index(stop)
    found = write_text(build, PROMPT, greedy, Stopping(200, (stop,)), where).generated
    assert found.tokens == whole.tokens[: first + 1] and found.end is End.STOP_TOKEN
    if where == "host":
        assert tokens_of(build, where, greedy, 200) == whole
    tokenizer = load_text_tokenizer(build.tokenizer or Path())
    data = tokenizer.decode_bytes(whole.tokens[:8])
    taken: list[bytes] = []
    stopped = write_text(
        build, PROMPT, greedy, Stopping(200, (), (data[4:7],)), where, bytes_of=tokenizer.stream().feed_bytes,
        take=taken.append,
    ).generated  # fmt: skip
    assert stopped.end is End.STOP_STRING and stopped.text == data[: data.index(data[4:7])] == b"".join(taken)


def test_a_caller_ends_a_text(build: DecoderBuild) -> None:
    seen: list[int] = []

    def emit(token: int) -> bool:
        seen.append(token)
        return len(seen) == 4

    found = write_text(build, PROMPT, SETTINGS["plain"], Stopping(50), "host", emit=emit).generated
    assert found.end is End.CALLER and list(found.tokens) == seen and len(seen) == 4


# --- what it took -------------------------------------------------------------------------------------------


def test_both_emulators_count_the_same(build: DecoderBuild, pip_tools: None) -> None:
    costs = {}
    for emulator in ("qemu", "unicorn"):
        written = write_text(build, PROMPT, SETTINGS["top_k"], Stopping(5), emulator=emulator)
        assert written.cost.prompt and written.cost.per_token and not written.cost.uncounted
        assert written.cost.stack and written.cost.emulator.lower().startswith(emulator)
        costs[emulator] = (written.generated, written.cost.prompt, written.cost.per_token)
        _, cost = beam_texts(build, PROMPT, BeamSettings(2, max_tokens=3), emulator=emulator)
        costs[emulator] += (cost.search,)
    assert costs["qemu"] == costs["unicorn"]
    assert costs["qemu"][1] > 5 * costs["qemu"][2]  # a prompt of eleven tokens


def test_a_prompt_of_several_frames_is_counted_whole(build: DecoderBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of its parts add up; text stays the same."""
    whole = write_text(build, PROMPT, SETTINGS["greedy"], Stopping(3))
    monkeypatch.setattr("picoformer.link.text.MOST_TOKENS_A_FRAME", 8)
    parts = write_text(build, PROMPT, SETTINGS["greedy"], Stopping(3))
    assert parts.generated == whole.generated
    assert whole.cost.prompt and parts.cost.prompt
    assert 0 < parts.cost.prompt - whole.cost.prompt < 200  # a second call


# --- the command --------------------------------------------------------------------------------------------

KEYS = {"tokens", "text", "instructions_per_token", "ram_bytes", "flash_bytes"}


def test_json_has_the_keys_that_scripts_depend_on(build: DecoderBuild) -> None:
    words = ["generate", build.build.folder, "--prompt", "the", "--tokens", "6", "--greedy", "--json"]
    device = succeeds(*words, "--target", M4).record
    reference = succeeds(*words).record
    host = succeeds(*words, "--target", "host").record
    assert set(device) >= KEYS and set(reference) == set(host) == set(device)
    assert device["tokens"] == reference["tokens"] == host["tokens"] and len(device["tokens"]) == 6
    assert device["text"] == reference["text"]
    assert device["instructions_per_token"] > 10_000 and device["ram_bytes"]["total"] > device["ram_bytes"]["arena"] > 0
    assert device["flash_bytes"]["model"] > 0
    for other in (reference, host):
        assert other["instructions_per_token"] is None and other["ram_bytes"] is None and other["flash_bytes"] is None
        assert other["instructions_uncounted"]


def test_streamed_text_is_the_whole_text(build: DecoderBuild) -> None:
    options = GenerateOptions(prompt="for é", tokens=40, seed=3)
    parts: list[str] = []
    record = generate_files(build.build.folder, options, parts.append)
    tokenizer = load_text_tokenizer(build.tokenizer or Path())
    prompt = tokenizer.encode("for é")
    whole = tokenizer.decode_bytes([*prompt, *record["tokens"]])
    new = whole[len(tokenizer.decode_bytes(prompt)) :].decode("utf-8", "replace")
    assert "".join(parts) == "for é" + new and record["text"] == new
    assert record["prompt_tokens"] == len(prompt)


def test_without_a_tokenizer_ids_go_in_and_out(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((model_folder(place) / name).read_bytes())
    words = ["generate", folder, "--scheme", "float32", "--tokens", "4", "--greedy"]
    answer = succeeds(*words, "--prompt-ids", "5, 17")
    record = succeeds(*words, "--prompt-ids", "5,17", "--json").record
    assert record["text"] is None and " ".join(map(str, record["tokens"])) in answer.out
    refuses([*words, "--prompt", "x"], "--prompt needs a tokenizer")
    refuses([*words, "--prompt-ids", "5", "--stop", "x"], "--stop needs a tokenizer")
    refuses([*words, "--prompt-ids", f"5,{TOKENS}"], f"token {TOKENS} is outside the vocabulary of {TOKENS}")
    refuses([*words, "--prompt-ids", ",".join(["5"] * (CONTEXT + 1))], f"more than the context of {CONTEXT}")
    refuses([*words, "--prompt-ids", ""], "--prompt-ids is empty")
    refuses([*words, "--prompt-ids", "5,x"], "write token ids with commas")
    refuses([*words, "--prompt-ids", "5", "--calibration", folder / "config.json"], "--calibration is a text")


def test_tokens_that_only_the_model_has_are_no_text(place: Path, tmp_path: Path) -> None:
    """A table has often more rows than there are tokens."""
    from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(TEXT, "character"), tmp_path / "tokenizer.json")
    few = load_text_tokenizer(tmp_path / "tokenizer.json").vocab_size
    words = ["generate", model_folder(place), "--scheme", "float32", "--tokenizer", tmp_path / "tokenizer.json"]
    record = succeeds(*words, "--prompt", "the", "--tokens", "40", "--seed", "1", "--json").record
    assert max(record["tokens"]) >= few and len(record["text"]) == sum(token < few for token in record["tokens"])


def test_a_tokenizer_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(TEXT * 2, "bpe", 330), tmp_path / "tokenizer.json")
    words: list[Any] = ["generate", model_folder(place), "--tokenizer", tmp_path / "tokenizer.json"]
    refuses([*words, "--prompt", "x"], f"the tokenizer has 330 tokens, the model's vocabulary {TOKENS}")
    refuses(["generate", model_folder(place), "--tokenizer", tmp_path / "no.json", "--prompt", "x"], "no such file")


def test_a_built_checkpoint_is_kept_and_built_anew_when_something_changes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picoformer.decoder import generating

    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path))
    made: list[str] = []
    real = generating.build_decoder

    def counting(*words: Any, **more: Any) -> DecoderBuild:
        made.append(words[3])
        return real(*words, **more)

    monkeypatch.setattr(generating, "build_decoder", counting)
    words = [
        "generate",
        model_folder(place),
        "--prompt",
        "a",
        "--tokens",
        "3",
        "--greedy",
        "--json",
        "--scheme",
        "float32",
    ]
    first = succeeds(*words, "--target", "host").record
    assert succeeds(*words, "--target", "host").record["tokens"] == first["tokens"]
    assert made == ["float32"]
    succeeds(*words, "--target", "host", "--context", "32")
    assert made == ["float32", "float32"]


def test_all_that_decides_a_build_is_in_its_key(place: Path, tmp_path: Path) -> None:
    from picoformer.decoder.generating import _key

    model, text, tokenizer = load_decoder(model_folder(place)), tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_text(TEXT)
    tokenizer.write_text("one")
    options = GenerateOptions(target="host", calibration=text)
    keys = [_key(model, options, tokenizer)]
    changes = {"scheme": "int4x16", "context": 9, "block": 3, "beams": 2, "target": M4, "toolchain": "clang"}
    keys += [_key(model, dataclasses.replace(options, **{name: value}), tokenizer) for name, value in changes.items()]
    keys.append(_key(dataclasses.replace(model, sha256="1" * 64), options, tokenizer))
    text.write_text(TEXT[1:])
    keys.append(_key(model, options, tokenizer))
    tokenizer.write_text("two")
    keys.append(_key(model, options, tokenizer))
    assert len(set(keys)) == len(keys)
    assert _key(model, dataclasses.replace(options, seed=4, tokens=9, greedy=True), tokenizer) == keys[-1]


def test_beams_on_the_command_line(build: DecoderBuild) -> None:
    words: list[Any] = ["generate", build.build.folder, "--prompt", "the", "--tokens", "5", "--json"]
    reference = succeeds(*words, "--beams", "3").record
    device = succeeds(*words, "--beams", "3", "--target", M4).record
    assert reference["texts"] == device["texts"] and len(device["texts"]) == 3
    assert device["tokens"] == device["texts"][0]["tokens"] and device["instructions_of_search"] > 10_000
    probabilities = [text["log_probability"] for text in device["texts"]]
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[0] < 0
    refuses([*words, "--beams", "4", "--target", M4], "4 beams need a firmware built with --beams 4")
    refuses([*words, "--beams", "3", "--stop", "x"], "--stop does not go with --beams")
    refuses([*words, "--beams", "3", "--top-k", "4"], "--top-k does not go with --beams")
    refuses([*words[:-3], "--tokens", "129", "--beams", "3", "--target", M4], "writes up to 128 tokens")
    refuses([*words, "--beams", "64", "--stop-ids", "1,2,3,4"], "64 beams want 320 candidates")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "x", "--prompt-ids", "1"], "give one"),
        (["--prompt", "x", "--temperature", "0"], "temperature 0.0: expected a number from 0.01"),
        (["--prompt", "x", "--top-p", "nan"], "top_p nan"),
        (["--prompt", "x", "--min-p", "2"], "min_p 2.0"),
        (["--prompt", "x", "--repetition-penalty", "0"], "repetition_penalty 0.0"),
        (["--prompt", "x", "--seed", "-1"], "seed -1"),
        (["--prompt", "x", "--target", "microbit"], "was built for mps2-an386"),
        (["--prompt", "x", "--stop", ""], "--stop is empty"),
        (["--prompt", "\udcff"], "--prompt holds bytes that are no UTF-8"),
        (["--prompt", "x", "--stop", "\udcff"], "--stop holds bytes that are no UTF-8"),
        (["--prompt", "x" * 200], f"more than the context of {CONTEXT}"),
    ],
)
def test_what_makes_no_text_is_refused(words: list[str], said: str, build: DecoderBuild) -> None:
    refuses(["generate", build.build.folder, "--tokens", "2", *words], said)


def test_a_build_that_was_changed_by_hand_is_refused(build: DecoderBuild, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "build"
    shutil.copytree(build.build.folder, folder)
    record = json.loads((folder / "decoder.json").read_text())
    for change, said in (
        ({"context": "64"}, "context = '64'"),
        ({"context": 65}, "do not go together"),
        ({"vocabulary": 0}, "vocabulary = 0"),
        ({"eos": [TOKENS]}, f"token {TOKENS} of a vocabulary"),
        ({"bos": -1}, "token -1"),
        ({"tokenizer": "../x"}, "outside its folder"),
        ({"more": 1}, "is broken"),
        ({"eos": 3}, "is broken"),
    ):
        (folder / "decoder.json").write_text(json.dumps({**record, **change}))
        refuses(["generate", folder, "--prompt", "x"], said)
    (folder / "decoder.json").write_text("[]")
    refuses(["generate", folder, "--prompt", "x"], "is broken")


# --- a serial port ------------------------------------------------------------------------------------------


def test_a_board_on_a_port_writes_the_same_text(build: DecoderBuild) -> None:
    words: list[Any] = ["generate", build.build.folder, "--prompt", "the", "--tokens", "5", "--greedy", "--json"]
    wanted = succeeds(*words).record["tokens"]
    with bridge(build) as port:
        record = succeeds(*words, "--port", port).record
    assert record["tokens"] == wanted and record["instructions_per_token"] is None
    other = dataclasses.replace(build, build=dataclasses.replace(build.build, graph=build.build.float_graph))
    with bridge(build) as port, pytest.raises(PicoformerError, match="runs another model"):
        write_text(other, PROMPT, SETTINGS["greedy"], Stopping(2), port=port)


def test_a_prompt_has_a_place(build: DecoderBuild) -> None:
    for prompt in ([], [TOKENS], [-1], [1] * (CONTEXT + 1)):
        with pytest.raises(DataError):
            write_text(build, prompt, SETTINGS["greedy"], Stopping(1), REFERENCE)
