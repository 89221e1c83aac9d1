"""How many of a model's parameters have a dtype, and which parts it has: the cheapest sign of others in their place."""

from __future__ import annotations

import weakref
from collections.abc import Collection

import torch
from torch import nn


class Counted:
    """The parameters of ``model`` that have one of ``dtypes``, counted now and again, and its parts.

    Some 0.1 us per parameter. No module and no parameter is held: their hooks may hold the model.
    """

    def __init__(self, model: nn.Module, dtypes: Collection[torch.dtype]) -> None:
        self._dtypes = tuple(dtypes)
        parts = list(model.modules())
        self._of_weights = [weakref.ref(part) for part in parts if part._parameters]
        self._of_parts = [(weakref.ref(part), _children(part)) for part in parts if part._modules]
        self._number = self._count()

    def is_as_it_was(self) -> bool:
        """Whether there are as many as at first, and no part is new."""
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
