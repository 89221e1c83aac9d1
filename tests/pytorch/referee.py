"""Watches every product of a step and holds it to the same arithmetic with float64 sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

U32 = 2.0**-24  # unit roundoff of fp32
LOW = (torch.bfloat16, torch.float16)
EMULATED = ("halfstep::product", "halfstep::convolution", "halfstep::convolution_backward")
#: each is a sum of products of its tensors, or several such sums
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "convolution", "convolution_backward")


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance between neighbours of ``dtype`` at ``x``: the most that one rounding moves ``x``."""
    if dtype not in LOW:
        return torch.zeros_like(x)  # the roundings of fp32 are in gamma
    smallest = torch.tensor(torch.finfo(dtype).smallest_normal, dtype=torch.float64)
    exponent = torch.frexp(x.abs().maximum(smallest)).exponent - 1
    return torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps / 2), exponent)


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [v for v in value if isinstance(v, Tensor)]


def _each(args: tuple[Any, ...], change: Any) -> list[Any]:
    return [change(a) if isinstance(a, Tensor) else a for a in args]


class Referee(TorchDispatchMode):
    """|got - exact| <= gamma_n * sum|a||b| + half an ulp of a 16-bit result, for every product in this thread.

    A sum of n products in fp32, in any order, is off by at most gamma_n = n u / (1 - n u) of the sum of magnitudes
    (Higham, Accuracy and Stability, 3.1), n being the same sum with ones for operands; four roundings more are for
    alpha, beta and a bias. ``judged`` counts the products; ``worst`` is the largest share of the bound that one used.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.judged: Counter[str] = Counter()
        self.worst = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        got = func(*args, **kwargs)
        name = func._schema.name
        low = isinstance(args[0], Tensor) and args[0].dtype in LOW and name.removeprefix("aten::") in PRODUCTS
        if (name in EMULATED or low) and "out" not in kwargs:
            self._judge(name, func, args, kwargs, _tensors(got))
        return got

    def _judge(self, name: str, func: Any, args: Any, kwargs: Any, got: list[Tensor]) -> None:
        exact, sums, terms = (
            _tensors(func(*_each(args, change), **kwargs))
            for change in (
                lambda t: t.double(),
                lambda t: t.double().abs(),
                lambda t: torch.ones_like(t, dtype=torch.float64),
            )
        )
        for value, e, s, n in zip(got, exact, sums, terms, strict=True):
            gamma = (n + 4) * U32 / (1 - (n + 4) * U32)
            bound = gamma * s + half_ulp(e.abs() + gamma * s, value.dtype)
            share = (
                ((value.double() - e).abs() / bound.clamp(min=1e-300)).max().item() if value.numel() else 0
            )
            assert share <= 1, (name, [a.shape for a in args if isinstance(a, Tensor)], share)
            self.worst = max(self.worst, share)
        self.judged[name.split("::")[1]] += 1


@contextmanager
def judging() -> Iterator[Referee]:
    """Judge what is computed inside, backward passes included; that there was nothing to judge is a failure."""
    with Referee() as referee:
        yield referee
    assert referee.judged
