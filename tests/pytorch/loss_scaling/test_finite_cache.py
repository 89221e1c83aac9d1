"""What is known of gradients after they were tested, and when it no longer holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from halfstep.pytorch.loss_scaling import finite_cache
from halfstep.pytorch.loss_scaling.finite_cache import FiniteCache as Cache
from halfstep.pytorch.loss_scaling.scaled_pass import NoScaledPass
from halfstep.pytorch.patches import Patches


class OnGpu(torch.Tensor):
    """Says that it is on a GPU, and is an ordinary tensor otherwise."""

    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


@pytest.fixture
def tested() -> Iterator[Cache]:
    made, patches = Cache(NoScaledPass()), Patches()
    made.install(patches)
    yield made
    patches.undo()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients were read, in each look."""
    seen: list[int] = []
    monkeypatch.setattr(finite_cache, "all_finite", lambda gradients: not seen.append(len(gradients)))
    return seen


def test_a_kernel_that_is_given_a_gradients_pointer_may_write_to_it_once(
    tested: Cache, reads: list[int]
) -> None:
    """Triton's launchers ask each argument for its pointer: compiled code on a GPU does so in every step."""
    gradient, other = (torch.ones(3).as_subclass(OnGpu) for _ in range(2))
    for _ in range(2):
        gradient.data_ptr()  # in the backward pass: it is not tested yet
        tested.record([gradient], [torch.zeros(1)])
        other.data_ptr()
        assert tested.finite([gradient])
        assert reads == []
        tested.forget()
    tested.record([gradient], [torch.zeros(1)])
    gradient.data_ptr()
    tested.finite([gradient])
    assert reads == [1]
    tested.forget()
    tested.record([gradient], [torch.zeros(1)])
    tested.finite([gradient])
    assert reads == [1], "the kernel has run"
