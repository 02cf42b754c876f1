"""A tiny language model with a tokenizer as files, and its build: what tests of commands on text share."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import hugging_face
from picoformer.datasets import python_documentation
from picoformer.decoder.build import DecoderBuild, build_decoder
from picoformer.emulator.host import HostEmulator
from picoformer.link.device import Device
from picoformer.link.text import TextDevice
from picoformer.models.importers import load_decoder
from picoformer.quantize import QuantizeSettings
from picoformer.targets import load_target
from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

TOKENS, CONTEXT = 280, 64
MODEL = hugging_face.Case(
    "Llama", hugging_face.LLAMA, {"vocab_size": TOKENS, "max_position_embeddings": CONTEXT, "num_hidden_layers": 1}
)
TEXT = python_documentation()[20_000:26_000]


@cache
def model_folder(place: Path) -> Path:
    """A Hugging Face folder: one KV head, heads of 6, untied, and a byte-level BPE of as many tokens."""
    folder = place / "llama"
    hugging_face.save(MODEL, folder)
    save_tokenizer(train_tokenizer(TEXT, "bpe", TOKENS), folder / "tokenizer.json")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    return folder


@cache
def built(place: Path, scheme: str, target: str, slots: int = 1) -> DecoderBuild:
    """The model's build for a target, calibrated on what the model writes, rounded to nearest."""
    folder = model_folder(place)
    settings = QuantizeSettings(rounding="nearest", bias_correction=False)
    return build_decoder(
        load_decoder(folder), load_target(target), place / f"{scheme}-{target}-{slots}", scheme, settings=settings,
        tokenizer=folder / "tokenizer.json", slots=slots,
    )  # fmt: skip


@contextmanager
def bridge(build: DecoderBuild, first: Callable[[TextDevice], object] | None = None) -> Iterator[str]:
    """The build's firmware on this machine behind a TCP port, as a serial server has it; `first` uses it before."""
    target = load_target("host")
    running = HostEmulator().start(build.build.firmware(target).elf, target)
    if first is not None:
        first(TextDevice(Device(running.transport)))
    server = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def serve() -> None:
        line, _ = server.accept()
        line.settimeout(0.02)
        with line:
            while not is_over.is_set():
                try:
                    data = line.recv(4096)
                    if not data:
                        return
                    running.transport.write(data, 5)
                except TimeoutError:
                    pass
                if answer := running.transport.read(0.02):
                    line.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"socket://127.0.0.1:{server.getsockname()[1]}"
    finally:
        is_over.set()
        thread.join(5)
        server.close()
        running.close()
