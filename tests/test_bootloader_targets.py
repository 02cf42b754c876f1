"""What target files say of a bootloader: which boards have one, and what of it is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from picoformer.bootloader import behind_bootloader
from picoformer.build_folder import read_target
from picoformer.errors import ConfigError, ModelError
from picoformer.firmware import linker_script, target_defines
from picoformer.targets import list_targets, load_target, resource_root


def test_who_has_a_bootloader_is_flashed_by_it() -> None:
    boards = [load_target(name) for name in list_targets()]
    assert {"microbit", "nrf52840-dk"} <= {board.name for board in boards if board.bootloader is not None}
    for board in boards:
        if board.flasher is not None:
            assert ("resident" in board.flasher.others) == (board.bootloader is not None), board.name


@pytest.mark.parametrize(
    ("found", "put", "said"),
    [
        ('kind = "nrf_nvmc"', 'kind = "nand"', "firmware/bootloader has no flash_nand.c; use one of nrf_nvmc, ram"),
        ("page_bytes = 1024", "page_bytes = 1000", "page_bytes must be a power of two"),
        ("page_bytes = 1024", "page_bytes = 128", "page_bytes"),
        ("page_bytes = 1024", "page_bytes = 4096\nwindow_ms = 10", "window_ms"),
        ("bytes = 8192", "bytes = 8000", "bytes must be a multiple of page_bytes"),
        ("bytes = 8192", "bytes = 262144", "leaves no room for an image"),
        ("origin = 0x00000000", "origin = 0x00000200", "page_bytes must divide origin and length"),
        ('name = "microbit"', f'name = "{"m" * 32}"', "name may have 31 letters"),
        ('port = "cortex_m"', 'port = "riscv"', "[bootloader] is for port cortex_m"),
        ("frame_bytes = 320", "frame_bytes = 320\nin_slot = true", "is not for target files; say --bootloader"),
        ("frame_bytes = 320", "frame_bytes = 320\nimage_version = 2", "is not for target files; say --bootloader"),
    ],
)
def test_a_target_file_that_is_wrong(tmp_path: Path, found: str, put: str, said: str) -> None:
    text = (resource_root("targets") / "microbit.toml").read_text("utf-8")
    assert found in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(found, put, 1))
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        load_target(path)
    assert str(error.value).startswith(f"{path}:") and "\n" not in str(error.value)


def test_a_region_behind_the_bootloader(tmp_path: Path) -> None:
    """Linker script and sizes go by the slot, memory protection by all of the memory for code."""
    for name in ("microbit", "mps2-an385", "mps2-an505", "nrf52840-dk", "arduino-nano-33-ble"):
        plain = load_target(name)
        placed = behind_bootloader(plain, 5)
        assert plain.bootloader is not None
        whole, code = plain.region("code"), placed.region("code")
        assert (
            placed.bootloader_region.origin == whole.origin
            and placed.bootloader_region.end == placed.slot_region.origin
        )
        assert code.origin == placed.slot_region.origin + plain.bootloader.page_bytes and code.end == whole.end
        assert code.origin % 256 == 0, "a vector table lies there"
        assert f"slot (rx) : ORIGIN = {code.origin:#010x}, LENGTH = {code.length:#x}" in linker_script(placed)
        before, after = target_defines(plain), target_defines(placed)
        assert [name for name in after if name not in before] == ["-DPF_BEHIND_BOOTLOADER=1u"]
        assert behind_bootloader(placed) is placed
        (tmp_path / "target.json").write_text(placed.model_dump_json())
        assert read_target(tmp_path) == placed
    placed = behind_bootloader(load_target("microbit"))
    for harm in ({"bootloader": None}, {"memory": load_target("microbit").memory}):
        (tmp_path / "target.json").write_text(placed.model_copy(update=harm).model_dump_json())
        with pytest.raises(ModelError, match=r"target\.json is broken"):
            read_target(tmp_path)
