"""Recording a label: from a board and its line, however bad, to windows in a file."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from picoformer.captured_file import CaptureFile, open_capture
from picoformer.errors import ConfigError, DeviceError
from picoformer.link.capture import MOST_RATE, CaptureDevice, SensorDescription, Statistics
from picoformer.link.device import Device, NoAnswerError, RestartedError
from picoformer.link.transport import SerialTransport, reopen_serial
from picoformer.recording import Recording
from picoformer.targets import Target, stand_in

MOST_BREAKS = 10
"""How often a device may begin anew in one recording."""
REOPEN_SECONDS = 5.0
"""What a port that went away gets to come back."""
MOST_NUMBERS = 1 << 28
"""Of one recording: a gigabyte of int32."""

Watch = Callable[[Recording, float], None]
"""Told of a recording after each frame, and for how many seconds it has been going on."""


@dataclass(frozen=True)
class CaptureOptions:
    """What is recorded, and as what. `window` readings a sample, one every `stride` (0: a window); 0: each reading is a
    sample. `rate` in readings a second (None: the sensor's usual ones). `input_name`: the model's input."""

    label: str
    seconds: float = 10.0
    window: int = 0
    stride: int = 0
    rate: Fraction | None = None
    setting: int = 0
    input_name: str = "x"
    append: bool = False
    as_csv: bool = False

    def check(self) -> None:
        """Raise ConfigError for options that say nothing together."""
        if not self.label or not self.label.isprintable() or len(self.label) > 64:
            raise ConfigError(f"--label {self.label!r}: give a name of at most 64 letters that can be printed")
        if self.stride and not self.window:
            raise ConfigError("--stride says where windows begin; give --window as well")
        if self.stride > self.window:
            raise ConfigError(f"--stride {self.stride} leaves readings out between windows of {self.window}; lower it")
        if self.as_csv and self.window:
            raise ConfigError("--csv writes a row for each reading; leave --window out")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"--seconds {self.seconds:g}: give a number above 0")
        if self.rate is not None and not (0 < self.rate.numerator <= MOST_RATE and self.rate.denominator <= MOST_RATE):
            raise ConfigError(f"--rate {float(self.rate):g}: give a number above 0, with fewer digits")


def as_rate(hertz: float) -> Fraction:
    """Readings a second as the wire has them; ConfigError for no such number."""
    if not (math.isfinite(hertz) and 0 < hertz < MOST_RATE):
        raise ConfigError(f"--rate {hertz:g}: give a number above 0")
    return Fraction(hertz).limit_denominator(10_000)


@contextlib.contextmanager
def open_capture_device(port: str | None, baud: int, firmware: Path | None) -> Iterator[CaptureDevice]:
    """The board on a serial port, or what `capture-firmware` built in its emulator."""
    if port is not None and firmware is not None:
        raise ConfigError("--port is a board and --firmware runs in the emulator; keep one")
    with contextlib.ExitStack() as stack:
        if port is not None:
            device = Device(SerialTransport(port, baud), reopen=lambda: reopen_serial(port, baud, REOPEN_SECONDS))
            stack.callback(device.close)
        elif firmware is not None:
            from picoformer.build_folder import read_target
            from picoformer.capture_firmware import MARK
            from picoformer.emulator.session import open_device
            from picoformer.firmware import load_build

            if not (firmware / MARK).is_file():
                raise ConfigError(f"{firmware}: is no folder of `capture-firmware`; build one, or give --port")
            target = read_target(firmware)
            if stand_in(target) is not target:
                raise ConfigError(f"{target.name} has no emulator; build for {target.stands_in}, or give --port")
            build = load_build(firmware / target.name, target)
            own = with_own_time(target)  # unicorn takes firmware that looks for a byte for one that waits
            device = stack.enter_context(open_device(build, own, count=False, emulator="qemu")).device
        else:
            raise ConfigError("say where the sensor is: --port of a board, or --firmware for the emulator")
        yield CaptureDevice(device)


def with_own_time(target: Target) -> Target:
    """An emulated board whose time is that of the instructions it runs, not of this machine: QEMU then counts one as
    2^n ns, near the clock that the target states. So no reading is late because this machine is busy."""
    emulator = target.emulator
    if emulator is None or emulator.kind != "qemu" or "-icount" in emulator.args:
        return target
    shift = max(0, round(math.log2(1e9 / target.clock_hz)))
    args = [*emulator.args, "-icount", f"shift={shift}"]
    return target.model_copy(update={"emulator": emulator.model_copy(update={"args": args})})


def capture_files(
    device: CaptureDevice,
    out: Path,
    options: CaptureOptions,
    begin: Callable[[SensorDescription], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Record one label and write, or add, it to `out`, an .npz of windows or a CSV of readings.

    `begin` is called before the first reading, with everything checked that can be. An interrupt ends the recording and
    keeps it (`stopped` in the figures); so does a device that fails, with its DeviceError raised afterwards. DataError
    for a file that is there already, or that this recording does not go with: nothing is recorded then.
    """
    options.check()
    sensor = device.describe(options.setting)
    rate = sensor.rate if options.rate is None else options.rate
    file = open_capture(out, sensor, rate, options.window, options.stride or options.window, options.input_name,
                        append=options.append, as_csv=options.as_csv)  # fmt: skip
    places = math.ceil(Fraction(str(options.seconds)) * rate)  # 0.1 is a tenth here
    if places * len(sensor.channels) > MOST_NUMBERS or places >= 1 << 32:
        raise ConfigError(f"--seconds {options.seconds:g} at {float(rate):g} Hz are too many readings; record in parts")
    if places < max(options.window, 1):
        needed = float(options.window / rate)
        raise ConfigError(f"--seconds {options.seconds:g} hold no window of {options.window}; give {needed:g} or more")
    if begin is not None:
        begin(sensor)
    recording, failure, is_stopped = Recording(sensor, places), None, False
    try:
        _record(device, recording, options, watch)
    except KeyboardInterrupt:
        is_stopped = True
        with contextlib.suppress(DeviceError):
            recording.end(replace(device.stop(), places=0))  # what was on its way was not asked for any more
    except DeviceError as error:
        failure = error
    figures = _write(file, recording, options, rate)
    if failure is not None:
        kept = f"; what came before is in {out}" if figures["samples"] else ""
        raise DeviceError(f"after {recording.places} of {places} readings: {failure}{kept}") from failure
    return {**figures, "stopped": is_stopped}


def _record(device: CaptureDevice, recording: Recording, options: CaptureOptions, watch: Watch | None) -> None:
    began = time.monotonic()
    for _ in range(1 + MOST_BREAKS):
        try:
            parts = device.record(recording.sensor, recording.most - recording.places, options.rate, options.setting)
            for part in parts:
                if isinstance(part, Statistics):
                    recording.end(part)
                else:
                    recording.add(part)
                if watch is not None:
                    watch(recording, time.monotonic() - began)
        except RestartedError:
            pass
        except NoAnswerError:  # the end was lost, or the device hangs: then this raises
            recording.end(device.stop())
        if recording.places == recording.most:
            return
        recording.begin_anew()
    raise DeviceError(f"the recording broke off {1 + MOST_BREAKS} times; check the line and the board's supply")


def _write(file: CaptureFile, recording: Recording, options: CaptureOptions, rate: Fraction) -> dict[str, Any]:
    sensor = recording.sensor
    samples, dropped = file.add(options.label, recording)
    return {
        "file": str(file.path),
        "label": options.label,
        "sensor": sensor.name,
        "channels": [f"{c.name} [{c.unit}]" if c.unit else c.name for c in sensor.channels],
        "rate_hz": float(rate),
        "paced": sensor.is_paced,
        "places": recording.places,
        "readings": recording.readings,
        "lost": recording.lost,
        "lost_by_the_board": recording.overruns,
        "lost_by_the_sensor": recording.failures,
        "lost_on_the_line": max(0, recording.lost - recording.overruns - recording.failures),
        "breaks": recording.breaks,
        "samples": samples,
        "dropped_windows": dropped,
        "labels": file.labels(),
    }
