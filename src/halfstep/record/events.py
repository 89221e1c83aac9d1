"""What each event of a record may hold: nothing in a record is taken on trust."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from halfstep.words.safe_text import clean

SCHEMA = "halfstep/record/1"

#: characters of a text in a record: an exception's message may be megabytes
LONGEST = 2000

#: no count and no size is larger
_MOST = 2**63

#: how a program may have ended, as its own record says
ENDINGS = ("ok", "failed", "interrupted", "unsupported", "diverged", "out_of_memory")


def plain(value: Any) -> Any:
    """``value`` with numbers that JSON cannot hold written as ``"nan"``, ``"inf"`` or ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> float | None:
    """The inverse of :func:`plain` for one number; None stays None."""
    return None if value is None else float(value)


Check = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _integer(value: Any) -> bool:
    return type(value) is int and -_MOST < value < _MOST


def _amount(value: Any) -> bool:
    """A size or duration: finite and not negative."""
    return _whole(value) or (type(value) is float and 0 <= value < math.inf)


def _figure(value: Any) -> bool:
    """Any number, as :func:`plain` writes it."""
    if type(value) is int:
        return -_MOST < value < _MOST
    return (type(value) is float and math.isfinite(value)) or value in ("nan", "inf", "-inf")


def _flag(value: Any) -> bool:
    return type(value) is bool


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _ending(value: Any) -> bool:
    return value in ENDINGS


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _table(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields(**checks: Check) -> Check:
    """An object whose fields, as far as they are named here, are of these kinds."""
    return lambda value: isinstance(value, dict) and all(c(value[n]) for n, c in checks.items() if n in value)


_BYTES = _table(_whole)
_AMOUNTS = _table(_amount)
_TEXTS = _list(_text)

_RAISED_AT = _fields(place=_text, code=_text, modules=_TEXTS)
_FILES_READ = _list(_fields(path=_text, modified=_figure, rewritten=_flag))

#: event -> field -> what it must be where it is there
_KINDS: dict[str, dict[str, Check]] = {
    "start": {
        **dict.fromkeys(("schema", "halfstep", "precision", "python", "started"), _text),
        **dict.fromkeys(("repeat", "rank", "world_size", "pid"), _whole),
        "seed": _or_none(_integer),
        "command": _TEXTS,
    },
    "takeover": {
        **dict.fromkeys(("framework", "version", "ran_as", "device", "backend", "backend_version"), _text),
        **dict.fromkeys(("asked", "asked_weights", "described"), _text),
        **dict.fromkeys(("software", "lists"), _or_none(_text)),
        "emulated": _flag,
        "fp32_units": _TEXTS,
        "seconds": _amount,
    },
    "own_amp": {"what": _text, "asks": _text},
    "step": {
        "step": _whole,
        "loss": _or_none(_figure),
        "seconds": _or_none(_amount),
        "skipped": _flag,
        "loss_scale": _amount,
        "sampled": _flag,
    },
    "sample": {
        "memory": _or_none(_BYTES),
        "memory_absent": _table(_text),
        **dict.fromkeys(
            ("matmul_flops", "optimizer_flops", "reduced_bytes", "time_shares"), _or_none(_AMOUNTS)
        ),
        "odd_flops": _or_none(_amount),
        "samples": _or_none(_whole),
        **dict.fromkeys(("fp32_units", "sums"), _TEXTS),
        **dict.fromkeys(("absent", "time_shares_absent"), _text),
        "profiled": _fields(seconds=_amount, operations=_whole, device=_text),
    },
    "region": {"kind": _text},
    "stored": {
        **dict.fromkeys(("weights", "gradients", "optimizer"), _or_none(_BYTES)),
        "absent": _table(_text),
    },
    "logged": {"name": _text, "value": _figure, "step": _whole},
    "watch": {"what": _text, "step": _whole},
    "nonfinite": {
        "step": _whole,
        **dict.fromkeys(("what", "words"), _text),
        **dict.fromkeys(("module", "operation", "direction"), _or_none(_text)),
    },
    "restart": {"drops": _text},
    "absent": {"look": _text, "reason": _text},
    "warning": {"text": _text},
    "lost": {"lines": _whole, "why": _text},
    "end": {
        "status": _ending,
        **dict.fromkeys(("reason", "peak_memory_how", "peak_memory_absent", "load_absent"), _text),
        **dict.fromkeys(("energy_how", "energy_absent", "joules_per_step_absent"), _text),
        "exception": _or_none(_text),
        "exit_code": _or_none(_integer),
        "peak_memory_of_tensors": _flag,
        **dict.fromkeys(("steps", "skipped_steps", "energy_steps"), _whole),
        **dict.fromkeys(("peak_memory_bytes", "peak_resident_bytes"), _or_none(_whole)),
        **dict.fromkeys(("energy_joules", "joules_per_step"), _or_none(_amount)),
        "raised_at": _RAISED_AT,
        "files_read": _FILES_READ,
        "load": _or_none(_AMOUNTS),
    },
}

#: without these an event says nothing
_NEEDED: dict[str, tuple[str, ...]] = {
    "own_amp": ("what",),
    "step": ("step",),
    "logged": ("name", "value", "step"),
    "watch": ("what",),
    "nonfinite": ("what",),
    "restart": ("drops",),
    "absent": ("look", "reason"),
    "warning": ("text",),
    "lost": ("lines", "why"),
}


def fault(event: Mapping[str, Any]) -> str:
    """What is wrong with an event, in a few words; empty where nothing is, and of kinds that nobody reads."""
    kind = event.get("event")
    if not isinstance(kind, str):
        return "no event"
    for name in _NEEDED.get(kind, ()):
        if name not in event:
            return f"{kind} without {name}"
    checks = _KINDS.get(kind, {})
    for name, value in event.items():
        check = checks.get(name)
        if check is not None and not check(value):
            return f"{kind} with another kind of {name}"
    return ""


def cleaned(value: Any) -> Any:
    """``value`` with every text in it safe to show, and of bounded length."""
    if isinstance(value, str):
        return clean(value, lines=True)[:LONGEST]
    if isinstance(value, dict):
        # A number needs no call of its own, and most of a record are numbers.
        return {
            cleaned(key): cleaned(item) if isinstance(item, str | dict | list) else item
            for key, item in value.items()
        }
    return [cleaned(item) for item in value] if isinstance(value, list) else value
