"""What ``torch.autograd.grad`` hands out in fp16: finite wherever it is finite unscaled, and as accurate as can be.

The reference is float64; what can be reached is the smallest error of the same pass under plain autocast, scaled by hand
by every eighth power of two.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.loss_scaling import gradient_pass
from halfstep.pytorch.loss_scaling.pass_scales import PassScale, PassScales
from halfstep.pytorch.loss_scaling.repeats import Attempts

from ..conftest import Begin

F = nn.functional
Gradients = Callable[[], "list[Tensor]"]
pytorchs_grad = torch.autograd.grad


def grad(*args: Any, **kwargs: Any) -> Any:
    """As a script calls it, under the recipe in force."""
    return torch.autograd.grad(*args, **kwargs)


def a_net(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).to(
        dtype
    )


def data(dtype: torch.dtype) -> Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


class Program:
    """One that asks for gradients, in ``dtype``, by ``grad``; ``weight`` is of its loss."""

    def __init__(self, dtype: torch.dtype, weight: float) -> None:
        self.net, self.x, self.weight = a_net(dtype), data(dtype), weight
        self.grad: Callable[..., Any] = torch.autograd.grad

    def loss(self, x: Tensor) -> Tensor:
        return self.net(x).to(x.dtype).square().mean() * self.weight

    def saliency(self) -> list[Tensor]:
        x = self.x.requires_grad_()
        return list(self.grad(self.loss(x), x))

    def parameters(self) -> list[Tensor]:
        return list(self.grad(self.loss(self.x), list(self.net.parameters())))

    def second_order(self) -> list[Tensor]:
        x = self.x.requires_grad_()
        (first,) = self.grad(self.loss(x), x, create_graph=True)
        return list(self.grad(first.square().sum(), list(self.net.parameters()), allow_unused=True))[:-1]

    def fisher(self) -> list[Tensor]:
        rows = [self.grad(self.net(x[None]).sum() * self.weight, self.net[0].weight)[0] for x in self.x[:3]]
        return [sum(row.flatten()[:, None] * row.flatten() for row in rows) / self.weight]

    def batched(self) -> list[Tensor]:
        x = self.x[:4].requires_grad_()
        out = self.net(x)[:, 0] * self.weight
        return list(self.grad(out, x, torch.eye(4, dtype=x.dtype), is_grads_batched=True))


class ByFunc(Program):
    """The same with ``torch.func``."""

    def of(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (
            torch.func.functional_call(self.net, parameters, (x,)).to(x.dtype).square().mean() * self.weight
        )

    @property
    def detached(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.net.named_parameters()}

    def func_grad(self) -> list[Tensor]:
        return list(torch.func.grad(self.of)(self.detached, self.x).values())

    def vjp(self) -> list[Tensor]:
        out, pull = torch.func.vjp(lambda x: self.of(self.detached, x), self.x)
        return list(pull(torch.ones_like(out)))

    def per_sample(self) -> list[Tensor]:
        return list(torch.func.vmap(torch.func.grad(self.of), (None, 0))(self.detached, self.x[:4]).values())

    def jacrev(self) -> list[Tensor]:
        return [torch.func.jacrev(lambda x: self.net(x) * self.weight)(self.x[:3])]

    def hessian(self) -> list[Tensor]:
        return [torch.func.hessian(lambda x: self.of(self.detached, x[None]))(self.x[0])]

    def functional_hessian(self) -> list[Tensor]:
        return [torch.autograd.functional.hessian(lambda x: self.loss(x[None]), self.x[0])]

    def functional_vhp(self) -> list[Tensor]:
        return [torch.autograd.functional.vhp(lambda x: self.loss(x[None]), self.x[0], self.x[1])[1]]


PROGRAMS: dict[str, Callable[[Program], list[Tensor]]] = {
    name: getattr(cls, name)
    for cls, names in (
        (Program, ("saliency", "parameters", "second_order", "fisher", "batched")),
        (
            ByFunc,
            ("func_grad", "vjp", "per_sample", "jacrev", "hessian", "functional_hessian", "functional_vhp"),
        ),
    )
    for name in names
}


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Relative, of all numbers together; NaN and infinities count as infinite."""
    ours, reference = (torch.cat([t.detach().double().flatten() for t in ts]) for ts in (found, exact))
    worst = ((ours - reference).norm() / reference.norm()).item()
    return worst if worst == worst else float("inf")


