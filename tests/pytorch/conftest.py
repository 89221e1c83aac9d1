"""A recipe in force for the length of one test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, TypeVar

import pytest
import torch
from torch.autograd import profiler as autograd_profiler

from halfstep.options import RunOptions
from halfstep.precisions.recipes import parse
from halfstep.pytorch.loss_scaling import scale
from halfstep.pytorch.loss_scaling.scaled_pass import scaled_pass
from halfstep.pytorch.products import products, python_kernel
from halfstep.pytorch.products.cpp_kernel import cpp_kernel
from halfstep.pytorch.takeover import Takeover
from halfstep.record import NullWriter, Writer
from halfstep.takeover.base import Options

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
        of_run: dict[str, Any] = {
            n: options.pop(n) for n in [f.name for f in fields(RunOptions)] if n in options
        }
        run, more = RunOptions(**of_run), dict[str, Any](options)
        takeover = Takeover(Options(parse(recipe), run, writer or NullWriter(), **more))
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
def two_threads() -> Iterator[None]:
    """Large tensors are divided among threads here, though every other process of the tests computes with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """What a look at a step leaves behind would be seen by all later tests."""
    yield
    assert not torch._C._autograd._profiler_enabled()
    assert not autograd_profiler._is_profiler_enabled
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert torch._C._len_torch_dispatch_stack() == 0
    if (dynamo := sys.modules.get("torch._dynamo.eval_frame")) is not None:
        assert dynamo._stance.stance == "default"


@pytest.fixture(params=["cpp", "python"])
def products_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Products in fp32 units by the kernel in C++, and by the one for where there is no compiler."""
    if request.param == "python":
        monkeypatch.setattr(products, "cpp_kernel", lambda: None)
    else:
        compiled(cpp_kernel())
    yield request.param
    if products._current is not None:
        products._current.remove()


@pytest.fixture(params=["in C++", "in Python"])
def followed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scaled pass reaches, and what was tested of it, is followed in C++, and in Python without a compiler."""
    if request.param == "in Python":
        monkeypatch.setattr(scale, "scaled_pass", lambda: None)
    else:
        compiled(scaled_pass())


class Calls(list[str]):
    """The operations that were computed in fp32, in their order.

    Attributes:
        threads: that did each.
    """

    def __init__(self) -> None:
        self.threads: list[int] = []

    def note(self, name: str) -> None:
        self.append(name)
        self.threads.append(threading.get_ident())

    def clear(self) -> None:
        super().clear()
        self.threads.clear()


@pytest.fixture
def calls(products_kernel: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """What either kernel, or the mode, computes in fp32."""
    seen, real = Calls(), python_kernel.in_fp32

    def noting(operation: Any, *rest: Any) -> Any:
        seen.note(operation.name)
        return real(operation, *rest)

    monkeypatch.setattr(python_kernel, "in_fp32", noting)
    kernel = cpp_kernel() if products_kernel == "cpp" else None
    if kernel is not None:
        kernel.listen(seen.note)
    yield seen
    if kernel is not None:
        kernel.listen(None)
