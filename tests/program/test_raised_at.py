"""The line and the modules that an exception came from, in programs whose lines are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from halfstep.program.raised_at import RaisedAt


class Net(nn.Module):
    def __init__(self, body: str) -> None:
        super().__init__()
        self.enc, self.heads = nn.Linear(2, 2), nn.ModuleDict({"a": nn.Linear(2, 2)})
        self.inner, self.body = Inner(), body

    def forward(self, x: Any) -> Any:
        return getattr(self, self.body)(x)

    def same_line(self, x: Any) -> Any:
        return fail(self.enc(x))

    def variable(self, x: Any) -> Any:
        hidden = self.enc(x)
        other = self.heads.a(x) if hasattr(self.heads, "a") else x
        return fail(
            hidden,
        ), other

    def renamed(net, x: Any) -> Any:
        return fail(net.enc(x))

    def nested(self, x: Any) -> Any:
        return self.inner(x)

    def alone(self, x: Any) -> Any:
        return fail(x)


class Inner(nn.Module):
    def forward(self, x: Any) -> Any:
        return fail(x)


fail: Callable[..., Any] = int  # refuses a tensor of several numbers, in C: no frame of its own


def raised(body: str, wrap: Callable[[nn.Module], nn.Module] = lambda net: net) -> RaisedAt:
    import torch

    with pytest.raises((ValueError, RuntimeError)) as caught:
        wrap(Net(body))(torch.ones(2, 2))
    return RaisedAt.of(caught.value)


@pytest.mark.parametrize(
    ("body", "code", "modules"),
    [
        ("same_line", "return fail(self.enc(x))", ("enc",)),
        ("renamed", "return fail(net.enc(x))", ("enc",)),
        ("variable", "hidden,", ("enc", "heads.a")),
        ("nested", "return fail(x)", ("inner",)),
        ("alone", "return fail(x)", ()),
    ],
)
def test_the_modules_whose_results_meet_are_named(body: str, code: str, modules: tuple[str, ...]) -> None:
    found = raised(body)
    assert found.place.startswith("test_raised_at.py:")
    assert found.modules == modules
    assert found.code in (code, "return fail(")  # Python 3.10 gives a call of several lines its first


def test_wrappers_do_not_count_in_the_name() -> None:
    class Parallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return self.module(x)

    assert raised("same_line", Parallel).modules == ("enc",)


def test_a_failure_of_a_library_is_where_the_program_called_it() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2)(torch.ones(3, 3))
    found = RaisedAt.of(caught.value)
    assert found.code == "nn.Linear(2, 2)(torch.ones(3, 3))"


def test_what_cannot_be_read_is_empty() -> None:
    assert RaisedAt.of(ValueError("never raised")) == RaisedAt()
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "<string>", "exec"), {})
    assert RaisedAt.of(caught.value).place.startswith("test_raised_at.py:")
