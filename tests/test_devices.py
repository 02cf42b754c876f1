"""What is connected, the port that a target means, programs of others, and the table of boards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from command_line import picoformer, refuses, succeeds
from picoformer.errors import ConfigError, DeviceError, ToolError
from picoformer.flash import devices
from picoformer.flash.bossac import Bossac
from picoformer.flash.devices import Port, choose_port, look
from picoformer.flash.interface import Flasher, Image, Job, Segment
from picoformer.flash.program import find, last_words, run
from picoformer.flash.pyocd import Pyocd
from picoformer.flash.registry import FLASHERS, flasher
from picoformer.flash.usb_ids import IDS
from picoformer.targets import list_targets, load_target
from simulated_drive import UF2_TEXT, SimulatedDrive

VECTORS = bytes.fromhex("0000042001010000")


def port(device: str, vid: int | None, pid: int | None, **more: str) -> SimpleNamespace:
    """A port as pyserial describes it."""
    text = {"manufacturer": None, "product": None, "description": "n/a", "serial_number": None}
    return SimpleNamespace(device=device, vid=vid, pid=pid, **{**text, **more})


PORTS = [
    port("/dev/ttyS0", None, None),
    port("/dev/ttyACM0", 0x2341, 0x805A, serial_number="9E5F"),
    port("/dev/ttyACM1", 0x0483, 0x374B, serial_number="066C"),
    port("/dev/ttyUSB0", 0x10C4, 0xEA60, serial_number="0001"),
    port("/dev/ttyACM2", 0x2E8A, 0x1234),
    port("/dev/ttyACM3", 0x1234, 0x5678, manufacturer="Some\x1b[31m", product="Thing"),
]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    found = list(PORTS)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)
    return found


def test_ports_are_named_by_their_ids(connected: list[SimpleNamespace], tmp_path: Path, monkeypatch) -> None:
    drive = SimulatedDrive(tmp_path, "RPI-RP2")
    drive.appear(INFO_UF2=UF2_TEXT.format(board="RPI-RP2"))
    monkeypatch.setattr("picoformer.flash.pyocd.find", _missing)
    record = look(drive.mounts).to_json()
    by_device = {entry["device"]: entry for entry in record["ports"]}
    assert list(by_device)[-1] == "/dev/ttyS0"
    assert by_device["/dev/ttyACM0"] == {
        "device": "/dev/ttyACM0", "usb": "2341:805a", "serial_number": "9E5F", "name": "Arduino Nano 33 BLE",
        "targets": ("arduino-nano-33-ble",), "is_bootloader": False,
    }  # fmt: skip
    assert "stm32f446-nucleo" in by_device["/dev/ttyACM1"]["targets"]
    assert by_device["/dev/ttyUSB0"]["name"] == "CP210x, a USB serial adapter"
    assert by_device["/dev/ttyACM2"]["targets"] == ("rp2040-pico", "rp2350-pico2")
    assert by_device["/dev/ttyACM3"]["name"] == "Some[31m Thing"
    assert record["drives"] == [
        {"folder": str(drive.folder), "kind": "uf2", "name": "Raspberry Pi RP2", "board": "RPI-RP2",
         "targets": ["rp2040-pico"]}
    ]  # fmt: skip
    assert record["probes"] == [] and "pip install pyocd" in record["notes"][0]


def _missing(names: list[str], module: str, mend: str) -> list[str]:
    raise ToolError(f"{names[0]} is not installed; {mend}")


def test_the_command_prints_a_line_for_each(connected: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picoformer.flash.pyocd.find", _missing)
    lines = succeeds("devices").out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["where", "/dev/ttyACM0", "/dev/ttyACM1"]
    assert "066C" in lines[2] and "ST-LINK V2-1 (Nucleo, Discovery)" in lines[2] and "stm32f446-nucleo" in lines[2]
    assert len(json.loads(succeeds("devices", "--json").out)["ports"]) == len(PORTS)
    connected.clear()
    assert succeeds("devices").out.startswith("nothing is connected")


@pytest.mark.parametrize(
    ("target", "method", "devices_there", "chosen"),
    [
        ("esp32-c3", "esptool", ["/dev/ttyUSB0", "/dev/ttyACM0"], "/dev/ttyUSB0"),
        ("arduino-nano-33-ble", "bossac", ["/dev/ttyUSB0", "/dev/ttyACM0", "/dev/ttyS0"], "/dev/ttyACM0"),
        ("stm32f446-nucleo", "stm32", ["/dev/ttyUSB0", "/dev/ttyACM1"], "/dev/ttyUSB0"),  # no ROM on the ST-LINK's
        ("stm32f446-nucleo", "stm32", ["/dev/ttyACM1"], "/dev/ttyACM1"),
        ("stm32f446-nucleo", "resident", ["/dev/ttyUSB0", "/dev/ttyACM1"], "/dev/ttyACM1"),  # but the wire is
    ],
)
def test_the_only_port_that_can_be_it_is_taken(
    connected: list[SimpleNamespace], target: str, method: str, devices_there: list[str], chosen: str
) -> None:
    ports = [entry for entry in devices.serial_ports() if entry.device in devices_there]
    assert choose_port(load_target(target), ports, method) == chosen


def test_several_ports_are_listed_and_none_is_said(connected: list[SimpleNamespace]) -> None:
    ports = devices.serial_ports()
    with pytest.raises(DeviceError, match=r"several serial ports can be esp32-c3: /dev/ttyACM3 .*ttyUSB0 .*--port"):
        choose_port(load_target("esp32-c3"), ports, "esptool")
    others = [entry for entry in ports if entry.device == "/dev/ttyACM0"]
    with pytest.raises(DeviceError, match=r"no serial port of esp32-c3 .*, only /dev/ttyACM0 .*hold BOOT"):
        choose_port(load_target("esp32-c3"), others, "esptool")
    with pytest.raises(DeviceError, match="nor any other on USB"):
        choose_port(load_target("esp32-c3"), [Port("/dev/ttyS0", "", "", "", (), False)], "esptool")


def test_every_board_says_how_it_is_flashed() -> None:
    """Kinds that are there, a text for a person, ids of boards that exist."""
    for name in list_targets():
        choice = load_target(name).flasher
        if choice is None:
            continue
        assert {choice.kind, *choice.others} <= set(FLASHERS) and choice.enter
        assert not (choice.kind in ("uf2", "daplink") and not choice.drives)
    assert {target for entry in IDS.values() for target in entry.targets} <= set(list_targets())
    for kind in set(FLASHERS) - {"resident"}:
        made = flasher(kind)
        assert isinstance(made, Flasher) and made.kind == kind
    with pytest.raises(ConfigError, match=r"unknown way of flashing 'magic'; use one of stm32"):
        flasher("magic")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "nothing: is not there"),
        (["x.bin", "--address", "0", "--target", "microbit"], "4 bytes at the start of flash are no firmware"),
        (["x.bin", "--address", "0"], "does not say which board it is for; give --target, one of arduino-nano-33-ble"),
        (["x.bin", "--address", "0", "--target", "host"], "host is this machine"),
        (
            ["x.bin", "--address", "0", "--target", "coral-dev-board-micro"],
            "cannot be flashed from here; use the tools of",
        ),
        (["x.bin", "--address", "0", "--target", "mps2-an386"], "cannot be flashed from here; use a TOML"),
        (
            ["x.bin", "--address", "0", "--target", "microbit", "--method", "uf2"],
            "microbit is flashed by daplink or pyocd",
        ),
    ],
)
def test_what_cannot_be_flashed_is_refused(words: list[str], said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"data")
    refuses(["flash", *words], said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "microbit", "--wiring", "reset=dtr"], "--wiring says nothing to daplink"),
        (["--target", "microbit", "--baud", "9600"], "--baud says nothing to daplink"),
        (["--target", "microbit", "--all"], "--all says nothing to daplink"),
        (["--target", "microbit", "--method", "pyocd", "--port", "/dev/ttyS0"], "pyocd takes the id of a debug probe"),
        (["--target", "stm32f446-nucleo", "--all"], "--all says nothing to stm32"),
        (["--target", "stm32f446-nucleo", "--wiring", "magic"], "--wiring magic: write boot0=LINE"),
    ],
)
def test_options_that_a_way_in_does_not_heed_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"data")
    refuses(["flash", tmp_path / "x.bin", "--address", "0", *words, "--dry-run"], said)


def test_the_folder_of_a_bootloader_names_the_file_to_give(tmp_path: Path) -> None:
    (tmp_path / "bootloader.hex").write_text(":00000001FF\n")
    refuses(
        ["flash", tmp_path, "--target", "microbit"], "is a bootloader's folder; give", "bootloader.hex and --target"
    )


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("x", "-1", "0x100000000"):
        answer = picoformer("flash", tmp_path, f"--address={text}")
        assert answer.code == 2 and "--address" in answer.err


def program(place: Path, name: str, body: str) -> Path:
    """A Python program that stands for one of others; `words` are its arguments."""
    path = place / name
    path.write_text(f"#!{sys.executable}\nimport sys, pathlib\nwords = sys.argv[1:]\n{body}\n")
    path.chmod(0o755)
    return path


PYOCD = """
import json
log = pathlib.Path(__file__).with_name("log")
log.open("a").write(repr(words) + "\\n")
memory = pathlib.Path(__file__).with_name("memory")
if words[0] == "json":
    print("warning\\n" + json.dumps({"status": 0, "boards": [{"unique_id": "ABC", "info": "CMSIS-DAP"}] * PROBES}))
