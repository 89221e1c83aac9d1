"""Finds sums in 16 bits that stop growing: each addend is less than half the last digit of the sum.

Two looks: an operation that sums (embedding gradients, ``index_add``, ``mean`` …) is computed again in fp32 and
compared. A running sum, one addition at a time on the same line of the program, is watched for additions that change
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils._pytree import tree_map

from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name
from halfstep.pytorch.recording.timeline import LOOK

#: a result that is off by more than this share of its norm counts as wrong
WRONG = 0.05
#: a running sum is looked at after this many additions in a row; and how many of them have to change nothing
_LONG, _STALLED = 32, 8
_SUMS = frozenset(
    ("sum", "mean", "cumsum", "embedding_dense_backward", "_embedding_bag_dense_backward", "index_add", "scatter_add",
     "index_put", "_index_put_impl", "norm", "linalg_vector_norm", "var", "var_mean", "logsumexp")
)  # fmt: skip


@dataclass
class _Chain:
    """A running sum: where its last value lies, how many additions there were, and how many changed nothing."""

    address: int = 0
    length: int = 0
    stalled: int = 0


class Sums:
    """Looks at additions; ``active`` only in the steps that are sampled."""

    def __init__(self, write: Callable[..., None]) -> None:
        self._write = write
        self._chains: dict[Any, _Chain] = {}
        self._said: set[Any] = set()
        self.active = True

    def look(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: Any,
        output: Tensor,
        where: Callable[[], dict[str, object]],
    ) -> None:
        """Look at one operation with a 16-bit result."""
        if not self.active:
            return
        if name == "add" and len(args) > 1 and isinstance(args[1], Tensor) and args[1].dtype in SIXTEEN_BIT:
            self._running(args[0], args[1], output, where)
        elif name in _SUMS and not func._schema.name.endswith("_"):
            self._whole(func, args, kwargs, output, where)

    def _whole(
        self, func: Any, args: Any, kwargs: Any, output: Tensor, where: Callable[[], dict[str, object]]
    ) -> None:
        try:
            exact = widened(func, args, kwargs)
        except (RuntimeError, TypeError, NotImplementedError):
            return
        exact = exact if isinstance(exact, Tensor) else exact[0]
        off, norm = float((output.double() - exact.double()).norm()), float(exact.double().norm())
        if not norm or not math.isfinite(off) or off / norm < WRONG:
            return
        grown = float(output.double().abs().max()), float(exact.double().abs().max())
        self._say(where(), relative_error=off / norm, reached=grown[0], exact=grown[1], dtype=output.dtype)

    def _running(
        self, total: Any, added: Tensor, output: Tensor, where: Callable[[], dict[str, object]]
    ) -> None:
        if not isinstance(total, Tensor) or total.shape != output.shape:
            return
        place = where()
        chain = self._chains.setdefault(place.get("source"), _Chain())
        chain.length = chain.length + 1 if chain.address == total.data_ptr() else 1
        chain.address = output.data_ptr()
        if chain.length < _LONG:
            chain.stalled = 0
            return
        counts = added != 0
        swallowed = ((output + added) == output) & counts
        whole = int(counts.sum())
        chain.stalled = chain.stalled + 1 if whole and int(swallowed.sum()) >= 0.9 * whole else 0
        if chain.stalled >= _STALLED:
            reached = float(output.double().abs().max())
            if math.isfinite(reached):
                self._say(place, additions=chain.length, reached=reached, dtype=output.dtype)

    def _say(self, where: dict[str, object], dtype: torch.dtype, **fields: Any) -> None:
        key = (where["module"], where["operation"], where.get("source"))
        if key not in self._said:
            self._said.add(key)
            self._write("sum", dtype=format_name(dtype), **fields, **where)


def widened(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation in fp32: 16-bit tensors and dtypes among its arguments are replaced."""

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT:
            return value.float()
        return torch.float32 if isinstance(value, torch.dtype) and value in SIXTEEN_BIT else value

    with record_function(LOOK):
        return func(*tree_map(wide, args), **tree_map(wide, kwargs))
