"""How many of a model's parameters have a dtype, and how many parts it has: the cheapest sign of new ones."""

from __future__ import annotations

import weakref
from collections.abc import Collection

import torch
from torch import nn


class Counted:
    """The parts of ``model``, and its parameters that have one of ``dtypes``, counted now and again.

    Some 0.1 us per parameter. No module and no parameter is held: their hooks may hold the model.
    """

    def __init__(self, model: nn.Module, dtypes: Collection[torch.dtype]) -> None:
        self._dtypes = tuple(dtypes)
        self._parts = [weakref.ref(part) for part in model.modules()]
        self._numbers = self._count()

    def is_as_it_was(self) -> bool:
        """Whether there are as many as at first."""
        return self._count() == self._numbers

    def _count(self) -> tuple[int, int]:
        dtypes, parameters, children = self._dtypes, 0, 0
        for of in self._parts:
            if (part := of()) is not None:
                children += len(part._modules)
                for parameter in part._parameters.values():
                    if parameter is not None and parameter.dtype in dtypes:
                        parameters += 1
        return parameters, children
