"""`pi deploy` into a sandbox: what arrives, what is not done twice, what is left when a line drops, what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pi_bundles
from board_sandbox import Board, make_board
from command_line import picoformer, refuses, succeeds
from picoformer.cli import main
from picoformer.deployment import prepare, way_back
from picoformer.deployment.pins import PINS, requirements
from picoformer.deployment.unit import unit_text
from picoformer.deployment.wheel import wheel_bytes

HOST = "pi@board.example"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pi_bundles.texts(tmp_path_factory.mktemp("bundles"), "classify")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pi_bundles.texts(tmp_path_factory.mktemp("bundles"), "embed")


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rsync_tools: None) -> Board:
    found = make_board(tmp_path / "board")
    monkeypatch.setenv("PATH", f"{found.path}{os.pathsep}{os.environ['PATH']}")
    return found


def deploys(bundle: Path, *more: str) -> Any:
    """Deploy, which must succeed; the record."""
    answer = picoformer("pi", "deploy", bundle, HOST, "--yes", "--json", *more)
    assert answer.code == 0, answer.err
    return answer.record


def current(board: Board, folder: str = "picoformer", link: str = "current") -> Path | None:
    """The version in force, which must be whole; None where there is none."""
    path = board.home / folder / link
    if not path.is_symlink():
        return None
    assert (path / "bundle" / "bundle.json").is_file() and (path / "venv" / "complete").is_file()
    return path.resolve()


def same_files(bundle: Path, there: Path) -> bool:
    names = {path.name for path in bundle.iterdir()}
    return names == {path.name for path in there.iterdir()} and all(
        (bundle / name).read_bytes() == (there / name).read_bytes() for name in names
    )


def test_all_that_is_needed_arrives(board: Board, bundle: Path) -> None:
    answer = picoformer("pi", "deploy", bundle, HOST, "--yes")
    assert answer.code == 0, answer.err
    assert "  equal: as packed" in answer.out and "  a table of" in answer.out
    assert set(board.hosts()) == {HOST} and board.copies() == 2
    version = current(board)
    assert version is not None and same_files(bundle, version / "bundle")
    words = (version / "venv" / "pip").read_text().splitlines()
    assert words[:3] == ["-m", "pip", "install"] and {"--no-deps", "--only-binary=:all:", *requirements()} <= set(words)
    assert (version / "venv" / "wheel.whl").read_bytes() == wheel_bytes()
    assert [path.name for path in board.home.iterdir()] == ["picoformer"]
    left = {path.name for path in (board.home / "picoformer").iterdir()}
    assert left == {"bundles", "current", "venvs", "versions", "wheels"}
    assert not list((board.home / "picoformer" / "wheels").iterdir())


def test_the_second_time_copies_nothing(board: Board, bundle: Path) -> None:
    deploys(bundle)
    before = {path: path.lstat().st_mtime_ns for path in board.home.rglob("*")}
    board.forget()
    record = deploys(bundle)
    assert record["ran"] == ["probe", "check", "bench"]
    assert {"wheel", "environment", "bundle", "switch"} <= set(record["there_already"])
    assert board.copies() == 0 and len(board.hosts()) == 3
    assert {path: path.lstat().st_mtime_ns for path in board.home.rglob("*")} == before
    answer = picoformer("pi", "deploy", bundle, HOST, "--yes")
    assert "copy the bundle: done before, nothing to do" in answer.out


def test_the_version_before_stays_and_is_the_way_back(board: Board, bundle: Path, other: Path, tmp_path: Path) -> None:
    deploys(bundle)
    first = current(board)
    record = deploys(other)
    second = current(board)
    assert "environment" in record["there_already"] and "bundle" in record["ran"]
    assert second is not None and same_files(other, second / "bundle") and first != second
    assert current(board, link="previous") == first
    subprocess.run(record["back"], check=True)
    assert current(board) == first and current(board, link="previous") == second
    subprocess.run(way_back(prepare(bundle, HOST, "picoformer", None, False).place), check=True)
    assert current(board) == second
    deploys(_renamed(bundle, tmp_path / "third"))
    assert current(board, link="previous") == second
    kept = board.home / "picoformer"
    assert len(list((kept / "versions").iterdir())) == len(list((kept / "bundles").iterdir())) == 2
    assert len(list((kept / "venvs").iterdir())) == 1


def _renamed(bundle: Path, folder: Path) -> Path:
    """A bundle of another content."""
    shutil.copytree(bundle, folder)
    description = folder / "bundle.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "name": "renamed"}))
    return folder


@pytest.mark.parametrize("when", ["drop-before", "drop-after"])
def test_a_line_that_drops_anywhere_leaves_something_whole(
    tmp_path: Path, bundle: Path, other: Path, when: str, monkeypatch: pytest.MonkeyPatch, rsync_tools: None
) -> None:
    """Before the n-th command there, or after it and before its answer; then the same command again."""
    path = os.environ["PATH"]
    for at in range(1, 99):
        board = make_board(tmp_path / f"board-{at}")
        monkeypatch.setenv("PATH", f"{board.path}{os.pathsep}{path}")
        if at % 2:
            deploys(bundle)
        old = current(board)
        board.forget()
        board.say(when, str(at))
        answer = picoformer("pi", "deploy", other, HOST, "--yes", "--json")
        if at > len(board.hosts()):
            assert answer.code == 0
            break
        assert answer.code == 1 and "it goes on from here" in answer.err.splitlines()[-1], answer.err
        assert current(board) == old or current(board) is not None
        board.say(when, "-")
        deploys(other)
        version = current(board)
        assert version is not None and same_files(other, version / "bundle")
        assert not list((board.home / "picoformer" / "bundles").glob("*.part"))
    assert 7 < at < 20


def test_a_model_that_answers_otherwise_there_is_not_taken(board: Board, bundle: Path, other: Path) -> None:
    deploys(bundle)
    old = current(board)
    board.say("unequal")
    answer = picoformer("pi", "deploy", other, HOST, "--yes")
    assert answer.code == 1 and "NOT equal" in answer.err and len(answer.err.splitlines()) == 1
    assert current(board) == old and current(board, link="previous") is None


def fails(bundle: Path, *said: str) -> None:
    """One line on standard error, at the end of what was told."""
    answer = picoformer("pi", "deploy", bundle, HOST, "--yes")
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith(f"picoformer: {HOST}: ") and all(text in line for text in said), line


def test_a_full_disk_is_named(board: Board, bundle: Path) -> None:
    board.say("no-space")
    fails(bundle, "make the virtual environment", "no space left")
    assert current(board) is None
    board.program("df", "#!/bin/sh\necho Filesystem\necho /dev/root 1000 900 1234 90% /\n")
    fails(bundle, "1,263,616 are free")
    (board.folder / "bin" / "df").unlink()
    (board.folder / "bin" / "df").symlink_to("/bin/df")
    board.program("rsync", "#!/bin/sh\necho 'rsync: write failed: No space left on device (28)' >&2\nexit 11\n")
    fails(bundle, "copy picoformer", "no space left")


def test_a_machine_that_is_no_such_board_is_refused_before_anything_is_written(board: Board, bundle: Path) -> None:
    board.program("uname", "#!/bin/sh\necho armv7l\n")
    fails(bundle, "is armv7l", "64-bit")
    board.program("uname", "#!/bin/sh\necho aarch64\n")
    board.say("no-venv")
    fails(bundle, "python3-venv")
    (board.folder / "no-venv").unlink()
    rsync = board.folder / "bin" / "rsync"
    rsync.unlink()
    fails(bundle, "no rsync")
    rsync.symlink_to("/usr/bin/rsync")
    board.program("python3", "#!/bin/sh\necho 3.9\n")
    fails(bundle, "has Python 3.9")
    board.program("python3", "#!/bin/sh\nexit 127\n")
    fails(bundle, "no python3")
    board.program("sh", "#!/bin/false\n")
    fails(bundle, "exit code")
    assert not list(board.home.iterdir())


def test_without_ssh_or_rsync_here(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refuses(["pi", "deploy", bundle, HOST, "--yes", "--json"], "ssh is not installed", "openssh-client")


HOSTS = ["-oProxyCommand=touch", "pi@-oProxyCommand=touch", "pi@", "@board", "a b", "pi@a;b", "pi@a:b", "pi@a/b",
         "pi@a\n", "$(touch a)", "a'b", ""]  # fmt: skip
FOLDERS = ["", "/", "-x", "~/x", "../x", "a/../b", "./x", "a\nb", "a\x1bb", "é", "a" * 201, "a\\b"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_ssh_might_misread_is_refused(board: Board, bundle: Path, host: str) -> None:
    refuses(["pi", "deploy", "--yes", "--", bundle, host], "USER@HOST")
    assert board.hosts() == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_a_shell_might_misread_is_refused(board: Board, bundle: Path, folder: str) -> None:
    refuses(["pi", "deploy", "--yes", f"--dir={folder}", bundle, HOST], "--dir")
    assert board.hosts() == []


def test_names_with_blanks_and_quotes_are_names(board: Board, bundle: Path, tmp_path: Path) -> None:
    odd = 'it\'s a "dir" $(touch pwned) `touch pwned`; touch pwned & *'
    here = tmp_path / "my 'bundle' \"x\" $(touch pwned):y"
    here.mkdir()
    for path in bundle.iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    for folder in (odd, str(board.home / "else" / odd)):
        record = deploys(here, "--dir", folder)
        relative = folder if folder == odd else f"else/{odd}"
        version = current(board, relative)
        assert version is not None and same_files(bundle, version / "bundle")
        assert record["dir"] == folder
    assert deploys(here, "--dir", odd)["ran"] == ["probe", "check", "bench"]
    assert not list(tmp_path.rglob("pwned")) and not Path("pwned").exists()
    assert {path.name for path in board.home.iterdir()} == {odd, "else"}
    served = "a (b) `touch pwned` & *;"
    deploys(here, "--dir", served, "--systemd")
    assert current(board, served) is not None and not list(tmp_path.rglob("pwned"))


def test_a_dry_run_prints_the_commands_and_runs_none(board: Board, bundle: Path) -> None:
    out = succeeds("pi", "deploy", bundle, HOST, "--dry-run", "--systemd").out
    assert board.hosts() == [] and not list(board.home.iterdir())
    commands = [list(step.command) for step in prepare(bundle, HOST, "picoformer", (8080, "127.0.0.1"), False).steps]
    for command in commands:
        assert shlex.join(command) in out
    record = succeeds("pi", "deploy", bundle, HOST, "--dry-run", "--systemd", "--json").record
    assert [entry["command"] for entry in record["commands"]][1] == commands[1]


def test_who_says_no_has_run_nothing(board: Board, bundle: Path) -> None:
    for answer in ("n\n", ""):
        result = CliRunner().invoke(main, ["pi", "deploy", str(bundle), HOST], input=answer)
        assert result.exit_code == 130 and board.hosts() == []
    result = CliRunner().invoke(main, ["pi", "deploy", str(bundle), HOST], input="y\n")
    assert result.exit_code == 0 and current(board) is not None


def test_options_that_do_not_go_together(board: Board, bundle: Path) -> None:
    refuses(["pi", "deploy", bundle, HOST, "--json"], "--yes")
    refuses(["pi", "deploy", bundle, HOST, "--port", "9000"], "--systemd")
    refuses(["pi", "deploy", bundle, HOST, "--systemd", "--listen", "a b", "--yes"], "--listen")


def test_a_broken_bundle_does_not_leave(board: Board, bundle: Path, tmp_path: Path) -> None:
    here = tmp_path / "bundle"
    here.mkdir()
    for path in bundle.iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    (here / "model.onnx").write_bytes(b"x")
    refuses(["pi", "deploy", here, HOST, "--yes"], "model.onnx")
    assert board.hosts() == []


def test_the_service_is_the_users_own_and_may_little(board: Board, bundle: Path) -> None:
    deploys(bundle, "--systemd", "--port", "9001")
    text = (board.home / ".config/systemd/user/picoformer.service").read_text()
    entries = [line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#")]
    values = dict(entries)
    words = shlex.split(values["ExecStart"].replace("%h", str(board.home)))
    assert Path(words[0]).samefile(board.home / "picoformer/current/venv/bin/python")
    assert words[1:5] == ["-m", "picoformer", "pi", "serve"] and words[6:] == ["--host", "127.0.0.1", "--port", "9001"]
    assert Path(words[5]).samefile(board.home / "picoformer/current/bundle")
    for name, value in {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "read-only",
                        "Restart": "on-failure", "RestrictSUIDSGID": "yes"}.items():  # fmt: skip
        assert values[name] == value
    said = (board.folder / "services").read_text().splitlines()
    assert said == ["loginctl enable-linger", "systemctl --user daemon-reload",
                    "systemctl --user enable --quiet -- picoformer.service",
                    "systemctl --user restart -- picoformer.service",
                    "systemctl --user is-active -- picoformer.service"]  # fmt: skip
    board.program("systemctl", "#!/bin/sh\ncase $2 in is-active) echo failed; exit 3 ;; esac\n")
    fails_with = picoformer("pi", "deploy", bundle, HOST, "--yes", "--systemd")
    assert fails_with.code == 1 and "start the service" in fails_with.err


def test_the_unit_takes_no_name_for_a_command(bundle: Path) -> None:
    """As systemd.unit(5) reads it: % doubled, one word in quotation marks; what it would not start is refused."""
    place = prepare(bundle, HOST, "a (b) 50% `x` & *;", None, False).place
    line = next(line for line in unit_text(place, 8080, "::1").splitlines() if line.startswith("ExecStart="))
    assert line.startswith('ExecStart="%h/a (b) 50%% `x` & *;/current/venv/bin/python" -m picoformer pi serve "%h/a (b')
    assert place.service == "picoformer-a-b-50-x.service"
    for folder in ("it's", 'a "b"', "$HOME"):
        refuses(["pi", "deploy", bundle, HOST, "--systemd", "--dry-run", "--dir", folder], "--dir", "systemd")


def test_the_pins_are_what_the_package_asks_for() -> None:
    """Base and the extra `pi` of pyproject.toml, each at least as new as is asked there."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    asked = dict(line.split(">=") for line in project["dependencies"] + project["optional-dependencies"]["pi"])
    assert set(asked) == set(PINS)
    for name, version in PINS.items():
        assert [int(part) for part in version.split(".")] >= [int(part) for part in asked[name].split(".")]


