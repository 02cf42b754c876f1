"""The tracked cost tables: of which kernels and compilers they are, and that who asks is told when it is others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import Workshop, open_workshop, picoformer, succeeds
from picoformer.estimate import costs, fingerprint, formulas
from picoformer.estimate.costs import COSTS, cost_table
from picoformer.estimate.fingerprint import kernels_fingerprint
from picoformer.estimate.inspection import estimate
from picoformer.estimate.made_up import made_up_graph
from picoformer.importing import import_model
from picoformer.targets import list_targets, load_target, resource_root

M4 = ("dsp", "generic")
M55 = ("mve", "dsp", "generic")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the C sources that fingerprints are taken of."""
    copy = Path(shutil.copytree(resource_root("firmware"), tmp_path / "firmware"))
    monkeypatch.setattr(fingerprint, "resource_root", lambda kind: copy)
    kernels_fingerprint.cache_clear()
    yield copy
    kernels_fingerprint.cache_clear()


def tracked() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(COSTS.read_text("utf-8"))["cores"]
    return found


def test_the_tracked_tables_are_of_these_kernels() -> None:
    stale = [key for key, one in tracked().items() if one["kernels"] != kernels_fingerprint(tuple(one["isa"]))]
    assert not stale, (
        f"measured on other kernels: {', '.join(stale)}; run: make costs (of these alone: make costs COSTS=--stale)"
    )


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_every_emulated_board_has_a_table_for_each_compiler(compiler: str) -> None:
    for name in list_targets():
        target = load_target(name)
        if not target.is_host and target.emulator is not None:
            table = cost_table(target, compiler)
            assert table is not None and table.key.endswith(f" {compiler}"), f"{name}: run: make costs"
            assert table.built_by == compiler and table.reservations == []


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    kernels_fingerprint.cache_clear()


def test_a_fingerprint_is_of_the_code_alone(firmware: Path) -> None:
    before = {isa: kernels_fingerprint(isa) for isa in (M4, M55)}
    table = firmware / "kernels" / "dsp" / "table.c"
    changed(table, "\n", "  \n/* why */\n")
    assert {isa: kernels_fingerprint(isa) for isa in (M4, M55)} == before
    changed(table, "}", ";}")
    assert kernels_fingerprint(M4) != before[M4]
    assert kernels_fingerprint(M55) == before[M55], "Helium has a table.c of its own"
    changed(firmware / "include" / "picoformer" / "fixedpoint.h", "return", "return 1 +")
    assert kernels_fingerprint(M55) != before[M55]


@pytest.mark.parametrize("name", ["linear_strip.c", "products.h"])
def test_what_kernels_share_counts(firmware: Path, name: str) -> None:
    before = kernels_fingerprint(M4)
    path = firmware / "kernels" / "dsp" / name
    path.write_text(path.read_text("utf-8") + "\nint more;\n", "utf-8")
    kernels_fingerprint.cache_clear()
    assert kernels_fingerprint(M4) != before


def test_a_formula_is_known_by_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    before, formula = kernels_fingerprint(M4), formulas.FORMULAS["pf_linear_"]
    try:
        for other, is_same in ((lambda s: list(formula(s)), True), (lambda s: formula(s)[::-1], False)):
            kernels_fingerprint.cache_clear()
            monkeypatch.setitem(formulas.FORMULAS, "pf_linear_", other)
            assert (kernels_fingerprint(M4) == before) is is_same
    finally:
        kernels_fingerprint.cache_clear()


def test_figures_of_other_kernels_are_said_to_be_that(monkeypatch: pytest.MonkeyPatch, workshop: Workshop) -> None:
    words = ["inspect", workshop.model, "--target", "mps2-an386", "--toolchain", "gcc"]
    fresh = succeeds(*words, "--json").record
    assert fresh["costs_are_stale"] is False and fresh["reservations"] == []
    cores = {key: {**one, "kernels": "0" * 16} for key, one in tracked().items()}
    monkeypatch.setattr(costs, "_cores", lambda: cores)
    stale = succeeds(*words, "--json").record
    assert stale["costs_are_stale"] is True and stale["instructions"] == fresh["instructions"]
    assert (
        "costs: measured on other kernels than these; to measure anew: make costs COSTS=--stale" in succeeds(*words).out
    )


def test_an_estimate_is_of_the_compiler_that_builds(monkeypatch: pytest.MonkeyPatch, workshop: Workshop) -> None:
    words = ["inspect", workshop.model, "--target", "mps2-an386", "--json"]
    code = {}
    for compiler in ("gcc", "zig"):
        said = succeeds(*words, "--toolchain", compiler).record
        assert said["compiler"] == compiler and compiler in said["costs"] and said["reservations"] == []
        code[compiler] = said["flash_bytes"]["code"]
    assert code["zig"] > 1.2 * code["gcc"]
    clang = succeeds(*words, "--toolchain", "clang").record
    assert clang["flash_bytes"]["code"] == code["zig"]
    assert clang["reservations"] == ["zig's code; a build here takes clang, whose code differs"]
    monkeypatch.setattr(costs, "kind_here", lambda target: "zig")
    assert succeeds(*words).record["flash_bytes"]["code"] == code["zig"]
    library = succeeds(*words[:3], "rp2040-pico", "--json").record
    assert library["compiler"] == "gcc", "an SDK brings its own compiler"
    assert picoformer(*words, "--toolchain", "tcc").code == 2


def test_code_of_zig_is_foretold(tmp_path: Path, workshop: Workshop) -> None:
    words = ["--calibration", workshop.calibration, "--target", "mps2-an386", "--toolchain", "zig"]
    said = succeeds("inspect", workshop.model, *words, "--json").record
    made = succeeds("build", workshop.model, *words, "-o", tmp_path / "out", "--json").record
    assert said["flash_bytes"]["code"] == pytest.approx(made["flash_bytes"]["code"], rel=0.05)
    assert said["image"]["flash"]["bytes"] == pytest.approx(made["flash_bytes"]["total"], rel=0.03)


def test_cycles_are_those_of_the_chips_multiplier(workshop: Workshop) -> None:
    pico = load_target("rp2040-pico")
    graph = made_up_graph(import_model(workshop.model), "int8")
    low, high = (estimate(graph, pico.model_copy(update={"multiply_cycles": n}), "int8").cycles for n in (1, 32))
    assert low is not None and high is not None and low[0] == low[1] < high[0] == high[1]
    assert estimate(graph, pico.model_copy(update={"multiply_cycles": 0}), "int8").cycles == (low[0], high[0])
    assert pico.multiply_cycles == 1
