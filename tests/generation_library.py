"""firmware/text as a shared library of the host, called through ctypes, and toy models for both sides of the seam."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c_library import FLAGS, Guarded
from picoformer.generation import BeamSettings, End, IntegerBeam, IntegerSampler, Stopping
from picoformer.generation.beam import EARLY_STOPPING
from picoformer.generation.scores import Array, Exponent
from picoformer.targets import resource_root

FIRMWARE = resource_root("firmware")
TEXT = [FIRMWARE / "text" / f"{name}.c" for name in
        ("beam", "generate", "logarithm", "random", "sampler", "stop_strings", "weights")]  # fmt: skip
I32, U32, I64, U64, PTR = ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
ERRORS = {
    "settings": -16,
    "scratch": -17,
    "prompt": -18,
    "token": -19,
    "logits": -20,
    "decoder": -21,
    "vocabulary": -22,
}


class CLogits(ctypes.Structure):
    _fields_ = (("values", PTR), ("count", I32), ("is_float", I32))


class CExponent(ctypes.Structure):
    _fields_ = (("multiplier", U32), ("shift", I32), ("reach", U32))


class CSettings(ctypes.Structure):
    _fields_ = (
        ("exponent", CExponent),
        ("raise_multiplier", U32),
        ("raise_shift", I32),
        ("lower_multiplier", U32),
        ("lower_shift", I32),
        ("is_penalized", I32),
        ("top_k", I32),
        ("top_p", U32),
        ("near", U32),
        ("greedy", I32),
        ("is_float", I32),
        ("seed", U64),
    )


class CSampler(ctypes.Structure):
    _fields_ = (("settings", ctypes.POINTER(CSettings)), ("random", U64), ("bins", PTR), ("seen", PTR),
                ("vocabulary", I32), ("top", U32), ("grain", I32))  # fmt: skip


TAKE = ctypes.CFUNCTYPE(ctypes.c_int, PTR, ctypes.POINTER(ctypes.c_uint8), I32)
EMIT = ctypes.CFUNCTYPE(ctypes.c_int, PTR, I32)
BYTES = ctypes.CFUNCTYPE(I32, PTR, I32, ctypes.POINTER(ctypes.POINTER(ctypes.c_uint8)))
DECODE = ctypes.CFUNCTYPE(ctypes.c_int, PTR, I32, ctypes.POINTER(I32), I32, I32)
LOGITS = ctypes.CFUNCTYPE(None, PTR)
COPY = ctypes.CFUNCTYPE(None, PTR, I32, I32)


class CStops(ctypes.Structure):
    _fields_ = (("text", PTR), ("lengths", PTR), ("count", I32), ("borders", PTR), ("matched", PTR),
                ("holder", I32), ("held", I32), ("is_complete", I32))  # fmt: skip


class CGeneration(ctypes.Structure):
    _fields_ = (("max_tokens", I32), ("stop_tokens", PTR), ("stop_token_count", I32), ("emit", EMIT), ("bytes", BYTES),
                ("text", TAKE), ("stops", ctypes.POINTER(CStops)), ("user", PTR))  # fmt: skip


class CBeamSettings(ctypes.Structure):
    _fields_ = (
        ("exponent", CExponent),
        ("grid_multiplier", U32),
        ("grid_shift", I32),
        ("length_penalty", I32),
        ("beams", I32),
        ("early_stopping", I32),
        ("max_tokens", I32),
        ("stop_tokens", PTR),
        ("stop_token_count", I32),
        ("is_float", I32),
    )


class CFinished(ctypes.Structure):
    _fields_ = (("score", I64), ("length", I32), ("parent", I32), ("token", I32))


class CBeam(ctypes.Structure):
    _fields_ = (("settings", ctypes.POINTER(CBeamSettings)), ("candidates", PTR), ("running", PTR), ("next", PTR),
                ("finished", ctypes.POINTER(CFinished)), ("nodes", PTR), ("candidate_count", I32),
                ("running_count", I32), ("finished_count", I32))  # fmt: skip


_GLUE = """
#include <stddef.h>
#include "picoformer/generate.h"
/* ctypes cannot make a function that returns a struct: the test's logits lie where `place` says. */
typedef struct toy { pf_logits place; int (*decode)(void *, int32_t, const int32_t *, int32_t, int32_t);
                     void (*copy)(void *, int32_t, int32_t); } toy;
