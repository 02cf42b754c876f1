"""Folders that behave as the drives of boards do, for tests: they show their texts, take a file, go and come back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UF2_TEXT = "UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: {board}\r\n"
DAPLINK_TEXT = (
    "# DAPLink Firmware\r\nUnique ID: {board}360251844e45006b8019000000140000009796990{n}"
    "\r\nHIC ID: 97969901\r\nAuto Reset: 1\r\nInterface Version: 0249\r\nRemount count: {n}\r\n"
)


class SimulatedDrive:
    """A folder and a table of mounts that lists it. `took`: the file that it was given, once it was whole."""

    def __init__(self, place: Path, name: str) -> None:
        self.folder = place / name
        self.mounts = place / "mounts"
        self.took: bytes | None = None
        place.mkdir(exist_ok=True)
        self.mounts.touch()

    def appear(self, **texts: str) -> None:
        self.folder.mkdir()
        for name, text in texts.items():
            (self.folder / f"{name}.{'html' if name == 'Segger' else 'TXT'}").write_bytes(text.encode())
        row = f"/dev/sdz1 {str(self.folder).replace(' ', chr(92) + '040')} vfat rw,nosuid 0 0\n"
        with self.mounts.open("a") as stream:
            stream.write(f"proc /proc proc rw 0 0\n{row}")

    def vanish(self) -> None:
        shutil.rmtree(self.folder)

    @contextmanager
    def takes(self, name: str, is_whole: Callable[[bytes], bool], then: Callable[[], None]) -> Iterator[None]:
        """While this lasts a thread waits for the file `name` to be whole, keeps it and does what comes `then`."""
        stop = threading.Event()

        def wait() -> None:
            while not stop.wait(0.01):
                path = self.folder / name
                data = path.read_bytes() if path.is_file() else b""
                if data and is_whole(data):
                    self.took = data
                    then()
                    return

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)
