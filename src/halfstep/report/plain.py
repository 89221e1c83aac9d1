"""Parts of a JSON object, whatever it holds: a part of another type reads as a missing one."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def clean(value: object, lines: bool = False) -> str:
    """Text without escape sequences, control, format and lone surrogate characters; numbers as text, else empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    kept = _ESCAPE.sub("", str(value)).replace("\t", "    ").replace("\r\n", "\n")
    if not lines:
        kept = kept.replace("\n", " ").replace("\r", " ")
    return "".join(c for c in kept if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")).strip(
        "\n"
    )


def finite(value: object) -> float | None:
    """A finite number as a float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


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


def numbers(raw: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """The finite numbers in the list under a key."""
    return tuple(x for item in sequence(raw.get(key)) if (x := finite(item)) is not None)


def pairs(raw: object) -> tuple[tuple[float, float], ...]:
    """The [step, value] pairs of a list whose two figures are finite."""
    read_ = (
        (finite(p[0]), finite(p[1])) for p in sequence(raw) if isinstance(p, list | tuple) and len(p) == 2
    )
    return tuple((x, y) for x, y in read_ if x is not None and y is not None)
