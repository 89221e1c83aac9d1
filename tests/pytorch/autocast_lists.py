"""PyTorch's own lists of what autocast does to which operation, with arguments for each."""

from __future__ import annotations

import sys
import types
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One operation of the lists: how it is called, and the list that it stands in."""

    listed: str
    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def lists(device: str) -> Any:
    """``AutocastTestLists`` (CUDA's) or ``AutocastCPUTestLists``, arguments on the CPU."""
    # PyTorch's test helpers import a package for expected outputs, which the lists do not use.
    sys.modules.setdefault("expecttest", _expecttest())
    from torch.testing._internal import autocast_test_lists as module

    # They also forbid to set flags such as allow_tf32 from then on, in the whole process.
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    torch.manual_seed(0)
    return {"cuda": module.AutocastTestLists, "cpu": module.AutocastCPUTestLists}[device](torch.device("cpu"))


def _expecttest() -> types.ModuleType:
    module = types.ModuleType("expecttest")
    module.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    return module


def cases(device: str) -> Iterator[Case]:
    """Every operation that can be called here, with each set of arguments that it is listed with."""
    for listed, rows in vars(lists(device)).items():
        owners: tuple[Any, ...] = (torch, torch._C._nn, torch.Tensor)
        if listed.startswith("methods"):
            owners = (torch.Tensor,)
        elif listed.startswith("nn"):
            owners = (torch._C._nn, torch.nn.functional)
        for row in rows:
            name, args = row[0], row[1]
            if isinstance(args, str):  # einsum's equation
                args = (args, *row[2])
                args = ("bkhd,bqhd->bqkh", torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5))
            kwargs = row[2] if len(row) > 2 and isinstance(row[2], dict) else {}
            owner = next((o for o in owners if hasattr(o, name)), None)
            if owner is not None and not name.startswith("cudnn"):
                yield Case(listed, name, getattr(owner, name), args, kwargs)


def change(value: Any, of: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with each of its floating-point tensors changed, inside tuples as well."""
    if isinstance(value, torch.Tensor):
        return of(value) if value.is_floating_point() else value
    return tuple(change(v, of) for v in value) if isinstance(value, tuple) else value