def scaled_by_hand(scale: float) -> Callable[..., tuple[Tensor, ...]]:
    def by_hand(outputs: Any, inputs: Any, seeds: Any = None, **rest: Any) -> tuple[Tensor, ...]:
        outputs, seeds = ([x] if isinstance(x, Tensor) else x for x in (outputs, seeds))
        seeds = [None] * len(outputs) if seeds is None else seeds
        given = [torch.ones_like(o) if s is None else s for o, s in zip(outputs, seeds, strict=True)]
        found = pytorchs_grad(outputs, inputs, [seed * scale for seed in given], **rest)
        return tuple(None if g is None else g / scale for g in found)  # type: ignore[misc]

    return by_hand


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # vmap imports it
@pytest.mark.parametrize(
    ("name", "weight"),
    [(name, 1.0) for name in PROGRAMS]
    + [("saliency", 1e-7), ("saliency", 1e5), ("hessian", 1e-7), ("hessian", 1e3)],
)
def test_as_accurate_as_under_the_best_scale(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, name: str, weight: float
) -> None:
    make, program = (ByFunc if hasattr(ByFunc, name) else Program), PROGRAMS[name]
    exact = program(make(torch.float64, weight))
    reached = []
    for exponent in range(-16, 41, 8):
        with torch.autocast("cpu", torch.float16), monkeypatch.context() as patched:
            by_hand = make(torch.float32, weight)
            by_hand.grad = scaled_by_hand(2.0**exponent)
            patched.setattr(torch.autograd, "grad", by_hand.grad)
            reached.append(error(program(by_hand), exact))
    assert max(reached) > 0.1, "the control: some scales are no use"
    assert min(reached) < 0.01, "the control: some are"
    begin("fp16")
    for _ in range(2):
        assert error(program(make(torch.float32, weight)), exact) <= 1.5 * min(reached)


