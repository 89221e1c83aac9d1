"""Parts of a JSON object, whatever it holds: a part of another type reads as a missing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfstep.codec import clean as clean
from halfstep.codec import finite as finite


def text(raw: Mapping[str, Any], key: str) -> str:
    """The clean text under a key; empty where there is none."""
    return clean(raw.get(key))


def integer(raw: Mapping[str, Any], key: str) -> int | None:
    """The whole number under a key; None where there is none."""
    value = finite(raw.get(key))
    return None if value is None else int(value)


def table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; empty where there is none."""
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """A list as it is; empty for everything else."""
    return value if isinstance(value, list | tuple) else ()


def tables(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects in the list under a key."""
    return [item for item in sequence(raw.get(key)) if isinstance(item, Mapping)]


def texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts in the list under a key."""
    return tuple(clean(item) for item in sequence(raw.get(key)) if isinstance(item, str))
