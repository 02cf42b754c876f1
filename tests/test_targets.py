"""Target files: what is accepted, and that a mistake is named with its key, its line and the mend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from picoformer.errors import ConfigError
from picoformer.firmware import linker_script
from picoformer.targets import key_line, list_targets, load_target, resource_root, stand_in


def _changed(tmp_path: Path, old: str, new: str, base: str = "mps2-an386") -> Path:
    text = (resource_root("targets") / f"{base}.toml").read_text()
    assert old in text
    path = tmp_path / "board.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def _line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_the_targets_that_come_along_load() -> None:
    assert {"host", "mps2-an386"} <= set(list_targets())
    for name in list_targets():
        assert load_target(name).name == name


def test_a_board_states_its_memory_and_machine() -> None:
    board = load_target("mps2-an386")
    assert board.region("data").origin == 0x20000000
    assert board.emulator.machine == "mps2-an386"
    assert not board.is_host
    assert load_target("host").is_host


def test_a_target_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load_target("host").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("stack_bytes = 4096", 'stack_bytes = 4096\nflavour = "mint"', "flavour"),
        ("baud = 115200", "baud = 115200\nparity = 1", "uart.parity"),
        ('holds = "data"', 'holds = "data"\nspeed = 3', "memory.1.speed"),
    ],
)
def test_an_unknown_key_is_named_with_its_line(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = _changed(tmp_path, old, new)
    line = _line_of(path, f"{key.split('.')[-1]} =")
    with pytest.raises(ConfigError, match=rf"board\.toml:{line}: unknown key '{key}'; remove it or use one of: "):
        load_target(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stack_bytes = 4096", 'stack_bytes = "4K"', r"key 'stack_bytes' has the bad value '4K'"),
        ("origin = 0x20000000", "origin = -1", r"key 'memory.1.origin' has the bad value -1"),
        ('holds = "data"', 'holds = "dta"', r"key 'memory.1.holds' has the bad value 'dta'"),
        ('optimize = "-O2"', 'optimize = "fast"', r"key 'toolchain.optimize' has the bad value 'fast'"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _changed(tmp_path, old, new)
    with pytest.raises(ConfigError, match=rf"board\.toml:{_line_of(path, new)}: {message}"):
        load_target(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('cpu = "cortex-m4"\n', "", "key 'cpu' is missing"),
        ("origin = 0x20000000", "origin = 0x00100000", "'ssram1' and 'ssram23' overlap"),
        ('holds = "data"', 'holds = "code"', "no region with holds = 'data'"),
        ("seconds = 30", "seconds = 300", "at most 171 seconds"),
        ('machine = "mps2-an386"\n', "", "kind 'qemu' needs `program` and `machine`"),
        ('port = "cortex_m"', 'port = "cortex_x"', "no directory firmware/port/cortex_x"),
        (
            'kind = "cmsdk"\nbase = 0x40004000',
            'kind = "pl011"\nbase = 0x40004000',
            "has no uart_pl011.c; use one of cmsdk",
        ),
        ('exit = "semihosting"', 'exit = "halt"', "'exit': firmware/port/cortex_m has no exit_halt.c"),
        ("[uart]", "[uart", "is not valid TOML"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_target(_changed(tmp_path, old, new))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


STAND_IN = 'stands_in = "netduinoplus2"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (STAND_IN, 'stands_in = "mps9"', "key 'stands_in': unknown target 'mps9'; use one of microbit, mps2-an385, "),
        (STAND_IN, 'stands_in = "host"', "key 'stands_in': host has no emulated core; use one of microbit, "),
        (STAND_IN, 'stands_in = "rp2040-pico"', "key 'stands_in': rp2040-pico has no emulated core; use one of "),
        (STAND_IN, "", "stands_in or [emulator]: say one of them"),
        ("[uart]", '[emulator]\nkind = "host"\n\n[uart]', "stands_in or [emulator]: say one of them"),
        ("max_clock_hz = 100_000_000", "max_clock_hz = 1_000", "max_clock_hz is below clock_hz"),
        ("max_clock_hz = 100_000_000", "multiply_cycles = 1", "multiply_cycles is the choice of a Cortex-M0"),
        ("max_clock_hz = 100_000_000", "multiply_cycles = 2", "key 'multiply_cycles'"),
        ("irq = 28", "irq = 32", "key 'watchdog.irq' has the bad value 32"),
        ("alternate = 7", "alternate = 16", "key 'uart.alternate' has the bad value 16"),
        ("bits = 0x1 }, {", "bits = 0 }, {", "key 'uart.enable.0.bits' has the bad value 0"),
        ('port = "cortex_m"', 'port = "library"', 'port = "library" and [library] go together'),
        ("[uart]", '[library]\nform = "cmake"\nsdk = "x"\n\n[uart]', 'port = "library" and [library] go together'),
        ('exit = "reset"\n', "", "exit is missing; say how the program ends"),
    ],
)
def test_what_a_board_says_is_checked(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _changed(tmp_path, old, new, "stm32f411-nucleo")
    with pytest.raises(ConfigError, match=r"board\.toml:\d+: ") as error:
        load_target(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    if new and message.startswith("key 'stands_in'"):
        assert f"board.toml:{_line_of(path, new)}: " in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('form = "cmake"', 'form = "make"', "key 'library.form' has the bad value 'make'"),
        ("[library]", '[uart]\nkind = "nrf"\nbase = 0\n\n[library]', "port is a library: [uart], exit and [emulator]"),
        ('port = "library"', 'port = "library"\nexit = "reset"', "port is a library: [uart], exit and [emulator]"),
    ],
)
def test_what_a_library_says_is_checked(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_target(_changed(tmp_path, old, new, "rp2040-pico"))
    assert message in str(error.value)


@pytest.mark.parametrize("name", list_targets())
def test_a_target_names_its_source_and_what_runs_it(name: str) -> None:
    target = load_target(name)
    text = (resource_root("targets") / f"{name}.toml").read_text()
    assert text.startswith("# ")
    if target.stands_in:  # a board: where its addresses are from, and that nobody has tried it
        assert re.search(r"datasheet|product specification|reference manual|DS\d+", text)
        assert "Never run on hardware here" in " ".join(line.lstrip("# ") for line in text.splitlines())
    runs = stand_in(target)
    assert runs.emulator is not None
    assert (runs is target) == (not target.stands_in)
    assert runs.isa == target.isa, "the same kernels run in its place"


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'mps3'; .*known: .*mps2-an386"):
        load_target("mps3")
    with pytest.raises(ConfigError, match=r"unknown target 'stm32f446'; did you mean stm32f446-nucleo\? known: "):
        load_target("stm32f446")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_target("no/such.toml")


def test_key_line_falls_back_to_the_table() -> None:
    source = 'a = 1\n[t]\nb = 2\n[[m]]\nc = 3\n[[m]]\nc = 4\n"d" = 5\n'
    assert key_line(source, ("a",)) == 1
    assert key_line(source, ("t", "b")) == 3
    assert key_line(source, ("t", "absent")) == 2
    assert key_line(source, ("m", 1, "c")) == 7
    assert key_line(source, ("m", 1, "d")) == 8


def test_the_guard_never_covers_another_region(tmp_path: Path) -> None:
    assert load_target("mps2-an386").guard_bytes == 1 << 20
    close = _changed(tmp_path, "length = 0x00400000", "length = 0x1FFFF000")
    assert load_target(close).guard_bytes == 0x1000


def test_the_linker_script_is_the_memory_map(tmp_path: Path) -> None:
    extra = '[[memory]]\nname = "fast"\norigin = 0x10000000\nlength = 0x4000\nholds = "data"\n\n[toolchain]'
    script = linker_script(load_target(_changed(tmp_path, "[toolchain]", extra)))
    assert "ssram23 (rwx) : ORIGIN = 0x20000000, LENGTH = 0x400000" in script
    assert "*(.pf_fast .pf_fast.*) } > fast" in script
    assert ". += 4096;" in script
    assert "@" not in script.split("*/", 1)[1]
