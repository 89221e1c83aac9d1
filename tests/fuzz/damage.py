"""Ways to damage a file, drawn by chance."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

#: values that no reader may trip over
HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**64, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"), "", "nan", "x" * 9999,
    "\x1b[31mred\x1b]0;title\x07", "\u202eabc", "<script>alert(1)</script>", "\udc80", "../../etc/passwd", "=1+1", [], {},
    [[]], [None, {}], {"a": {"b": []}}, [[[[[[]]]]]],
]  # fmt: skip

Damage = Callable[[bytes, random.Random], bytes]


def other_bytes(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def hole(data: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:first] + data[last:]


def zeros(data: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:first] + bytes(last - first) + data[last:]


def lines_out(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    first = chance.randrange(len(lines))
    return b"".join(lines[:first] + lines[first + chance.randint(1, 5) :])


def lines_mixed(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def line_twice(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def line_inserted(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    strange = [
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b"1" * 5000 + b"\n",
        b"{}\n",
        b'{"event":"end"}\n',
        b"\x00\n",
    ]
    at = chance.randrange(len(lines) + 1)
    return b"".join([*lines[:at], chance.choice(strange), *lines[at:]])


def hostile_value(data: bytes, chance: random.Random) -> bytes:
    """One value of one line, wherever it is in it, is another."""
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return other_bytes(data, chance)
    lines[at] = json.dumps(_with_hostile(value, chance)).encode()
    return b"\n".join(lines) + b"\n"


def _with_hostile(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _with_hostile(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], _with_hostile(value[at], chance), *value[at + 1 :]]
    return chance.choice(HOSTILE)


WAYS: list[Damage] = [
    other_bytes, cut, hole, zeros, lines_out, lines_mixed, line_twice, line_inserted,
    hostile_value, hostile_value, hostile_value,
]  # fmt: skip
