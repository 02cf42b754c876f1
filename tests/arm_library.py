"""The C operators as a Cortex-M has them: calls are recorded, then run together in QEMU on an image of memory."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c_library import FIRMWARE, FLAGS, Guarded, Library, of_kind, preprocessed_header, prototypes, structures
from picoformer.backends.c.isa import layout_of
from picoformer.backends.c.sources import kernel_files
from picoformer.ir.operator import Array, Lowered
from semihosting import ASK, MEMORY

FLAGS_M0 = ["-mthumb", "-mcpu=cortex-m0", "-ffreestanding", "-O2"]
FLAGS_M3 = ["-mthumb", "-mcpu=cortex-m3", "-ffreestanding", "-O2"]
FLAGS_M4 = ["-mthumb", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-ffreestanding", "-O2"]
FLAGS_M55 = ["-mthumb", "-mcpu=cortex-m55", "-mfloat-abi=hard", "-ffreestanding", "-O2"]


@dataclass(frozen=True)
class Core:
    """A machine of QEMU that runs calls. `image`: where count of calls, (function, ten words) each, and memory lie."""

    machine: str
    flags: tuple[str, ...]
    ram: int
    image: int


M0 = Core("mps2-an385", tuple(FLAGS_M0), 0x20000000, 0x20010000)
"""A Cortex-M3, which knows all of ARMv6-M, with room for the calls; the code is what a Cortex-M0 has."""
M3 = Core("mps2-an385", tuple(FLAGS_M3), 0x20000000, 0x20010000)
M4 = Core("mps2-an386", tuple(FLAGS_M4), 0x20000000, 0x20010000)
M55 = Core("mps3-an547", tuple(FLAGS_M55), 0x30000000, 0x60000000)
_ALIGNMENT = 16
_WORDS = 10
_LIMIT = 0x3E0000

_LINK = """
MEMORY { code : ORIGIN = 0, LENGTH = 512K  data : ORIGIN = @RAM@, LENGTH = 64K }
ENTRY(start)
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > code
  .ARM.exidx : { *(.ARM.exidx*) } > code
  .bss : { *(.data*) *(.bss*) } > data
}
"""
_MAIN = r"""
/* Runs the calls of an image and writes the image back through semihosting. */
#include "picoformer/ops.h"
#include "picoformer/ops_relative.h"
#include <stddef.h>
typedef uint32_t w;
typedef void function(w, w, w, w, w, w, w, w, w, w);
static function *const functions[] = {@FUNCTIONS@};
typedef struct call { uint32_t function, words[10]; } call;
typedef struct image { uint32_t bytes, count; call calls[]; } image;
@SEMIHOSTING@
void start(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xF00000u; /* floating point and vectors */
    __asm__ volatile("dsb\n isb" ::: "memory");
    image *const i = (image *)@IMAGE@u;
    for (uint32_t c = 0; c < i->count; c++) {
        const uint32_t *a = i->calls[c].words;
        functions[i->calls[c].function](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
    }
    const struct { const char *name; uint32_t mode, length; } file = {"result.bin", 5, 10};
    const uint32_t handle = ask(1, &file);
    const uint32_t block[3] = {handle, (uint32_t)i, i->bytes};
    ask(5, block);
    ask(2, &handle);
    ask(0x18, (void *)0x20026);
    for (;;) {}
}
static void fault(void)
{
    ask(0x18, (void *)0x20023);
    for (;;) {}
}
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    (void *)(@RAM@u + 0x10000u), (void *)start,
    (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
"""


class ArmLibrary(Library):
    """A Library whose calls happen on the emulated core, all at once, in `run`; until then results are undefined."""

    def __init__(self, folder: Path, target_isa: list[str], core: Core = M4, single_rows: bool = False) -> None:
        self._core = core
        header = preprocessed_header()
        self.layout = layout_of(target_isa, single_rows)
        self.structures = _narrow(structures(header))
        names = [path.name for path in sorted((FIRMWARE / "kernels" / "generic").glob("*.c"))]
        kernels = sorted({FIRMWARE / file for name in names for file in kernel_files(name, target_isa, single_rows)})
        self._names = [name for name in prototypes(header) if not name.endswith("_f32")]
        self._folder = folder
        table = ", ".join(f"(function *)(void *){name}" for name in self._names)
        main = (
            _MAIN.replace("@SEMIHOSTING@", ASK + MEMORY)
            .replace("@FUNCTIONS@", table)
            .replace("@IMAGE@", hex(core.image))
        )
        (folder / "main.c").write_text(main.replace("@RAM@", hex(core.ram)))
        (folder / "link.ld").write_text(_LINK.replace("@RAM@", hex(core.ram)))
        sources = [
            *kernels,
            *(p for p in sorted((FIRMWARE / "ops").glob("*.c")) if "f32" not in p.name and p.stem != "float_math"),
        ]
        loose = [flag for flag in FLAGS if flag not in ("-Wpedantic", "-Wconversion")]
        command = [
            "arm-none-eabi-gcc",
            *core.flags,
            *loose,
            "-nostdlib",
            "-Wl,-T,link.ld",
            "main.c",
            *map(str, sources),
        ]
        subprocess.run([*command, "-lgcc", "-o", "operators.elf"], cwd=folder, check=True)
        self._reset()

    def _reset(self) -> None:
        self._calls: list[list[int]] = []
        self._memory = bytearray()
        self._places: dict[int, int] = {}
        self._owners: list[tuple[Array, int]] = []
        self._guarded: list[Guarded] = []

    def guard(self, buffer: Guarded) -> Array:
        """The elements, undefined until `run`, which checks the fences too."""
        self._guarded.append(buffer)
        return buffer.array

    def structure(self, name: str, source: Lowered | None = None, **fields: Any) -> ctypes.Structure:
        """As Library.structure, with pointers of 32 bits into the image."""
        kind, pointers = self.structures[name]
        struct_ = kind()
        for field, _ in kind._fields_:
            value = fields[field] if field in fields else getattr(source, field)
            if field in pointers:
                array = None if value is None else of_kind(value, pointers[field])
                value = 0 if array is None else self._place(array)
            setattr(struct_, field, value)
        return struct_

    def call(self, name: str, *arguments: Any) -> int | None:
        """Record a call; embedding's status is not looked at and given as 0."""
        words = []
        for argument in arguments:
            if isinstance(argument, ctypes.Structure):
                words.append(self._append(bytes(argument)))
            elif isinstance(argument, np.ndarray):
                words.append(self._place(argument))
            else:
                words.append(0 if argument is None else int(argument) & 0xFFFFFFFF)
        self._calls.append([self._names.index(name), *words, *([0] * (_WORDS - len(words)))])
        return 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to run."""
        return len(self._memory) > _LIMIT // 2

    def run(self) -> None:
        """Make the calls; every array that was passed holds afterwards what the core left there."""
        head = struct.pack(f"<2I{11 * len(self._calls)}I", 0, len(self._calls), *(w for c in self._calls for w in c))
        head = head.ljust(self._offset)
        assert len(head) + len(self._memory) < _LIMIT
        image = bytearray(head) + self._memory
        image[:4] = struct.pack("<I", len(image))
        (self._folder / "image.bin").write_bytes(image)
        result = self._folder / "result.bin"
        result.unlink(missing_ok=True)
        command = [
            "qemu-system-arm",
            "-M",
            self._core.machine,
            "-nographic",
            "-semihosting-config",
            "enable=on,target=native",
        ]
        command += ["-kernel", "operators.elf", "-device", f"loader,file=image.bin,addr={self._core.image:#x}"]
        subprocess.run(command, cwd=self._folder, check=True, timeout=120, stdin=subprocess.DEVNULL)
        back = np.frombuffer(result.read_bytes(), np.uint8)
        for owner, offset in self._owners:
            if owner.flags.writeable:
                flat = owner.reshape(-1).view(np.uint8)
                flat[:] = back[self._offset + offset :][: flat.size]
        for buffer in self._guarded:
            assert buffer.value is not None
        self._reset()

    _offset = 0x40000
    """Room for the calls in front of the memory."""

    def _append(self, data: bytes) -> int:
        self._memory.extend(bytes(-len(self._memory) % _ALIGNMENT))
        self._memory.extend(data)
        return self._core.image + self._offset + len(self._memory) - len(data)

    def _place(self, array: Array) -> int:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in self._places:
            assert owner.flags.c_contiguous
            self._places[id(owner)] = self._append(owner.tobytes())
            self._owners.append((owner, self._places[id(owner)] - self._core.image - self._offset))
        return self._places[id(owner)] + array.ctypes.data - owner.ctypes.data


def _narrow(found: dict[str, Any]) -> dict[str, Any]:
    """The structs with pointers of 32 bits; 64-bit fields keep the alignment of 8 they have on both."""
    narrow = {}
    for name, (kind, pointers) in found.items():
        fields = [(f, ctypes.c_uint32 if t is ctypes.c_void_p else t) for f, t in kind._fields_]
        narrow[name] = type(name, (ctypes.Structure,), {"_fields_": fields}), pointers
    return narrow


def dsp_opcodes(listing: str) -> set[str]:
    """Mnemonics of the DSP extension in a disassembly."""
    return set(
        re.findall(
            r"\t((?:sml[as]\w*d\w*|smu[as]d\w*|smm\w+|[us]xt[ab]*16|pkh\w+|q(?:add|sub)\w*|[us]sat16)\S*)\t", listing
        )
    )
