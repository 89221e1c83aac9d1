"""A recipe in force for the length of one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import torch

from halfstep.pytorch.takeover import Options, Takeover
from halfstep.recipes import parse
from halfstep.record import NullWriter, Writer

from .played_device import play

Begin = Callable[..., Takeover]
Kernel = TypeVar("Kernel")


def compiled(found: Kernel | None) -> Kernel:
    """What a compiler made of a source; the test is skipped where there is none."""
    if found is None:
        pytest.skip("no compiler for C or C++")
    return found


@pytest.fixture
def begin() -> Iterator[Begin]:
    """``begin("fp16")`` puts a recipe into force; the test's end takes it away."""
    begun: list[Takeover] = []

    def start(recipe: str, writer: Writer | None = None, **options: object) -> Takeover:
        takeover = Takeover(Options(parse(recipe), writer=writer or NullWriter(), **options))  # type: ignore[arg-type]
        begun.append(takeover)
        return takeover

    yield start
    for takeover in reversed(begun):
        takeover.close()
        takeover.remove()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's events and pinned memory, played by the CPU."""
    play(monkeypatch)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """What a look at a step leaves behind would be seen by all later tests."""
    yield
    assert not torch._C._autograd._profiler_enabled()
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert torch._C._len_torch_dispatch_stack() == 0
