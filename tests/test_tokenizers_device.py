"""Tokenizers in C under sanitizers, compiled for devices, and on a Cortex-M3 in QEMU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from c_host import FIRMWARE, STRICT, run
from c_tokenizer import LANGUAGES, Made, edge_texts, random_bytes, random_texts
from picoformer.backends.c.tokenizer import write_tokenizer_c
from semihosting import ASK


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
def test_it_compiles_for_devices(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    written = write_tokenizer_c(made(name)[0].tables(), tmp_path, "device")
    sources = [tmp_path / source for source in written.sources] + [FIRMWARE / source for source in written.firmware]
    for flags in (["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb"], ["clang"]):
        for source in sources:
            options = ["-Wshadow", "-ffreestanding", f"-I{FIRMWARE / 'include'}", "-O2", "-c"]
            run(*flags, *STRICT, *options, source, "-o", tmp_path / "object.o")


_SANITIZED = r"""
#include "tested_tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    uint32_t head[3];
    while (fread(head, 4, 3, stdin) == 3) {
        uint8_t *text = malloc(head[0] ? head[0] : 1);
        int32_t *ids = malloc(head[1] ? 4 * head[1] : 1);
        void *scratch = malloc(head[2] ? head[2] : 1);
        if (head[0] && fread(text, 1, head[0], stdin) != head[0]) return 2;
        int32_t count = pf_tokenizer_encode(&tested_tokenizer, text, head[0], ids, head[1], scratch, head[2]);
        printf("%d", (int)count);
        uint32_t state = 0;
        for (int32_t i = 0; i < count; i++) {
            uint8_t out[8];
            printf(" %d", (int)ids[i]);
            (void)pf_tokenizer_decode(&tested_tokenizer, ids[i], &state, out, sizeof out);
        }
        printf("\n");
        free(text), free(ids), free(scratch);
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    "name", ["llama3", "bloom", "digits", "llama", "metaspace_always", "bert", "t5", "unigram_json"]
)
def test_sanitizers_find_nothing(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    """Random bytes through address and undefined-behaviour sanitizers, with buffers of any size, on the heap."""
    tokenizer, c = made(name)
    written = write_tokenizer_c(tokenizer.tables(), tmp_path, "tested")
    main = tmp_path / "main.c"
    main.write_text(_SANITIZED)
    sources = [tmp_path / source for source in written.sources] + [FIRMWARE / source for source in written.firmware]
    program = tmp_path / "program"
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=c99"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run(["gcc", *flags, probe, "-o", program], capture_output=True, check=False).returncode:
        pytest.skip("THE SANITIZERS' RUN-TIME LIBRARY IS MISSING: the C was not run under them")
    run("gcc", *flags, f"-I{FIRMWARE / 'include'}", f"-I{tmp_path}", main, *sources, "-o", program)
    texts = [*random_bytes(400, seed=5), *[text.encode() for text in (*edge_texts()[:20], *random_texts(100, seed=6))]]
    requests, sizes = bytearray(), []
    for i, text in enumerate(texts):
        room = 4 * len(text) + 16 if i % 3 else len(text) // 2
        scratch = c.scratch_bytes(len(text)) // (1 if i % 5 else 4)
        sizes.append((room, scratch))
        requests += b"".join(n.to_bytes(4, "little") for n in (len(text), room, scratch)) + text
    done = subprocess.run([program], input=bytes(requests), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for text, (room, scratch), line in zip(texts, sizes, done.stdout.splitlines(), strict=True):
        count, *ids = map(int, line.split())
        expected = c.encode(text, room, scratch)
        assert (ids if count >= 0 else count) == expected


_DEVICE = r"""
/* Encodes and decodes the texts, and writes what came of it to a file through semihosting. */
#include "device_tokenizer.h"
#include "texts.h"
static uint64_t scratch[0x20000];
static int32_t ids[0x8000];
static uint8_t out[0x8000];
static void write(uint32_t handle, const void *from, uint32_t bytes) {
    const uint32_t block[3] = {handle, (uint32_t)from, bytes};
    ask(5, block);
}
void start(void) {
    const struct { const char *name; uint32_t mode, length; } file = {"result.bin", 5, 10};
    const uint32_t handle = ask(1, &file);
    const uint8_t *text = texts;
    for (uint32_t i = 0; i < sizeof lengths / sizeof lengths[0]; text += lengths[i++]) {
        const int32_t count =
            pf_tokenizer_encode(&device_tokenizer, text, lengths[i], ids, 0x8000, scratch, sizeof scratch);
        uint32_t state = 0, bytes = 0;
        for (int32_t k = 0; k < count; k++)
            bytes += (uint32_t)pf_tokenizer_decode(&device_tokenizer, ids[k], &state, out + bytes, sizeof out - bytes);
        write(handle, &count, 4);
        write(handle, ids, count < 0 ? 0 : 4 * (uint32_t)count);
        write(handle, &bytes, 4);
        write(handle, out, bytes);
    }
    ask(2, &handle);
    ask(0x18, (void *)0x20026);
    for (;;) {}
}
static void fault(void) { ask(0x18, (void *)0x20023); for (;;) {} }
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    (void *)0x20300000, (void *)start, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
"""
_MEMORY = """
MEMORY { code : ORIGIN = 0, LENGTH = 4M  data : ORIGIN = 0x20000000, LENGTH = 3M }
ENTRY(start)
SECTIONS { .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > code  .bss : { *(.data*) *(.bss*) } > data }
"""


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("name", ["llama3", "llama", "bert", "t5", "unigram_json"])
def test_a_cortex_m3_gives_the_same_bytes(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    tokenizer, _ = made(name)
    written = write_tokenizer_c(tokenizer.tables(), tmp_path, "device")
    texts = [text.encode() for text in (*LANGUAGES, *random_texts(150, seed=7))] + random_bytes(150, seed=8)
    joined = ", ".join(map(str, b"".join(texts)))
    lengths = ", ".join(str(len(text)) for text in texts)
    (tmp_path / "texts.h").write_text(
        f"static const uint8_t texts[] = {{{joined}}};\nstatic const uint32_t lengths[] = {{{lengths}}};\n"
    )
    (tmp_path / "main.c").write_text(ASK + _DEVICE)
    (tmp_path / "link.ld").write_text(_MEMORY)
    sources = [tmp_path / source for source in written.sources] + [FIRMWARE / source for source in written.firmware]
    image = tmp_path / "image.elf"
    core = ["-mcpu=cortex-m3", "-mthumb", "-ffreestanding", "-O2", "-std=c99"]
    places = [f"-I{FIRMWARE / 'include'}", f"-I{tmp_path}", f"-Wl,-T,{tmp_path / 'link.ld'}"]
    run("arm-none-eabi-gcc", *core, *places, "-nostdlib", tmp_path / "main.c", *sources, "-lgcc", "-o", image)
    command = ["qemu-system-arm", "-M", "mps2-an385", "-nographic", "-kernel", str(image)]
    command += ["-semihosting-config", "enable=on,target=native"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, stdin=subprocess.DEVNULL)

    expected = b""
    for text in texts:
        ids = tokenizer.encode(text)
        decoded = tokenizer.decode_bytes(ids)
        numbers = [len(ids), *ids, len(decoded)]
        expected += b"".join(number.to_bytes(4, "little") for number in numbers) + decoded
    assert (tmp_path / "result.bin").read_bytes() == expected
