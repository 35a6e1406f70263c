"""From a plain tree of settings to dataclasses, with every problem listed instead of the first one only."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from xmkd.errors import ConfigError

T = TypeVar("T")

MOST_NAMES = 20
"""How many known names a message lists."""


def bind(cls: type[T], tree: object, path: str, problems: list[str]) -> T | None:
    """Fill the dataclass `cls` from a mapping, adding a line to `problems` for each thing that does not fit."""
    if not isinstance(tree, dict):
        problems.append(f"{path}: expected a section with keys, got {tree!r}")
        return None
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # cls is a dataclass type
    values = bind_fields({n: hints[n] for n in names}, tree, path, problems, known=names)
    try:
        return cls(**values)
    except ConfigError as error:  # a dataclass may check itself in __post_init__
        problems.append(f"{path}: {error.what}")
    except TypeError:  # a required field is missing
        missing = [
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
        ]
        problems.extend(f"{join(path, name)}: a value is needed" for name in missing if name not in tree)
    return None


def bind_fields(
    hints: dict[str, Any], tree: dict[str, Any], path: str, problems: list[str], known: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, raw in tree.items():
        name = str(key)
        if name not in hints:
            problems.append(f"{join(path, name)}: unknown key" + nearest(name, known))
            continue
        before = len(problems)
        value = _convert(hints[name], raw, join(path, name), problems)
        if len(problems) == before:
            values[name] = value
    return values


def _convert(hint: Any, raw: Any, path: str, problems: list[str]) -> Any:
    """One value, converted to its declared type; a mismatch becomes a line in `problems`."""
    origin = get_origin(hint)
    if hint is Any:
        return raw
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), raw, path, problems)
    if origin is Literal:
        choices = get_args(hint)
        if raw not in choices:
            problems.append(f"{path}: {raw!r} is none of {', '.join(map(str, choices))}" + similar(str(raw), choices))
        return raw
    if origin is dict:
        return _convert_dict(get_args(hint)[1], raw, path, problems)
    if origin in (list, tuple):
        return _convert_sequence(hint, raw, path, problems)
    if is_dataclass(hint) and isinstance(hint, type):
        return bind(hint, raw, path, problems)
    return _convert_scalar(hint, raw, path, problems)


def _convert_scalar(hint: Any, raw: Any, path: str, problems: list[str]) -> Any:
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint is float and isinstance(raw, str):  # YAML 1.1 reads 1e-3 as text
        with suppress(ValueError):
            raw = float(raw)
    if isinstance(raw, float) and not math.isfinite(raw):
        problems.append(f"{path}: {raw} is no finite number")
    elif not isinstance(raw, hint) or (isinstance(raw, bool) and hint is not bool):
        problems.append(f"{path}: expected {hint.__name__}, got {raw!r}")
    return raw


def _convert_union(options: tuple[Any, ...], raw: Any, path: str, problems: list[str]) -> Any:
    if raw is None and type(None) in options:
        return None
    attempts: list[str] = []
    for option in options:
        if option is type(None):
            continue
        found: list[str] = []
        value = _convert(option, raw, path, found)
        if not found:
            return value
        attempts = found  # the last alternative's complaint stands for all
    problems.extend(attempts)
    return raw


def _convert_dict(hint: Any, raw: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(raw, dict):
        problems.append(f"{path}: expected a section with keys, got {raw!r}")
        return raw
    return {str(k): _convert(hint, v, join(path, str(k)), problems) for k, v in raw.items()}


def _convert_sequence(hint: Any, raw: Any, path: str, problems: list[str]) -> Any:
    kinds = get_args(hint)
    if not isinstance(raw, list | tuple):
        problems.append(f"{path}: expected a list, got {raw!r}")
        return raw
    if get_origin(hint) is tuple and Ellipsis not in kinds:
        if len(raw) != len(kinds):
            problems.append(f"{path}: expected {len(kinds)} values, got {len(raw)}")
            return raw
        return tuple(_convert(k, v, f"{path}[{i}]", problems) for i, (k, v) in enumerate(zip(kinds, raw, strict=True)))
    items = [_convert(kinds[0], v, f"{path}[{i}]", problems) for i, v in enumerate(raw)]
    return tuple(items) if get_origin(hint) is tuple else items


def similar(name: str, known: Iterable[object]) -> str:
    """The end of a message: the known name most like this one; empty where none is like it."""
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest(name: str, known: Iterable[object]) -> str:
    """The end of a message about an unknown name: the one most like it, else the first of those that there are."""
    names = [str(k) for k in known]
    if hint := similar(name, names):
        return hint
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"; known: {', '.join(names[:MOST_NAMES])}{more}" if names else ""


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
