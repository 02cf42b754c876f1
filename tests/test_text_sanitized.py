"""The C of language models under the address and undefined-behaviour sanitizers: wire, decoder, sampler, tokenizer."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from c_host import FIRMWARE, STRICT, run
from decoder_models import BLOCK, CONTEXT, VOCABULARY, float_step, typed_step
from picoformer.backends.c import draft_c, write_c
from picoformer.decoder.sessions import DeviceSession
from picoformer.decoder.writing import logits_scale, reference_session, sampler_bytes, write_text
from picoformer.emulator.session import open_device
from picoformer.firmware import build_firmware
from picoformer.generation import IntegerSampler, SamplerSettings, Stopping
from picoformer.generation.loop import generate
from picoformer.ir import Graph
from picoformer.link.device import RefusedError
from picoformer.link.messages import Message
from picoformer.link.text import SAMPLER, TextDevice
from picoformer.targets import load_target
from picoformer.tokenizers import load_text_tokenizer
from text_models import built

CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FRAMES = 1500
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
DRAWN = SamplerSettings(0.9, 20, 0.9, 0.01, 1.3, 6)


def payload(chance: random.Random, message: int, good: bytes, beam: bytes, at: bytes) -> bytes:
    """A request as it should be for the text whose CRC is `at`, one with some words changed, or anything."""
    anything = chance.randbytes(chance.choice((0, 1, 3, 4, 8, 40, 60, 61, 300, 1038)))
    if message == Message.TEXT_BEGIN:
        request = good
    elif message == Message.TEXT_BEAM:
        request = beam + struct.pack("<3i", 1, 2, 3)
    elif message == Message.TEXT_FEED:
        count = chance.choice((1, 2, BLOCK, BLOCK + 1, 30))
        request = at + struct.pack(f"<{count}i", *(chance.randrange(VOCABULARY) for _ in range(count)))
    elif message == Message.TEXT_NEXT:
        request = at
    else:
        return anything
    kind = chance.random()
    if kind < (0.9 if message == Message.TEXT_NEXT else 0.6):
        return request
    if kind < 0.9:
        words = list(struct.unpack(f"<{len(request) // 4}i", request))
        for _ in range(chance.choice((1, 1, 2))):
            extreme = chance.choice((0, 1, -1, 2, 64, 255, 1 << 30, -(1 << 31), (1 << 31) - 1, chance.getrandbits(31)))
            words[chance.randrange(len(words))] = extreme
        return struct.pack(f"<{len(words)}i", *words)
    return anything


def plain_run(device: object, graph: Graph, chance: random.Random) -> None:
    """A run with inputs of any value."""
    inside = chance.random() < 0.6
    outside = (CONTEXT, CONTEXT - 1, -1, (1 << 31) - 1, -(1 << 31), BLOCK + 1, 0)
    values = {
        "tokens": [chance.randrange(VOCABULARY if inside else 1 << 31) for _ in range(BLOCK)],
        "position": chance.randrange(CONTEXT - BLOCK) if inside else chance.choice(outside),
        "count": chance.randrange(1, BLOCK + 1) if inside else chance.choice(outside),
    }
    for index, name in enumerate(graph.ports[0]):
        device.write_input(index, np.asarray(values[name], "<i4").tobytes())  # type: ignore[attr-defined]
    device.run(crc=True, outputs=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "scheme"), [("mixtral", "int4x16"), ("falcon_alibi_rounded", "float32")])
def test_no_frame_reaches_what_it_should_not(name: str, scheme: str, tmp_path: Path) -> None:
    """Good and bad requests in any order: each is answered, and then the device writes what the reference writes."""
    graph = float_step(name) if scheme == "float32" else typed_step(name, scheme)
    plain = load_target("host")
    toolchain = plain.toolchain.model_copy(
        update={"optimize": "-O1", "flags": [*plain.toolchain.flags, *CHECKS],
                "link_flags": [*plain.toolchain.link_flags, *CHECKS]}
    )  # fmt: skip
    target = plain.model_copy(update={"toolchain": toolchain, "isa": ["generic"]})
    model = write_c(draft_c(graph, ["generic"], slots=3), tmp_path / "source")
    firmware = build_firmware(model.folder, target, tmp_path / "built", strict=True)
    scale = logits_scale(graph)
    good = sampler_bytes(IntegerSampler.from_settings(DRAWN, scale))
    exponent = SAMPLER.unpack(sampler_bytes(IntegerSampler.from_settings(SamplerSettings(), scale)))[:3]
    early = 256 if scale is None else 0
    beam = struct.pack("<IiIIiiiIii", *exponent, 1 << 30, 20, 1 << 22, 3, early, 6, 0)
    chance = random.Random(5)
    messages = [Message.TEXT_BEGIN, Message.TEXT_FEED, Message.TEXT_FEED, Message.TEXT_NEXT, Message.TEXT_NEXT,
                Message.TEXT_NEXT, Message.TEXT_BEAM, Message.WRITE_INPUT, Message.RUN, Message.READ_OUTPUT,
                Message.DESCRIBE, Message.RESET, None]  # fmt: skip
    answered, at = dict.fromkeys(messages, 0), 0
    with open_device(firmware, target) as session:
        device = session.device
        for _ in range(FRAMES):
            message = chance.choice(messages)
            try:
                if message is None:
                    plain_run(device, graph, chance)
                else:
                    request = payload(chance, message, good, beam, at.to_bytes(4, "little"))
                    answer = device.ask(message, request)
                    if message is Message.RESET:
                        device.reset()  # its mark is the device's own again
                    if message is Message.TEXT_BEGIN:
                        at = zlib.crc32(request)
                    elif message is Message.TEXT_FEED:
                        at = zlib.crc32(request[4:], at)
                    elif message is Message.TEXT_NEXT:
                        at = zlib.crc32(answer[:4], at)
                answered[message] += 1
            except RefusedError:
                pass
        text = TextDevice(device)
        text.begin(good)
        text.feed(PROMPT)
        wanted = generate(reference_session(graph), PROMPT, DRAWN, scale, Stopping(12))
        assert tuple(text.next() for _ in range(12)) == wanted.tokens
        decoder = DeviceSession(device, graph)
        expected = reference_session(graph).decode(PROMPT, 0)
        np.testing.assert_allclose(decoder.decode(PROMPT, 0), expected, atol=1e-4 if scale is None else 0)
    most = (Message.TEXT_BEGIN, Message.TEXT_FEED, Message.TEXT_NEXT, Message.TEXT_BEAM, None)
    assert all(answered[message] > 10 for message in most), answered  # not all were refused


_DRIVER = """
#define main example
#include "main.c"
#undef main
#include <stdio.h>
int main(void)
{
    const int status = example();
    fwrite(&out, sizeof out, 1, stdout);
    return status;
}
"""


@pytest.mark.parametrize("has_tokenizer", [False, True])
@pytest.mark.parametrize("scheme", ["float32", "int8x16"])
def test_the_example_writes_what_the_reference_writes(
    scheme: str, has_tokenizer: bool, tmp_path: Path, place: Path, arm_tools: None
) -> None:
    """main.c of a language model: from tokens, or from text to text through its tokenizer."""
    build = built(place, scheme, "host")
    tokenizer = load_text_tokenizer(build.tokenizer or tmp_path)
    source = tmp_path / "source"
    shutil.copytree(build.build.folder / "host" / "source", source)
    prompt = [*tokenizer.encode("The")]
    if not has_tokenizer:
        from picoformer.backends.c import TextExample

        shutil.rmtree(source)
        write_c(draft_c(build.build.graph, ["generic"]), source, text=TextExample((1,)))
        prompt = [1]
    assert (source / "model_tokenizer.c").is_file() == has_tokenizer
    (tmp_path / "driver.c").write_text(_DRIVER)
    listed = json.loads((source / "sources.json").read_text())
    files = [source / name for name in listed["model_sources"] if not name.endswith("_device.c")]
    include = [f"-I{FIRMWARE / 'include'}", f"-I{source}"]
    for compiler in ("gcc", "clang", "arm-none-eabi-gcc"):
        run(compiler, *STRICT, "-fsyntax-only", *include, *files, source / "main.c")
    run(
        "gcc", "-std=c99", "-g", "-ffp-contract=off", *CHECKS, *include, tmp_path / "driver.c", *files,
        *(FIRMWARE / name for name in listed["sources"]), "-o", tmp_path / "example",
    )  # fmt: skip
    import subprocess

    data = subprocess.run([tmp_path / "example"], check=True, capture_output=True, timeout=60).stdout
    tokens = write_text(build, prompt, SamplerSettings(greedy=True), Stopping(16), "reference").generated.tokens
    if has_tokenizer:
        stream = tokenizer.stream()
        for token in prompt:
            stream.feed_bytes(token)
        written = b"".join(stream.feed_bytes(token) for token in tokens)
        assert written and data.startswith(written) and data[len(written)] == 0
    else:
        assert np.frombuffer(data, "<i4").tolist() == [*tokens, 16]


def test_the_documented_example_compiles(place: Path, arm_tools: None, tmp_path: Path) -> None:
    """The code of docs/firmware-api.md on language models, against what a build writes."""
    page = (FIRMWARE.parent / "docs" / "firmware-api.md").read_text("utf-8")
    section = page[page.index("## A language model") :]
    (tmp_path / "own.c").write_text(section.split("```c\n", 1)[1].split("```", 1)[0])
    source = built(place, "float32", "host").build.folder / "host" / "source"
    for compiler in ("gcc", "arm-none-eabi-gcc"):
        run(compiler, *STRICT, "-fsyntax-only", f"-I{FIRMWARE / 'include'}", f"-I{source}", tmp_path / "own.c")
