"""Train the date translator, the transformer of 2017 in small: python examples/date_translator/train.py OUT [STEPS]

Writes OUT/config.json, model.safetensors and tokenizer.json, which `picoformer translate` and `build` read, and
OUT/pairs.tsv to calibrate on and OUT/held_back.tsv to judge by.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from dates import BEGIN, CHARACTERS, END, LONGEST, pairs
from torch.nn import functional

from picoformer.models.config import TransformerConfig
from picoformer.models.encoder_decoder import EncoderDecoder
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.pair_folder import save_pair
from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

STEPS, BATCH, WARM_UP, RATE, SMOOTHING = 1500, 128, 150, 2e-3, 0.1
PAD = 0
"""The token of all characters that the tokenizer does not know: it never occurs here."""


def config(vocabulary: int) -> EncoderDecoderConfig:
    """Sinusoids, post-norm, two layers a side, one table of characters for both."""
    both = {
        "d_model": 64, "heads": (4, 4), "d_ff": (128, 128), "head_dim": 16, "vocab_size": vocabulary,
        "positions": "sinusoidal", "scale_embedding": True, "norm_position": "post", "final_norm": False,
        "activation": "relu", "pooling": "none",
    }  # fmt: skip
    encoder = TransformerConfig(sequence=LONGEST, **both)
    decoder = TransformerConfig(sequence=12, causal=True, classes=vocabulary, tied_head=True, **both)
    return EncoderDecoderConfig(encoder, decoder, shared_embedding=True)


def tensors(examples: list[tuple[str, str]], encode: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources filled up, their lengths, and texts with their first and last token."""
    source = torch.full((len(examples), LONGEST), PAD)
    lengths = torch.tensor([len(text) for text, _ in examples])
    for row, (text, _) in enumerate(examples):
        source[row, : len(text)] = torch.tensor([encode[c] for c in text])
    target = torch.tensor([[encode[c] for c in BEGIN + iso + END] for _, iso in examples])
    return source, lengths, target


def main(out: Path, steps: int = STEPS) -> None:
    tokenizer = train_tokenizer(CHARACTERS, "character")
    encode = tokenizer.get_vocab()
    torch.manual_seed(0)
    model = EncoderDecoder(config(tokenizer.get_vocab_size()))
    source, lengths, target = tensors(pairs(60_000, 0), encode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    begun = time.monotonic()
    for step in range(steps):
        rate = RATE * min((step + 1) / WARM_UP, 1.0 - 0.95 * max(0, step - WARM_UP) / (steps - WARM_UP))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(source), (BATCH,))
        longest = int(lengths[rows].max())
        logits = model(source[rows, :longest], target[rows, :-1], lengths[rows])  # teacher forcing
        loss = functional.cross_entropy(logits.flatten(0, 1), target[rows, 1:].flatten(), label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            right = (logits.argmax(-1) == target[rows, 1:]).all(-1).float().mean().item()
            print(
                f"step {step + 1}: loss {loss.item():.3f}, {right:.1%} right, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    out.mkdir(parents=True, exist_ok=True)
    save_pair(model.eval(), out, encode[BEGIN], [encode[END]], PAD)
    save_tokenizer(tokenizer, out / "tokenizer.json")
    for name, seed, count in (("pairs.tsv", 0, 256), ("held_back.tsv", 1, 1000)):
        (out / name).write_text("".join(f"{text}\t{iso}\n" for text, iso in pairs(count, seed)), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
