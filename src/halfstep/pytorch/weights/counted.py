"""Counts a model's parameters of some dtypes, and its parts: the cheapest way to notice that some were replaced."""

from __future__ import annotations

import weakref
from collections.abc import Collection

import torch
from torch import nn


class Counted:
    """How many parameters of ``model`` have one of ``dtypes``, and which parts it has.

    A count takes some 0.1 us per parameter. No module or parameter is held: its hooks may hold the model.
    """

    def __init__(self, model: nn.Module, dtypes: Collection[torch.dtype]) -> None:
        self._dtypes = tuple(dtypes)
        parts = list(model.modules())
        self._of_weights = [weakref.ref(part) for part in parts if part._parameters]
        self._of_parts = [(weakref.ref(part), _children(part)) for part in parts if part._modules]
        self._number = self._count()

    def is_as_it_was(self) -> bool:
        """Whether there are as many such parameters as at first, and no new part."""
        parts = ((of(), children) for of, children in self._of_parts)
        return self._count() == self._number and all(
            part is None or _children(part) == children for part, children in parts
        )

    def _count(self) -> int:
        dtypes, number = self._dtypes, 0
        for of in self._of_weights:
            if (part := of()) is not None:
                for parameter in part._parameters.values():
                    if parameter is not None and parameter.dtype in dtypes:
                        number += 1
        return number


def _children(part: nn.Module) -> list[int]:
    return list(map(id, part._modules.values()))