static pf_logits toy_logits(void *model) { return ((toy *)model)->place; }
static pf_decoder decoder_of(toy *t, int32_t slots, int32_t context, int32_t vocabulary) {
    pf_decoder d = {t, t->decode, toy_logits, t->copy, slots, context, vocabulary};
    return d;
}
int32_t try_generate(toy *t, int32_t context, int32_t vocabulary, pf_sampler *s, const pf_generation *g,
                     const int32_t *prompt, int32_t count, int32_t *why) {
    const pf_decoder d = decoder_of(t, 1, context, vocabulary);
    pf_end end = (pf_end)0;
    const int32_t made = pf_generate(&d, s, g, prompt, count, &end);
    *why = (int32_t)end;
    return made;
}
int32_t try_beam(toy *t, int32_t slots, int32_t context, int32_t vocabulary, pf_beam *b, const pf_beam_settings *p,
                 const int32_t *prompt, int32_t count, void *scratch, int32_t bytes) {
    const pf_decoder d = decoder_of(t, slots, context, vocabulary);
    return pf_beam_search(b, p, &d, prompt, count, scratch, bytes);
}
int32_t try_beam_scratch(int32_t beams, int32_t tokens, int32_t stops)
{ return PF_BEAM_SCRATCH(beams, tokens, stops); }
int32_t try_size(int32_t which) {
    const size_t sizes[] = {sizeof(pf_sampler_settings), sizeof(pf_sampler), sizeof(pf_stops), sizeof(pf_generation),
                            sizeof(pf_beam_settings), sizeof(pf_beam), sizeof(pf_finished_text)};
    return (int32_t)sizes[which];
}
"""


class CToy(ctypes.Structure):
    _fields_ = (("place", CLogits), ("decode", DECODE), ("copy", COPY))


def c_exponent(e: Exponent) -> CExponent:
    return CExponent(e.multiplier, e.shift, e.reach)


def c_settings(sampler: IntegerSampler) -> CSettings:
    own = {name: getattr(sampler, name) for name, _ in CSettings._fields_ if name != "exponent"}
    return CSettings(exponent=c_exponent(sampler.exponent), **own)


def c_logits(logits: Array) -> CLogits:
    assert logits.flags.c_contiguous
    return CLogits(logits.ctypes.data, len(logits), int(logits.dtype == np.float32))


def tokens_of(values: Sequence[int]) -> Array:
    return np.array(values, np.int32)


class TextLibrary:
    """The functions of generate.h."""

    def __init__(self, folder: Path, compiler: str = "gcc") -> None:
        glue, path = folder / "glue.c", folder / f"text_{compiler}.so"
        glue.write_text(_GLUE)
        command = [compiler, "-O2", "-fPIC", "-shared", *FLAGS, *map(str, TEXT), str(glue), "-o", str(path)]
        subprocess.run(command, check=True)
        self.c = ctypes.CDLL(str(path))
        for name, result, *arguments in (
            ("pf_sample", I32, PTR, PTR),
            ("pf_random_word", U32, PTR),
            ("pf_random_below", U64, PTR, U64),
            ("pf_weight", U32, PTR, U32),
            ("pf_log2", I64, U64),
            ("pf_power2", U32, U32),
            ("pf_log_of_sum", I64, U64),
            ("pf_normalize", I64, I64, I32, I32),
        ):
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        kinds = (CSettings, CSampler, CStops, CGeneration, CBeamSettings, CBeam, CFinished)
        assert [self.c.try_size(i) for i in range(len(kinds))] == [ctypes.sizeof(kind) for kind in kinds]

    def sampler(self, sampler: IntegerSampler, vocabulary: int) -> Sampler:
        return Sampler(self, sampler, vocabulary)

    def stops(self, strings: Sequence[bytes]) -> tuple[CStops, list[Any]]:
        """A matcher, and what must live as long."""
        total, count = sum(map(len, strings)), len(strings)
        text, lengths = np.frombuffer(b"".join(strings) or b"\0", np.uint8), tokens_of([len(s) for s in strings])
        scratch = Guarded((total + count,), np.uint16)
        stops = CStops()
        status = self.c.pf_stops_init(
            ctypes.byref(stops),
            text.ctypes.data_as(PTR),
            lengths.ctypes.data_as(PTR),
            count,
            scratch.array.ctypes.data_as(PTR),
            2 * (total + count),
        )
        assert status == 0
        return stops, [text, lengths, scratch]


class Sampler:
    """pf_sampler with scratch of just the size asked for, between fences."""

    def __init__(self, library: TextLibrary, sampler: IntegerSampler, vocabulary: int) -> None:
        self._c = library.c
        self.settings = c_settings(sampler)
        need = self._c.pf_sampler_scratch(ctypes.byref(self.settings), vocabulary)
        assert need >= 0
        self.scratch = Guarded((need,), np.uint8)
        self.state = CSampler()
        pointer = self.scratch.array.ctypes.data_as(PTR)
        arguments = (ctypes.byref(self.state), ctypes.byref(self.settings), vocabulary, pointer)
        assert need == 0 or self._c.pf_sampler_init(*arguments, need - 1) == ERRORS["scratch"]
        assert self._c.pf_sampler_init(*arguments, need) == 0

    def accept(self, token: int) -> int:
        return int(self._c.pf_sampler_accept(ctypes.byref(self.state), token))

    def sample(self, logits: Array) -> int:
        token = int(self._c.pf_sample(ctypes.byref(self.state), ctypes.byref(c_logits(logits))))
        assert self.scratch.value is not None
        return token


@dataclass
class ToyModel:
    """A Session whose logits are a function of all tokens so far, as int16 or float32; it counts what it is asked."""

    function: Callable[[tuple[int, ...]], Array]
    vocabulary: int
    context: int = 64
    slots: int = 1

    def __post_init__(self) -> None:
        self.states: list[tuple[int, ...]] = [()] * self.slots
        self.copies = 0

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        assert position == 0 or len(self.states[slot]) == position, "a state that is not where the caller thinks"
        assert 0 < position + len(tokens) <= self.context
        self.states[slot] = (*self.states[slot][:position], *tokens)
        return self.function(self.states[slot])

    def copy_state(self, source: int, target: int) -> None:
        self.states[target] = self.states[source]
        self.copies += 1


class CToyDecoder:
    """A ToyModel behind pf_decoder's callbacks."""

    def __init__(self, model: ToyModel, fail_at: int = -1) -> None:
        self.failure: BaseException | None = None

        def decode(_: Any, slot: int, tokens: Any, count: int, position: int) -> int:
            if position == fail_at:
                return -1
            try:
                self.logits = np.ascontiguousarray(model.decode(tokens[:count], position, slot))
                self.toy.place = c_logits(self.logits)
            except BaseException as error:
                self.failure = error
                return -1
            return 0

        def copy(_: Any, source: int, target: int) -> None:
            model.copy_state(source, target)

        self.toy = CToy(CLogits(), DECODE(decode), COPY(copy))


