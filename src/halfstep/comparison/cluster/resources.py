"""``--on`` and ``--resources``: on which cluster blocks run, and which resources each block gets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from halfstep.errors import UsageError

_ADDRESS = re.compile(r"ray(://[^/\s]+)?")
_NAME = re.compile(r"[A-Za-z_][\w.:-]*")

#: how Ray writes what a machine has of these
_KNOWN = {"cpu": "CPU", "gpu": "GPU"}


def parse_on(text: str) -> str:
    """``--on`` as it was given; empty where it was not. Raises UsageError if it names no Ray cluster."""
    if text and not _ADDRESS.fullmatch(text):
        raise UsageError(
            f"--on was given {text!r}; give ray for this machine, or ray://HOST or ray://HOST:PORT for a cluster."
        )
    return text


def parse_resources(text: str) -> str:
    """``--resources`` as ``name=number`` with commas; empty where it was not given.

    Raises:
        UsageError: it cannot be read.
    """
    return ",".join(f"{name}={_number(value)}" for name, value in amounts(text).items())


def amounts(text: str) -> dict[str, float]:
    """How much of each resource a block gets, by the name that was given. Raises UsageError if it cannot be read."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            amount = float(value)
        except ValueError:
            amount = 0.0
        if not _NAME.fullmatch(name.strip()) or not 0 < amount < math.inf:
            raise UsageError(
                f"--resources was given {part!r}; give what a block gets of each, e.g. gpu=1 or cpu=8,gpu=2."
            )
        found[name.strip()] = amount
    if text and not found:
        raise UsageError(f"--resources was given {text!r}, which names nothing; give e.g. gpu=1.")
    return found


def wanted(text: str, total: Mapping[str, float], gpus: bool) -> dict[str, float]:
    """What a block gets of a machine, by Ray's names; by default one GPU, or all processors if there are no GPUs.

    Args:
        text: ``--resources``.
        total: what the machine has.
        gpus: whether a machine of the cluster has GPUs.
    """
    if text:
        return {_KNOWN.get(name.lower(), name): amount for name, amount in amounts(text).items()}
    return {"GPU": 1.0} if gpus else {"CPU": total.get("CPU", 0.0) or 1.0}


def places(want: Mapping[str, float], total: Mapping[str, float]) -> int:
    """How many blocks a machine has room for."""
    return int(min(total.get(name, 0.0) / amount for name, amount in want.items()))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
