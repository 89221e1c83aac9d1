"""Tensors inside of tuples and lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor among ``values`` and in tuples and lists among them; other objects are ignored."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)
