"""A generated tokenizer as a shared library of the host, and the texts that tokenizers are compared on."""

from __future__ import annotations

import ctypes
import random
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from c_host import FIRMWARE, STRICT, run
from picoformer.backends.c.tokenizer import CTokenizer, write_tokenizer_c
from picoformer.tokenizers import TextTokenizer, TokenizerTables

IDS, SCRATCH, NO_ID, BYTES = -1, -2, -3, -4
"""PF_TOKENIZER_*"""
_FENCE = 64


class HostTokenizer:
    """The C of a tokenizer, compiled; buffers stand between fences that are checked after every call."""

    def __init__(self, tables: TokenizerTables, folder: Path, *flags: str) -> None:
        self.written: CTokenizer = write_tokenizer_c(tables, folder, "tested")
        library = folder / "tokenizer.so"
        sources = [folder / name for name in self.written.sources]
        sources += [FIRMWARE / name for name in self.written.firmware]
        options = [*STRICT, "-Wshadow", "-O2", "-fPIC", "-shared", "-Wl,--no-undefined", f"-I{FIRMWARE / 'include'}"]
        run("gcc", *options, *flags, *sources, "-o", library)
        self._library = ctypes.CDLL(str(library))
        self._tokenizer = ctypes.addressof(ctypes.c_byte.in_dll(self._library, "tested_tokenizer"))
        pointer, word = ctypes.c_void_p, ctypes.c_uint32
        for name in ("encode", "encode_sequence"):
            function = getattr(self._library, f"pf_tokenizer_{name}")
            function.argtypes = [pointer, ctypes.c_char_p, word, pointer, word, pointer, word]
        self._library.pf_tokenizer_decode.argtypes = [pointer, ctypes.c_int32, pointer, pointer, word]
        self._library.pf_tokenizer_scratch_bytes.argtypes = [pointer, word]
        self._library.pf_tokenizer_scratch_bytes.restype = word

    def scratch_bytes(self, count: int) -> int:
        return int(self._library.pf_tokenizer_scratch_bytes(self._tokenizer, count))

    def encode(
        self, text: bytes, max_ids: int | None = None, scratch_bytes: int | None = None, name: str = "encode"
    ) -> list[int] | int:
        """The ids, or the negative error."""
        max_ids = 8 * len(text) + 16 if max_ids is None else max_ids
        scratch_bytes = self.scratch_bytes(len(text)) if scratch_bytes is None else scratch_bytes
        ids = np.full(4 * max_ids + 2 * _FENCE, 0xA5, np.uint8)
        scratch = np.full(scratch_bytes + 2 * _FENCE + 8, 0xA5, np.uint8)
        room = scratch[-scratch.ctypes.data % 8 :]
        function = getattr(self._library, f"pf_tokenizer_{name}")
        count = function(
            self._tokenizer,
            text,
            len(text),
            ids.ctypes.data + _FENCE,
            max_ids,
            room.ctypes.data + _FENCE,
            scratch_bytes,
        )
        fences = [ids[:_FENCE], ids[_FENCE + 4 * max_ids :], room[:_FENCE], room[_FENCE + scratch_bytes :]]
        assert all((fence == 0xA5).all() for fence in fences), "wrote outside its buffers"
        if count < 0:
            return int(count)
        assert count <= max_ids
        return ids[_FENCE : _FENCE + 4 * count].view(np.int32).tolist()

    def decode(self, ids: list[int], room: int = 4096) -> list[bytes | int]:
        """What each id adds, or its negative error."""
        state, out = ctypes.c_uint32(0), np.zeros(room + _FENCE, np.uint8)
        parts: list[bytes | int] = []
        for i in ids:
            out[:] = 0xA5
            count = self._library.pf_tokenizer_decode(self._tokenizer, i, ctypes.byref(state), out.ctypes.data, room)
            assert (out[room:] == 0xA5).all(), "wrote outside its buffer"
            parts.append(out[:count].tobytes() if count >= 0 else count)
        return parts


LANGUAGES = (
    "The quick brown fox doesn't jump over the lazy dog; it's 1234567 o'clock, they'll say I'D've WE'RE 'tis.",
    "Ärger, Öl und Übermut – straße & Straße, naïve façade, Ångström, Señor Muñoz, œuvre, Čeština, Łódź, İstanbul,"
    " Friſt iſt'ſt ſtand.",
    "Voilà ce qu'il n'a pas dit : « déjà-vu » coûte 12,50 € l'été, ½ ¾ ² ³ № ™ © … ‰ ﬁ ﬂ Å K Ω.",
    "Быстрая коричневая лиса прыгает. Ελληνικά κείμενα, ἀρχή ᾳ ᾼ ΰ Σίσυφος. Հայերեն. ქართული.",
    "敏捷的棕色狐狸跳过懒狗。日本語のテキスト、ひらがなとカタカナ、がぎぐげご。ﾊﾝｶｸ 한국어 텍스트입니다. 𠀀𠀁㐀豈"
    " 나\u302e나\u1b44",
    "مرحبا بالعالم، هذا نص عربي ١٢٣. שָׁלוֹם עוֹלָם. فارسی‌نویسی. ܫܠܡܐ",
    "नमस्ते दुनिया १२३, বাংলা লেখা, தமிழ் உரை, తెలుగు, ಕನ್ನಡ, ภาษาไทย ทดสอบ, ລາວ, မြန်မာ, ខ្មែរ, བོད་ཡིག",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 😀😃😄 ❤️ ☃ ✓ → ∑∫√ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 ⅷ Ⅻ ①②",
    "\tdef f(x):\n\t\treturn {x!r: [1, 2.5e-3]}  # it's\r\n\r\n   \n  if  a==b   :   pass\n\n\n",
    "▁▁ a▁b ▁ <s> </s> <unk> [CLS] ##ing <0x0A> <|endoftext|> \x00\x01\x1f\x7f\x80\x85\xa0\xad",
)
"""Texts of many scripts."""