elif words[0] == "load":
    if FAIL: print("0001234 C Target type nrf51 not recognized. [__main__]"); sys.exit(1)
    memory.write_bytes(pathlib.Path(words[-1]).read_bytes())
    print("[====] 100%")
else:
    for text in words:
        if text.startswith("savemem"):
            _, start, size, file = text.split()
            import picoformer.flash.intel_hex as h
            s, _ = h.read_hex(memory.read_bytes(), memory)
            flat = b"".join(x.data for x in s)
            pathlib.Path(file).write_bytes(flat[:-1] + b"?" if SPOIL else flat)
"""


@pytest.mark.parametrize(
    ("probes", "fail", "spoil", "said"),
    [
        (1, 0, 0, ""),
        (0, 0, 0, "no debug probe is connected; plug the board in"),
        (2, 0, 0, r"several debug probes: ABC \(CMSIS-DAP\), ABC .*--port ID"),
        (1, 2, 0, "no debug probe has the id XYZ; there are ABC"),
        (1, 1, 0, "not recognized.*pyocd pack install nrf51"),
        (1, 0, 1, "does not hold what was written at 0x00000000"),
    ],
)
def test_pyocd_is_called_and_what_it_wrote_is_read_back(
    probes: int, fail: int, spoil: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "pyocd", f"PROBES, FAIL, SPOIL = {probes}, {fail}, {spoil}\n{PYOCD}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    image = Image(Path("x.elf"), (Segment(0, bytes.fromhex("0040002001010000") + bytes(range(256)) * 3),))
    job = Job(image, load_target("microbit"), "XYZ" if fail == 2 else "")
    if said:
        with pytest.raises((DeviceError, ToolError), match=said):
            Pyocd().flash(job)
        return
    outcome = Pyocd().flash(job)
    assert outcome.verified == "read back through the probe, every byte" and outcome.started
    load = (tmp_path / "log").read_text().splitlines()[1]
    assert load.startswith("['load', '-W', '-t', 'nrf51', '-u', 'ABC', '-e', 'sector', '--no-reset', '--format', 'hex'")
    assert (tmp_path / "log").read_text().rstrip().endswith("'-c', 'reset']")


BOSSAC = """
pathlib.Path(__file__).with_name("log").write_text(repr(words))
path = [word for word in words if word.endswith(".bin")]
pathlib.Path(__file__).with_name("memory").write_bytes(pathlib.Path(path[0]).read_bytes())
print(SAYS)
"""


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ("Erase flash\\nWrite 70 bytes\\n[==] 100% (1/1 pages)\\nVerify successful", ""),
        ("No device found on ttyACM5", "bossac: No device found on ttyACM5; press the board's button twice"),
        ("Device unsupported", "does not know the chip .*arduino-cli core install"),
    ],
)
def test_arduinos_board_is_touched_and_written_by_bossac(
    says: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connected: list[SimpleNamespace]
) -> None:
    program(tmp_path, "bossac", f"SAYS = '{says}'\n{BOSSAC}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))

    def touched(url: str) -> None:
        assert url == "/dev/ttyACM0"
        connected[1] = port("/dev/ttyACM5", 0x2341, 0x005A)

    monkeypatch.setattr("picoformer.flash.bossac.touch", touched)
    pieces = (Segment(0x10000, VECTORS[:4] + bytes.fromhex("01010100") + b"code"), Segment(0x10020, b"data"))
    job = Job(Image(Path("x.elf"), pieces), load_target("arduino-nano-33-ble"), "/dev/ttyACM0")
    if said:
        with pytest.raises((DeviceError, ToolError), match=said):
            Bossac().flash(job)
        return
    assert Bossac().flash(job).verified == "bossac read it back"
    wanted = pieces[0].data + b"\xff" * 20 + b"data"
    assert (tmp_path / "memory").read_bytes() == wanted
    log = (tmp_path / "log").read_text()
    assert "--port=ttyACM5" in log and "'-e', '-w', '-v'" in log and log.endswith("'-R']")


def test_a_dry_run_says_which_program_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.bin").write_bytes(bytes.fromhex("0040002001010000"))
    words = ["flash", tmp_path / "x.bin", "--address", "0", "--target", "microbit", "--method", "pyocd", "--dry-run"]
    program(tmp_path, "pyocd", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" not in succeeds(*words).out
    (tmp_path / "pyocd").unlink()
    assert "  before that: pyocd is not installed; pip install pyocd" in succeeds(*words).out


def test_a_program_that_hangs_is_stopped(tmp_path: Path) -> None:
    path = program(tmp_path, "slow", "print('begun', flush=True)\nimport time\ntime.sleep(60)")
    lines: list[str] = []
    with pytest.raises(ToolError, match=r"slow was still busy after 1 s"):
        run([str(path)], "slow", 1, lines.append)
    assert lines == ["begun"]


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match="nosuch is not installed; buy it"):
        find(["nosuch"], "no_such_module", "buy it")
    assert find(["nosuch"], "json", "") == [sys.executable, "-m", "json"]
    assert last_words("one\nA fatal error occurred: no\n\nbye\n", "x") == "A fatal error occurred: no"
    assert last_words("", "x") == "x said nothing"
