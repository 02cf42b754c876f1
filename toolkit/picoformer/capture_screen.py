"""What somebody sees who records: a countdown, one line that lives while readings come, and what became of them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from picoformer.link.capture import SensorDescription
from picoformer.recording import Recording

_EVERY_SECONDS = 0.1


class CaptureScreen:
    """Writes to standard error, and only where that is a terminal."""

    def __init__(self, label: str, countdown: int) -> None:
        self._label, self._countdown = label, countdown
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = 0.0

    def begin(self, sensor: SensorDescription) -> None:
        """Count down: whoever holds the board gets ready."""
        for left in range(self._countdown, 0, -1):
            self._show(f"{self._label}: {sensor.name} in {left} …")
            time.sleep(1.0)

    def watch(self, recording: Recording, seconds: float) -> None:
        """Show how far it is, how fast readings come, how many are lost, and each channel's range so far."""
        if seconds - self._shown_at < _EVERY_SECONDS and recording.places < recording.most:
            return
        self._shown_at = seconds
        self._show(live_line(self._label, recording, seconds))

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, line: str) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size((100, 24)).columns - 1
            sys.stderr.write(f"\r\x1b[K{line[:width]}")
            sys.stderr.flush()


def live_line(label: str, recording: Recording, seconds: float) -> str:
    """One line on a recording that has been going on for so many seconds."""
    speed = recording.readings / seconds if seconds > 0 else 0.0
    parts = [f"{label}: {recording.places:,} of {recording.most:,}", f"{speed:.1f} Hz", f"lost {recording.lost:,}"]
    values = recording.times()[1]
    if len(values):
        ranges = zip(recording.sensor.channels, values.min(axis=0), values.max(axis=0), strict=True)
        parts += [f"{channel.name} {low:.4g}…{high:.4g}" for channel, low, high in ranges]
    return "  ".join(parts)


def print_capture(record: Mapping[str, Any]) -> None:
    """Print what `capture` recorded."""
    print(f"{record['label']}: {record['readings']:,} readings of {record['sensor']}, {record['rate_hz']:g} Hz")
    if not record["paced"]:
        print("  the board has no clock to keep that rate: readings came as fast as the line took them")
    print(f"  {', '.join(record['channels'])}")
    if record["lost"]:
        causes = [
            f"{record[key]:,} {words}"
            for key, words in (
                ("lost_by_the_board", "the board was late for"),
                ("lost_by_the_sensor", "the sensor did not have"),
                ("lost_on_the_line", "the line lost"),
            )
            if record[key]
        ]
        print(f"  missing: {record['lost']:,} ({', '.join(causes)})")
    if record["breaks"]:
        print(f"  the device began anew {record['breaks']} times; how long that took is not known")
    if record["dropped_windows"]:
        print(f"  windows dropped because a reading is missing in them: {record['dropped_windows']:,}")
    held = ", ".join(f"{name} {count:,}" for name, count in record["labels"].items()) or "nothing"
    print(f"  {record['file']} holds {held}")
