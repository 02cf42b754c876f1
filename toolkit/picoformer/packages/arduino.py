"""A library for Arduino by its library specification (1.5 and later): src/, one example, library.properties."""

from __future__ import annotations

from pathlib import Path

from picoformer import __version__
from picoformer.packages.description import Package
from picoformer.packages.layout import SOURCE, entry_header, lay_example, lay_pages, lay_sources, lay_texts

ARCHITECTURES = (
    "samd", "sam", "mbed", "mbed_edge", "mbed_giga", "mbed_nano", "mbed_nicla", "mbed_opta", "mbed_portenta",
    "mbed_rp2040", "renesas", "renesas_portenta", "renesas_uno", "zephyr", "rp2040", "nrf52", "esp32", "esp8266",
    "stm32", "teensy", "silabs",
)  # fmt: skip
"""Cores with 32-bit integers: those of 8 bits have neither the memory nor an int that is wide enough."""


def write_arduino(package: Package, folder: Path) -> None:
    """The form "arduino": everything that compiles lies in src/, which is the only folder on the include path."""
    lay_sources(package, folder, SOURCE, SOURCE)
    name = sketch_name(package)
    lay_example(package, folder / "examples" / name, f"{name}.ino", "arduino")
    lay_texts(folder, {"library.properties": _properties(package), "keywords.txt": _keywords(package)})
    lay_pages(package, folder, _use(package))


def sketch_name(package: Package) -> str:
    """The example's name, which its folder and its file have."""
    return "WriteText" if package.is_text else "Predict"


def _properties(package: Package) -> str:
    does = "writes text" if package.is_text else "computes its outputs"
    fields = {
        "name": package.prefix,
        "version": __version__,
        "author": "picoformer",
        "maintainer": "picoformer",
        "sentence": f"A transformer that {does} on the board, in plain C.",
        "paragraph": f"Made by picoformer, scheme {package.origin.scheme}: {package.draft.arena_bytes:,} bytes of "
        f"arena, {package.draft.weights_bytes:,} bytes of weights. The example prints what the reference computes.",
        "category": "Data Processing",
        "url": f"https://example.com/{package.prefix}",
        "architectures": ",".join(ARCHITECTURES),
        "includes": entry_header(package),
        "dot_a_linkage": "true",
    }
    return "".join(f"{key}={value}\n" for key, value in fields.items())


def _keywords(package: Package) -> str:
    """Words that the editor colours: KEYWORD1 types, KEYWORD2 functions, LITERAL1 constants; a tab between."""
    prefix, upper = package.prefix, package.prefix.upper()
    types = [f"{prefix}_t", *([f"{prefix}_texts"] if package.is_text else [])]
    functions = [f"{prefix}_{word}" for word in ("init", "run", "step")]
    functions += [f"{prefix}_decoder"] if package.is_text else []
    constants = [f"{upper}_ARENA_BYTES", *([f"{upper}_STATE_BYTES"] if package.is_text else [])]
    for port in package.inputs:
        functions.append(f"{prefix}_{'set' if port.is_length else 'input'}_{port.ident}")
        functions += [f"{prefix}_quantize_{port.ident}"] if port.is_quantized else []
        constants.append(f"{upper}_INPUT_{port.macro}_COUNT")
    for port in package.outputs:
        functions.append(f"{prefix}_output_{port.ident}")
        functions += [f"{prefix}_dequantize_{port.ident}"] if port.is_quantized else []
        constants.append(f"{upper}_OUTPUT_{port.macro}_COUNT")
    groups = (("KEYWORD1", types), ("KEYWORD2", functions), ("LITERAL1", constants))
    return "".join(f"{name}\t{kind}\n" for kind, names in groups for name in names)


def _use(package: Package) -> str:
    name, prefix = sketch_name(package), package.prefix
    return f"""## Use

In the Arduino IDE: Sketch, Include Library, Add .ZIP Library, then File, Examples, {prefix}, {name}. In a shell:

    arduino-cli config set library.enable_unsafe_install true
    arduino-cli lib install --zip-path {prefix}.zip
    arduino-cli compile --fqbn arduino:mbed_nano:nano33ble ~/Arduino/libraries/{prefix}/examples/{name}
    arduino-cli upload --fqbn arduino:mbed_nano:nano33ble -p /dev/ttyACM0 ~/Arduino/libraries/{prefix}/examples/{name}
    arduino-cli monitor -p /dev/ttyACM0 -c baudrate=115200

For boards with 32-bit cores; a sketch starts with `#include <{entry_header(package)}>`. Before you publish the library,
put your own name and address into `library.properties`.
"""
