"""Values to JSON and back: a frozen dataclass is an object, its fields are the keys.

The reader trusts nothing, for anyone may have written the file: text loses its escape sequences and control
characters, figures that are no finite numbers are absent, and so is what has another type than its field. A field
with a default is then the default; an object that lacks a field without one is absent as a whole, wherever it stands.

A class that is a text in JSON has ``as_text`` and, raising ValueError, ``from_text``. A class may name fields in
``OMITTED``, which are not written where they are None; a field may say in its ``metadata`` that its text keeps its line
breaks (``lines``), or that it is no part of the JSON (:data:`UNWRITTEN`).
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from halfstep.words.safe_text import clean as clean

T = TypeVar("T")

#: an object of JSON, as :func:`write` makes it for files and for programs that call halfstep
JsonObject = dict[str, Any]

#: metadata of a field that JSON lacks: words were made of it
UNWRITTEN = {"unwritten": True}


class Unreadable(ValueError):
    """A part of a JSON value that is not of the type that its field has."""


_FLOAT: frozenset[type] = frozenset({float})
_AS_THEY_ARE: frozenset[type] = frozenset({float, int, str, bool, types.NoneType})


def write(value: Any) -> Any:
    """The value as JSON has it; text and numbers are written as they are."""
    if type(value) in _AS_THEY_ARE:  # the many losses of a long run need no other check
        return value
    if hasattr(value, "as_text"):
        return value.as_text()
    if is_dataclass(value) and not isinstance(value, type):
        omitted = getattr(value, "OMITTED", ())
        told = [(f.name, getattr(value, f.name)) for f in written(value)]
        return {name: write(part) for name, part in told if part is not None or name not in omitted}
    if isinstance(value, Mapping):
        return {str(key): write(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if _all_of(_AS_THEY_ARE, value) else [write(part) for part in value]
    return value


def _all_of(kinds: frozenset[type], items: Sequence[object]) -> bool:
    """Whether every item is of one of ``kinds``, and of no class derived from it; no call of Python's for each."""
    return kinds.issuperset(map(type, items))


def read(kind: type[T], raw: object) -> T:
    """The value that :func:`write` wrote, or what of it can be read.

    Raises:
        Unreadable: a field without a default is missing or of another type.
    """
    known = raw if isinstance(raw, Mapping) else {}
    found: dict[str, Any] = {}
    of: Any = kind
    for field, hint in _fields(of):
        try:
            found[field.name] = _read(hint, known.get(field.name), "lines" in field.metadata)
        except Unreadable:
            if field.default is MISSING and field.default_factory is MISSING:
                raise Unreadable(f"{kind.__name__}.{field.name}") from None
    return kind(**found)


@functools.cache
def _fields(kind: Any) -> list[tuple[Any, Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in written(kind)]


def written(kind: Any) -> list[Field[Any]]:
    """The fields of a dataclass that its JSON has."""
    return [field for field in fields(kind) if "unwritten" not in field.metadata]


def _read(hint: Any, raw: object, lines: bool = False) -> Any:
    """One part by its type; see the module's docstring."""
    origin, inner = _shape(hint)
    if origin in (Union, types.UnionType):
        return None if raw is None else _one_of(inner, raw, lines)
    if origin is Literal:
        return _require(raw if raw in inner else None)
    if origin is tuple:
        return _items(inner, raw)
    if origin is not None and issubclass(origin, Mapping):
        return _entries(inner[0], inner[1], raw)
    if hint is str:
        told = isinstance(raw, str | int | float) and not isinstance(raw, bool)
        return _require(clean(raw, lines) if told else None)
    if hint is bool:
        return _require(raw if isinstance(raw, bool) else None)
    if hint in (int, float):
        number = _require(finite(raw))
        return int(number) if hint is int else raw
    if hint is object:
        return plain(raw)
    if hasattr(hint, "from_text"):
        try:
            return hint.from_text(clean(raw))
        except ValueError:
            raise Unreadable from None
    return read(hint, raw if isinstance(raw, Mapping) else _require(None))


@functools.cache
def _shape(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


def _require(value: T | None) -> T:
    if value is None:
        raise Unreadable
    return value


def _one_of(hints: Sequence[Any], raw: object, lines: bool) -> Any:
    """The first of the types that the part has; without any, and where it may be missing, nothing."""
    for hint in hints:
        if hint is not types.NoneType:
            try:
                return _read(hint, raw, lines)
            except Unreadable:
                continue
    return None if types.NoneType in hints else _require(None)


def _items(hints: Sequence[Any], raw: object) -> tuple[Any, ...]:
    """A list: those of its items that can be read; where it has a fixed length, all of them."""
    items = _require(raw if isinstance(raw, list | tuple) else None)
    if Ellipsis not in hints:
        pairs = zip(hints, _require(items if len(items) == len(hints) else None), strict=True)
        return tuple(_read(hint, item) for hint, item in pairs)
    of_floats = hints[0] is float or set(_shape(hints[0])[1]) == {float, types.NoneType}
    if of_floats and _all_of(_FLOAT, items) and all(map(math.isfinite, items)):
        return tuple(items)  # the losses of a long run
    found = []
    for item in items:
        try:
            found.append(_read(hints[0], item))
        except Unreadable:
            continue
    return tuple(found)


def _entries(key_hint: Any, hint: Any, raw: object) -> dict[Any, Any]:
    """An object with free keys, text or whole numbers: those of its entries that can be read."""
    found = {}
    for key, part in _require(raw if isinstance(raw, Mapping) else None).items():
        try:
            found[int(key) if key_hint is int else clean(key)] = _read(hint, part)
        except ValueError:
            continue
    return found


def plain(raw: object) -> object:
    """JSON of any shape with clean text and finite numbers; None for everything else."""
    if isinstance(raw, str):
        return clean(raw)
    if isinstance(raw, Mapping):
        return {clean(key): plain(part) for key, part in raw.items()}
    if isinstance(raw, list | tuple):
        return [plain(part) for part in raw]
    return raw if isinstance(raw, bool) or finite(raw) is not None else None


def finite(value: object) -> float | None:
    """A finite number as a float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