def test_the_wheel_is_a_wheel_of_these_sources() -> None:
    data = wheel_bytes()
    assert data == wheel_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert {"picoformer/cli.py", "picoformer/raspberry_pi/runner.py", "picoformer/py.typed"} <= set(names)
        assert not [name for name in names if "__pycache__" in name or "/_data/" in name]
        record = next(name for name in names if name.endswith("RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
        assert set(rows) == set(names)
        for name in set(names) - {record}:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert rows[name] == [f"sha256={digest}", str(len(content))]
        assert re.search(rb"^Version: 0\.", archive.read(record.replace("RECORD", "METADATA")), re.M)


@pytest.mark.slow
def test_with_a_real_environment_the_pins_are_enough(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, rsync_tools: None
) -> None:
    """venv and pip as they are, from the index: the wheel installs, and nothing but the pins is needed to run."""
    board = make_board(tmp_path / "board", real_python=True)
    monkeypatch.setenv("PATH", f"{board.path}{os.pathsep}{os.environ['PATH']}")
    record = deploys(bundle)
    assert json.loads(record["check"])["passed"] and json.loads(record["bench"])
    version = current(board)
    assert version is not None
    listed = subprocess.run(
        [version / "venv/bin/python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    installed = {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}
    wanted = dict(line.split("==") for line in requirements())
    assert wanted.items() <= installed.items() and set(installed) - set(wanted) <= {"picoformer", "pip", "setuptools"}
