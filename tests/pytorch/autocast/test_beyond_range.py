"""In a region a number that the 16-bit format cannot hold is written as plain fp32 code wrote it.

The reference is the operation itself in fp32; in place, the largest number of the format.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

MASK = torch.tensor([[True, False, True, False], [False, True, True, True]])
BEYOND = {torch.float16: -1e9, torch.bfloat16: torch.finfo(torch.float32).min}
NEW: list[Callable[[Tensor, float], Tensor]] = [
    lambda x, number: x.masked_fill(MASK, number),
    lambda x, number: x.index_fill(1, torch.tensor([0, 2]), number),
    lambda x, number: nn.functional.pad(x, (1, 2), value=number),
    lambda x, number: x.masked_fill(MASK, torch.tensor(number)),
    lambda x, number: torch.where(MASK, x, number),
    lambda x, number: torch.where(MASK, number, x),
    lambda x, number: torch.where(MASK, x, torch.tensor(number)),
    lambda x, number: x.clamp(number, -number),
    lambda x, number: x.clamp(min=number),
    lambda x, number: nn.functional.hardtanh(x, number, 0.5),
    lambda x, number: nn.functional.threshold(x, 0.1, number),
    lambda x, number: x.scatter(1, torch.tensor([[0], [2]]), number),
    torch.full_like,
    lambda x, number: x.new_full((3,), number),
]
IN_PLACE: list[Callable[[Tensor, float], Tensor]] = [
    lambda x, number: x.masked_fill_(MASK, number),
    lambda x, number: x.index_fill_(1, torch.tensor([0, 2]), number),
    lambda x, number: x.masked_fill_(MASK, torch.tensor(number)),
    lambda x, number: x.scatter_(1, torch.tensor([[0], [2]]), number),
    lambda x, number: x.fill_(number),
    lambda x, number: x.clamp_(max=number),
]


@pytest.fixture(params=list(BEYOND), ids=["fp16", "bf16"])
def low(request: pytest.FixtureRequest, begin) -> Tensor:
    takeover = begin({torch.float16: "fp16", torch.bfloat16: "bf16"}[request.param])
    with takeover.regions.region():
        yield torch.linspace(-1, 1, 8).reshape(2, 4).to(request.param)


@pytest.mark.parametrize("operation", NEW)
def test_a_new_tensor_is_fp32(low: Tensor, operation: Callable[[Tensor, float], Tensor]) -> None:
    number = BEYOND[low.dtype]
    with torch.autocast("cpu", enabled=False):
        exact = operation(low.float(), number)
    found = operation(low, number)
    assert found.dtype is torch.float32
    assert torch.equal(found, exact)


@pytest.mark.parametrize("operation", IN_PLACE)
def test_in_place_it_is_the_largest_of_the_format(
    low: Tensor, operation: Callable[[Tensor, float], Tensor]
) -> None:
    number, largest = BEYOND[low.dtype], torch.finfo(low.dtype).max
    with torch.autocast("cpu", enabled=False):
        exact = operation(low.float(), number).clamp(-largest, largest)
    written = low.clone()
    assert operation(written, number) is written
    assert written.dtype is low.dtype
    assert torch.equal(written.float(), exact)


@pytest.mark.parametrize("operation", [*NEW, *IN_PLACE])
@pytest.mark.parametrize("number", [-1e4, 0, float("-inf")])
def test_other_numbers_are_written_as_ever(
    low: Tensor, operation: Callable[[Tensor, float], Tensor], number: float
) -> None:
    with torch.autocast("cpu", enabled=False):
        exact = operation(low.clone(), number)
    found = operation(low.clone(), number)
    assert found.dtype is low.dtype
    assert torch.equal(found, exact)


class Attention(nn.Module):
    """With a mask as research code writes it; the first row is wholly masked."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        mask = torch.ones(5, 5).triu(0).bool()
        scores = scores.masked_fill_(mask, -1e9) if self.in_place else scores.masked_fill(mask, -1e9)
        return scores.softmax(-1) @ self.v(x)


@pytest.mark.parametrize("in_place", [False, True])
def test_masked_attention_trains_in_fp16(begin, in_place: bool) -> None:
    """Losses within 6 roundings of fp16 of the exact ones, relative to the largest: two products, and a softmax."""

    def losses(dtype: torch.dtype) -> list[float]:
        torch.manual_seed(0)
        model = Attention(in_place).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x = torch.linspace(-1, 1, 80).reshape(2, 5, 8).to(dtype)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = (model(x) - x).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    exact = losses(torch.float64)
    takeover = begin("fp16")
    assert losses(torch.float32) == pytest.approx(exact, rel=6 * 2.0**-11)
    assert (takeover.steps, takeover.skipped) == (4, 0)
