"""Watching a device: the line to a board or an emulator, and the names that its faults are told with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from picoformer.build_folder import HOST, read_target
from picoformer.build_memory import read_memory
from picoformer.emulator.session import emulator_for
from picoformer.emulator.symbols import symbolize
from picoformer.errors import ConfigError, DeviceError, ModelError
from picoformer.firmware import FirmwareBuild, load_build
from picoformer.link.faults import explain
from picoformer.link.messages import Fault, TensorInfo
from picoformer.link.monitor import Event, watch
from picoformer.link.transport import DEFAULT_BAUD, SerialTransport, TransportClosed
from picoformer.targets import Target, load_target, stand_in


def monitor_device(
    folder: Path | None,
    port: str | None,
    target: str | None = None,
    baud: int | None = None,
    seconds: float | None = None,
    emulator: str = "auto",
) -> Iterator[Event]:
    """What comes from the board on `port`, or from the build in `folder` in its `emulator`, for so many `seconds`.

    `folder` gives faults the names of functions and steps. Raises ConfigError where there is nothing to watch, and
    DeviceError when the port cannot be opened at first or emulated firmware ends.
    """
    board = _board(folder, target)
    if port is not None:
        rate = baud or (board.uart.baud if board is not None and board.uart else DEFAULT_BAUD)

        def open_port() -> SerialTransport:
            return SerialTransport(port, rate)

        yield from watch(open_port(), seconds=seconds, explain=_teller(folder, board), reopen=open_port)
        return
    if folder is None or board is None:
        raise ConfigError("there is nothing to watch: give --port, or the folder of a build, which then runs here")
    runs = board if board.is_host else stand_in(board)
    running = emulator_for(runs, count=False, choice=emulator).start(load_build(folder / runs.name, runs).elf, runs)
    try:
        yield from watch(running.transport, seconds=seconds, explain=_teller(folder, runs))
    except TransportClosed:
        raise DeviceError(f"the device died: {running.post_mortem()}") from None
    finally:
        running.close()


def _board(folder: Path | None, name: str | None) -> Target | None:
    """The target that is watched; None where nothing says which."""
    built = None if folder is None else read_target(folder)
    if name is None:
        return built
    if built is None or name == HOST:
        return load_target(name)
    if name != built.name:
        raise ConfigError(f"the build in {folder} is for {built.name} and for host, not for {name}")
    return built


def _teller(folder: Path | None, board: Target | None) -> Callable[[Fault], str]:
    """What says in one line what a fault is, with names where the folder has them."""
    firmware: FirmwareBuild | None = None
    steps: list[TensorInfo] = []
    if folder is not None and board is not None:
        try:
            firmware = load_build(folder / board.name, board)
            steps = [TensorInfo(entry["step"], 0, entry["bytes"]) for entry in read_memory(folder / board.name)["live"]]
        except ModelError:
            pass  # a library: the SDK's program has the addresses

    def name(address: int) -> str:
        return "" if firmware is None else symbolize(firmware.elf, address)

    def tell(fault: Fault) -> str:
        return explain(fault, name, steps, "cortex_m" if board is None else board.port)

    return tell