def times(x: Tensor, factor: float) -> Tensor:
    """``x`` times ``factor``, computed by a model, and so in the recipe's format."""
    model = nn.Sequential(nn.Linear(x.numel(), x.numel(), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(x.numel()) * factor)  # type: ignore[operator]
    return model(x).float()  # type: ignore[no-any-return]


class Observed:
    """A pass that overflows under 65536, and what the script's own code in it is handed: ``seen`` is what it did.

    The graph is x -> 2^12 x, in fp16 -> a hook -> an ``autograd.Function`` of the script's -> the sum of squares.
    """

    def __init__(self, keep: bool | None = None, create: bool = False) -> None:
        self.seen: list[Any] = []
        self.x = torch.linspace(1, 2, 8).requires_grad_()
        self.keep, self.create = keep, create
        outer = self

        class Noted(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, tensor: Tensor) -> Tensor:
                return tensor.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                outer.seen.append("backward")
                return gradient * 2

        self.noted = Noted

    def out(self) -> Tensor:
        hidden = times(self.x, 4096) / 4096
        hidden.register_hook(lambda g: self.seen.append(("hidden", g.tolist())))
        self.x.register_hook(lambda g: self.seen.append(("x", g.tolist())))
        dropped = nn.functional.dropout(hidden, 0.5)
        return self.noted.apply(dropped).square().sum()  # type: ignore[no-any-return, no-untyped-call]

    def gradient(self) -> Tensor:
        (found,) = grad(self.out(), self.x, retain_graph=self.keep, create_graph=self.create)
        return found


def observed() -> list[Any]:
    torch.manual_seed(3)
    program = Observed()
    return [program.gradient().tolist(), program.seen, torch.rand(2).tolist()]


@pytest.mark.usefixtures("followed")
def test_what_belongs_to_the_script_runs_once_and_sees_true_gradients(begin: Begin) -> None:
    """The values are multiples of 1/7 with a factor 4, rounded to fp16 where they pass the product: 2^-11 each way."""
    plain = observed()
    takeover = begin("fp16")
    ours = observed()
    line = next(iter(takeover.scaling.pass_scales._scales.values()))
    assert line.value < 2.0**16, "the control: the pass was repeated"
    assert [kind if isinstance(kind, str) else kind[0] for kind in ours[1]] == [
        kind if isinstance(kind, str) else kind[0] for kind in plain[1]
    ]
    for (_, seen), (_, true) in zip(ours[1][1:], plain[1][1:], strict=True):
        assert torch.allclose(torch.tensor(seen), torch.tensor(true), rtol=2.0**-9, atol=0)
    assert torch.allclose(torch.tensor(ours[0]), torch.tensor(plain[0]), rtol=2.0**-9, atol=0)
    assert ours[2] == plain[2], "as many random numbers were drawn"


def recomputed() -> list[Any]:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(3)
    x = torch.linspace(1, 2, 64).requires_grad_()
    hidden = checkpoint(
        lambda t: F.dropout(times(t, 1), 0.5), x, use_reentrant=False, preserve_rng_state=False
    )
    (found,) = grad((hidden * 4096).sum(), x)
    return [found.tolist(), torch.rand(2).tolist()]


def test_random_numbers_are_drawn_as_in_one_pass(begin: Begin) -> None:
    plain = recomputed()
    begin("fp16")
    assert recomputed() == plain


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("keep", [None, False, True])
@pytest.mark.parametrize("create", [False, True])
def test_the_graph_is_kept_or_freed_as_in_plain_pytorch(
    begin: Begin, keep: bool | None, create: bool
) -> None:
    def again() -> str:
        program = Observed()
        out = program.out()
        grad(out, program.x, retain_graph=keep, create_graph=create)
        try:
            grad(out, program.x)
        except RuntimeError as error:
            return str(error)
        return "kept"

    plain = again()
    begin("fp16")
    assert again() == plain


@pytest.mark.usefixtures("followed")
def test_only_what_the_pass_came_by_is_freed(begin: Begin) -> None:
    def both() -> list[Any]:
        a, b = (torch.linspace(1, 2, 8).requires_grad_() for _ in range(2))
        left, right = a.exp(), b.exp()
        out = (left * right).sum()
        found = [grad(out, left)[0], grad(right.sum(), b)[0], grad(left.sum(), a)[0]]
        with pytest.raises(RuntimeError, match="second time"):
            grad(out, b)
        return [t.tolist() for t in found]

    plain = both()
    begin("fp32:loss_scale=1024")
    assert both() == plain


@pytest.mark.usefixtures("followed")
def test_buffers_do_not_outlive_the_pass(begin: Begin) -> None:
    begin("fp16")
    x = torch.ones(8, requires_grad=True)
    kept = torch.full((8,), 2.0)
    buffer = weakref.ref(kept)
    out = (x * kept).sum()
    del kept
    grad(out, x)
    assert buffer() is None
    assert out.grad_fn is not None


@pytest.mark.usefixtures("followed")
def test_gradients_kept_inside_the_graph_are_added_once(begin: Begin) -> None:
    def kept() -> list[Tensor]:
        x = torch.linspace(1, 2, 8).requires_grad_()
        hidden = x * 1.0
        hidden.retain_grad()
        out = times(hidden, 8192).sum()
        found = [grad(out, x, retain_graph=True)[0] for _ in range(2)]
        return [*found, hidden.grad]

    plain = kept()
    begin("fp16")
    for ours, theirs in zip(kept(), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_a_gradient_that_no_scale_makes_finite_is_handed_out_as_it_is(begin: Begin) -> None:
    takeover = begin("fp16")
    torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)  # else it is a step, which is skipped
    for _ in range(3):
        x = torch.tensor([0.0, 4.0], requires_grad=True)
        (found,) = grad((x.sqrt() * 0 + x.sqrt()).sum(), x)
        assert not found[0].isfinite()
        assert found[1] == 0.25
    assert takeover.scaling.value == 2.0**16


def test_inputs_may_be_a_dict(begin: Begin) -> None:
    begin("fp32:loss_scale=1024")
    x = torch.ones(3, requires_grad=True)
    found = grad((2 * x).sum(), {"x": x})
    assert torch.equal(found["x"], torch.full((3,), 2.0))


def attempts(top: float, start: float, searches: bool = True) -> tuple[list[float], PassScale]:
    """The exponents of the scales that were tried, where what is above ``top`` overflows."""
    tried: list[float] = []
    line = PassScale(2.0**start)

    def attempt(scale: float, refuses: bool) -> float | None:
        tried.append(torch.tensor(scale).log2().item())
        return scale if scale <= 2.0**top or not refuses else None

    Attempts(line, PassScales(searches=searches, grows=True), attempt, searches, lambda made: ()).made()
    return tried, line


@pytest.mark.parametrize("top", range(-24, 41))
def test_the_scale_of_a_line_is_found_in_a_few_passes(top: int) -> None:
    tried, line = attempts(top, 16)
    assert 2.0 ** (top - 4) < line.value <= 2.0**top
    assert len(tried) <= 9
    again, _ = attempts(top, 16, searches=False)
    assert len(again) <= len(tried)


@pytest.mark.parametrize("sizes", [(1e6, 1e-12, 1e6, 1e-12), (1e-12, 1e6, 1e-3), (1.0, 0.0, 1e-12, 1.0)])
def test_each_call_of_a_line_is_as_accurate_as_the_best_scale_makes_it(begin: Begin, sizes) -> None:
    begin("fp16")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(4, 8, requires_grad=True)
    (unit,) = grad(model(x).sum(), x)
    for size in sizes:
        (found,) = grad(model(x).sum() * size, x)
        assert torch.allclose(found, unit * size, rtol=0.01, atol=0.01 * size * float(unit.abs().max()))


def test_a_line_whose_gradients_change_little_makes_one_pass_per_call() -> None:
    line, scales = PassScale(2.0**16), PassScales(searches=True, grows=True)

    def passes(size: float) -> int:
        tried = []

        def attempt(scale: float, refuses: bool) -> list[Tensor] | None:
            tried.append(scale)
            return [torch.tensor([size])] if size * scale < 2.0**16 else None

        Attempts(line, scales, attempt, True, lambda made: made).made()
        return len(tried)

    assert passes(1.0) > 1
    assert [passes(size) for size in (0.5, 0.1, 0.7, 1.0)] == [1, 1, 1, 1]
    assert passes(1e-6) > 1


def test_a_line_remembers_its_scale_and_grows_it(begin: Begin) -> None:
    scales = PassScales(searches=False, grows=True)
    line = PassScale(1024.0)
    for _ in range(500):
        scales.succeeded(line, line.value)
    assert line.value == 2048.0


def test_where_there_is_no_compiler_no_buffer_is_kept(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran() -> list[str]:
        program = Observed()
        out = program.out()
        grad(out, program.x)
        with pytest.raises(RuntimeError, match="second time"):
            grad(out, program.x)
        return [kind if isinstance(kind, str) else kind[0] for kind in program.seen]

    plain = ran()
    monkeypatch.setattr(gradient_pass, "release", lambda *_: False)
    begin("fp16")
    assert ran() == plain, "freeing runs none of the script's code"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compilers_keep_out_of_it(begin: Begin) -> None:
    """Compiled code breaks its graph at the call, as in plain PyTorch; compiled autograd traces the pass inside."""
    begin("fp16")
    x = torch.linspace(1, 2, 8).requires_grad_()
    found = torch.compile(lambda: torch.autograd.grad(times(x, 8192).sum(), x), backend="eager")
    assert torch.equal(found()[0], torch.full((8,), 8192.0))
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: (x * x).sum().backward(), backend="eager")()
    assert torch.equal(x.grad, 2 * x.detach())


def test_a_hook_may_be_handed_a_gradient_that_shares_its_memory(begin: Begin) -> None:
    begin("fp16")
    x, seen = torch.ones(8, requires_grad=True), []
    x.register_hook(lambda gradient: seen.append(gradient.tolist()))
    assert torch.equal(grad(x.sum(), x)[0], torch.ones(8))
    assert seen == [[1.0] * 8]
