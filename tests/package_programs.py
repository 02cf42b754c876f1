"""Programs out of packages: compiled as each form's own tools would, run on this machine or in QEMU."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STUBS = Path(__file__).resolve().parent / "package_stubs"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
RV32 = ("riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs")
M33 = ("arm-none-eabi-gcc", "-mcpu=cortex-m33", "-mthumb")


def run(*command: str | Path, where: Path | None = None) -> str:
    """What a command prints; its complaints when it fails."""
    done = subprocess.run([str(word) for word in command], cwd=where, capture_output=True, encoding="utf-8",
                          errors="replace", timeout=300, stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def compiled(folder: Path) -> list[Path]:
    """Every file of a folder that a compiler is given, deeper ones too."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".c", ".S"))


def host_program(out: Path, sources: Sequence[Path], includes: Sequence[Path], *flags: str) -> str:
    """Compile and link with gcc, strictly, then run: what it prints."""
    folders = [f"-I{folder}" for folder in includes]
    run("gcc", *STRICT, "-O0", "-ffp-contract=off", *flags, *folders, *sources, "-o", out)
    return run(out)


def each(compiler: Sequence[str], source: Path, out: Path) -> None:
    """Compile every file of a library's folder, which is all that is on the include path, into objects of other names:
    two files may be called alike."""
    for path in compiled(source):
        name = path.relative_to(source).as_posix().replace("/", "_")
        run(*compiler, f"-I{source}", "-c", path, "-o", out / f"{name}.o")


def _sketch_objects(compiler: list[str], library: Path, name: str, out: Path) -> None:
    """Objects of a library's example, which is C++ with Arduino.h in front, and of the stub core."""
    core = STUBS / "arduino"
    plus = [*compiler, "-Wall", "-Wextra", "-Werror", f"-I{core}", f"-I{library / 'src'}"]
    ino = library / "examples" / name / f"{name}.ino"
    run(*plus, "-include", "Arduino.h", "-x", "c++", "-c", ino, "-o", out / "ino.o")
    run(*plus, "-c", core / "core.cpp", "-o", out / "core.o")


def sketch(library: Path, name: str, out: Path) -> str:
    """Compile an Arduino library and its example against the stub core as the IDE does, and run it: what it prints."""
    out.mkdir()
    each(["clang", "-w", "-O1", "-std=gnu11"], library / "src", out)
    plus = ["clang++", "-O1", "-std=gnu++11", "-fno-exceptions"]
    _sketch_objects(plus, library, name, out)
    run("clang", *sorted(out.glob("*.o")), "-o", out / "run")
    return run(out / "run")


def arm_sketch(library: Path, name: str, out: Path) -> None:
    """The same for a Cortex-M4, linked against newlib; nothing may be missing."""
    out.mkdir()
    board = ["-mcpu=cortex-m4", "-mthumb", "-Os", "-ffunction-sections", "-fdata-sections"]
    each(["arm-none-eabi-gcc", *board, "-w", "-std=gnu11"], library / "src", out)
    plus = ["arm-none-eabi-g++", *board, "-std=gnu++17", "-fno-exceptions"]
    _sketch_objects(plus, library, name, out)
    link = ["arm-none-eabi-gcc", *board, "--specs=nosys.specs", "-Wl,--gc-sections", "-Wl,--no-warnings"]
    run(*link, *sorted(out.glob("*.o")), "-o", out / "run.elf")


@dataclass(frozen=True)
class Machine:
    """A machine of QEMU and what compiles for it; `ram` of a Cortex-M."""

    name: str
    flags: tuple[str, ...]
    ram: str = "0x20000000"


MACHINES = {
    "mps2-an385-m0": Machine("mps2-an385", ("-mcpu=cortex-m0", "-mthumb")),
    "mps2-an386": Machine("mps2-an386", ("-mcpu=cortex-m4", "-mthumb")),
    "mps3-an547": Machine("mps3-an547", ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"), "0x30000000"),
    "riscv32-virt": Machine("virt", ()),
}
"""Target → what runs its code here."""


def emulated(target: str, out: Path, sources: Sequence[Path], includes: Sequence[Path]) -> str:
    """Compile and link a program for a target, run it in QEMU: what it prints through semihosting."""
    machine = MACHINES[target]
    out.mkdir()
    folders = [f"-I{folder}" for folder in includes]
    if target == "riscv32-virt":
        places = {"flash": "0x80000000", "flash_size": "0x00200000", "ram": "0x80200000", "ram_size": "0x00200000"}
        symbols = ",".join(f"--defsym=__{name}={value}" for name, value in (*places.items(), ("stack_size", "0x4000")))
        link = ["--oslib=semihost", "--crt0=hosted", f"-Wl,{symbols}"]
        run(*RV32, *STRICT, "-O1", *folders, *sources, *link, "-o", out / "run.elf")
        command = ["qemu-system-riscv32", "-M", machine.name, "-bios", "none", "-nographic", "-semihosting-config",
                   "enable=on,target=native,chardev=out", "-kernel", str(out / "run.elf")]  # fmt: skip
        run(*command, "-chardev", f"file,id=out,path={out / 'printed.txt'}")
        return (out / "printed.txt").read_text(errors="replace")
    script = (STUBS / "cortex_m" / "link.ld.in").read_text().replace("@RAM@", machine.ram)
    (out / "link.ld").write_text(script)
    boot = STUBS / "cortex_m" / "boot.c"
    link = ["--specs=rdimon.specs", "-T", str(out / "link.ld")]
    run("arm-none-eabi-gcc", *machine.flags, *STRICT, "-O1", *folders, *sources, boot, *link, "-o", out / "run.elf")
    return run("qemu-system-arm", "-M", machine.name, "-nographic", "-semihosting-config", "enable=on,target=native",
               "-kernel", out / "run.elf")  # fmt: skip


def cmake(source: Path, build: Path, *options: str) -> None:
    """Configure and build a project."""
    run("cmake", "-S", source, "-B", build, *options)
    run("cmake", "--build", build)
