"""Reading a TOML file into a validated model; what is wrong is named by file, line and key."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from picoformer.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

SIZE_LIMIT = 1 << 20

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_-]+))\s*=""")


def read_toml(path: Path, model: type[Model]) -> Model:
    """The file as `model`. Raises ConfigError naming file, line, key and mend when it cannot be one."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ConfigError(f"{path}: larger than {SIZE_LIMIT} bytes; this is no configuration")
        source = path.read_text(encoding="utf-8")
        data = tomllib.loads(source)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(path, source, model, error)) from None


def key_line(source: str, location: tuple[str | int, ...]) -> int:
    """The 1-based line of a TOML key, e.g. ('memory', 1, 'origin'); of its table's header when the key is absent.

    Covers keys and one level of [table] or [[array]] headers; 1 if not found.
    """
    table: tuple[str | int, ...] = ()
    seen: dict[str, int] = {}
    best, best_depth = 1, 0
    for number, line in enumerate(source.splitlines(), start=1):
        place: tuple[str | int, ...]
        if header := _HEADER.match(line):
            name = header[2]
            if header[1] == "[[":
                seen[name] = seen.get(name, -1) + 1
                table = (name, seen[name])
            else:
                table = (name,)
            place = table
        elif key := _KEY.match(line):
            place = (*table, key[1] or key[2] or key[3])
        else:
            continue
        if len(place) > best_depth and location[: len(place)] == place:
            best, best_depth = number, len(place)
    return best


def explain(path: Path, source: str, model: type[BaseModel], error: ValidationError) -> str:
    """One line for the first thing that is wrong."""
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] in _UNKNOWN), faults[0])  # a misspelt key is missing too
    location: tuple[str | int, ...] = first["loc"]
    dotted = ".".join(str(part) for part in location)
    line = key_line(source, location)
    if first["type"] in _UNKNOWN:
        what = f"unknown key '{dotted}'; remove it or use one of: {', '.join(sorted(_keys_at(model, location[:-1])))}"
    elif first["type"] in ("missing", "missing_argument"):
        what = f"key '{dotted}' is missing; add it"
    elif first["type"] == "value_error":
        what = str(first["ctx"]["error"]) if "ctx" in first else first["msg"]
        line = key_line(source, (*location, what.split(" ", 1)[0]))
        what = f"{dotted}: {what}" if dotted else what
    else:
        shown = repr(first["input"])
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        what = f"key '{dotted}' has the bad value {shown}; {first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{path}:{line}: {what}"


def _keys_at(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at `location` may hold."""
    for part in location:
        if not isinstance(part, str):
            continue
        hints = typing.get_type_hints(model)
        model = _table_type(hints[part]) if part in hints else model
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return [field.name for field in dataclasses.fields(model)]


def _table_type(hint: Any) -> Any:
    """The class of a table: `X`, `X | None` or `list[X]` gives X."""
    inner = [a for a in typing.get_args(hint) if a is not type(None)]
    return _table_type(inner[0]) if inner else hint