def c_generate(
    library: TextLibrary,
    model: ToyModel,
    prompt: Sequence[int],
    sampler: IntegerSampler,
    stopping: Stopping,
    bytes_of: Callable[[int], bytes] | None = None,
    stop_after: int = 0,
    fail_at: int = -1,
) -> tuple[list[int], bytes, End] | int:
    """pf_generate on a toy model: (tokens, text, why it ended), or the error."""
    decoder, own = CToyDecoder(model, fail_at), library.sampler(sampler, model.vocabulary)
    tokens: list[int] = []
    text = bytearray()
    kept: list[Any] = []

    def emit(_: Any, token: int) -> int:
        tokens.append(token)
        return int(len(tokens) == stop_after)

    def take(_: Any, data: Any, count: int) -> int:
        assert count > 0
        text.extend(data[:count])
        return 0

    def give(_: Any, token: int, place: Any) -> int:
        data = bytes_of(token)  # type: ignore[misc]
        buffer = (ctypes.c_uint8 * max(1, len(data)))(*data)
        kept.append(buffer)
        place[0] = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint8))
        return len(data)

    stop_tokens, words, why = tokens_of(stopping.tokens), tokens_of(prompt), I32()
    g = CGeneration(stopping.max_tokens, stop_tokens.ctypes.data, len(stop_tokens), EMIT(emit))
    if bytes_of is not None:
        g.bytes, g.text = BYTES(give), TAKE(take)
    if stopping.strings:
        stops, alive = library.stops(stopping.strings)
        g.stops = ctypes.pointer(stops)
        kept.append(alive)
    made = library.c.try_generate(
        ctypes.byref(decoder.toy),
        model.context,
        model.vocabulary,
        ctypes.byref(own.state),
        ctypes.byref(g),
        words.ctypes.data_as(PTR),
        len(words),
        ctypes.byref(why),
    )
    if decoder.failure is not None:
        raise decoder.failure
    if made < 0:
        return int(made)
    assert made == len(tokens) and own.scratch.value is not None
    return tokens, bytes(text), End(why.value)


def c_beam_settings(beam: IntegerBeam, is_float: bool) -> tuple[CBeamSettings, Array]:
    settings: BeamSettings = beam.settings
    stop_tokens = tokens_of(settings.stop_tokens)
    return CBeamSettings(
        c_exponent(beam.exponent),
        beam.grid_multiplier,
        beam.grid_shift,
        beam.length_penalty,
        settings.beams,
        EARLY_STOPPING[settings.early_stopping],
        settings.max_tokens,
        stop_tokens.ctypes.data,
        len(stop_tokens),
        int(is_float),
    ), stop_tokens


def c_beam_search(
    library: TextLibrary, model: ToyModel, prompt: Sequence[int], beam: IntegerBeam, is_float: bool, missing: int = 0
) -> list[tuple[tuple[int, ...], int]] | int:
    """pf_beam_search on a toy model: (tokens, score) of each text. `missing`: bytes of scratch less than it takes."""
    decoder = CToyDecoder(model)
    settings, stop_tokens = c_beam_settings(beam, is_float)
    need = library.c.try_beam_scratch(settings.beams, settings.max_tokens, len(stop_tokens))
    scratch, state, words = Guarded((need - missing,), np.uint8), CBeam(), tokens_of(prompt)
    count = library.c.try_beam(
        ctypes.byref(decoder.toy),
        model.slots,
        model.context,
        model.vocabulary,
        ctypes.byref(state),
        ctypes.byref(settings),
        words.ctypes.data_as(PTR),
        len(words),
        scratch.array.ctypes.data_as(PTR),
        need - missing,
    )
    if decoder.failure is not None:
        raise decoder.failure
    assert scratch.value is not None
    if count < 0:
        return int(count)
    found = []
    for rank in range(count):
        text = Guarded((state.finished[rank].length,), np.int32)
        library.c.pf_beam_text(ctypes.byref(state), rank, text.array.ctypes.data_as(PTR))
        found.append((tuple(text.value.tolist()), state.finished[rank].score))
    return found