_SPACES = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2003\u2009\u200a\u200b"
    "\u2028\u2029\u202f\u205f\u3000\u2581\ufeff"
)
_SPECIAL = (
    "\u0300\u0301\u0308\u0323\u0345\u200d\ufe0f\U0001f3fd\u200e\u202e\u017f\u212a\u0130\u1e9e\ufffd\u3099\u094d\u0e33"
)


@cache
def documentation() -> str:
    """The documentation of Python that comes with it, 500 KB."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def training_texts() -> list[str]:
    """What the tests' tokenizers are trained on; `random_texts` and the rest of the documentation are held back."""
    return [*documentation()[:150_000].splitlines(), *LANGUAGES * 20]


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of any characters, from one to some hundred: words of the languages, white space, marks, all of Unicode."""
    rng = random.Random(seed)
    words = " ".join(LANGUAGES).split(" ")
    held_back = documentation()[150_000:]

    def part() -> str:
        match rng.randrange(12):
            case 0 | 1:
                return rng.choice(words)
            case 2 | 3:
                return rng.choice(_SPACES) * rng.choice((1, 1, 1, 2, 3, 9))
            case 4:
                return " "
            case 5:
                return chr(rng.choice((rng.randrange(0x80), rng.randrange(0x300), rng.randrange(0x3000))))
            case 6:
                return rng.choice(_SPECIAL) * rng.choice((1, 1, 2, 5))
            case 7:
                point = rng.randrange(0x110000)
                return "" if 0xD800 <= point < 0xE000 else chr(point)
            case 8:
                start = rng.randrange(len(held_back) - 60)
                return held_back[start : start + rng.randrange(60)]
            case 9:
                return rng.choice("aé\u4e00.,'1\u0661😀") * rng.choice((1, 2, 3, 20))
            case 10:
                return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), rng.choice(words))
            case _:
                return rng.choice(("'s", "'LL", "'Ve", "n't", " 's", "123", "12345", "\r\n", "##", "' s", "'ſ"))

    return ["".join(part() for _ in range(rng.choice((1, 2, 3, 5, 8, 20)))) for _ in range(count)]


def random_bytes(count: int, seed: int) -> list[bytes]:
    """Bytes that are no UTF-8, or hardly: pieces of text cut, mixed and with leads and continuations strewn in."""
    rng = random.Random(seed)
    texts = [text.encode() for text in LANGUAGES]
    made = []
    for _ in range(count):
        data = bytearray()
        for _ in range(rng.randrange(1, 6)):
            match rng.randrange(3):
                case 0:
                    data += rng.randbytes(rng.randrange(6))
                case 1:
                    text = rng.choice(texts)
                    start = rng.randrange(len(text))
                    data += text[start : start + rng.randrange(12)]
                case _:
                    data += bytes(rng.choices(b"\xe2\x96\x81\xf0\x9f\x98\x80\xed\xa0\xc0\xf4\x90\xff\x00 a", k=3))
        made.append(bytes(data))
    return made


def edge_texts() -> list[str]:
    """Texts at the ends of what a tokenizer may meet."""
    ends = [
        "",
        " ",
        "  ",
        "   ",
        "a",
        "'",
        "\n",
        "\x00",
        "▁",
        "▁ ",
        " ▁",
        " a",
        "a ",
        "  a  b  ",
        "a" * 1000,
        " " * 1000,
        "\ufdfa" * 50,
        "나\u302e\u1b44 나\u1b44\u0301\u302e나\u302e\u200d\u1b44",
        "das iſt'ſtand",
    ]
    return [*ends, *LANGUAGES, *(" " + text for text in LANGUAGES), documentation()[150_000:170_000]]


Made = tuple[TextTokenizer, HostTokenizer]
"""(the library's tokenizer, the C)."""


def compare(pair: Made, texts: Sequence[str] | Sequence[bytes]) -> int:
    """The ids of the C are the library's, and of every fifth text what they decode to; how many ids there were."""
    tokenizer, c = pair
    count = 0
    for i, text in enumerate(texts):
        data = text.encode() if isinstance(text, str) else text
        expected = tokenizer.encode(text)
        assert c.encode(data) == expected, text
        if i % 5 == 0:
            stream = tokenizer.stream()
            assert c.decode(expected) == [stream.feed_bytes(token) for token in expected], text
        count += len(expected)
    return count
