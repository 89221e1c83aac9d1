"""The scaler against float64 and exact arithmetic, against torch.amp.GradScaler, and against misuse."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler
from halfstep.pytorch.grad_scaler.misuse import ScaleCollapse, ScalerMisuse

INF = math.inf


def scaler(**options: Any) -> GradScaler:
    return GradScaler("cpu", **options)


def parameter(value: float = 1.0, grad: float | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.full((3,), value, dtype=dtype, requires_grad=True)
    if grad is not None:
        made.grad = torch.full((3,), grad, dtype=dtype)
    return made


def started(p: Tensor, **options: Any) -> tuple[GradScaler, torch.optim.Optimizer]:
    """A scaler that has scaled something, and SGD with learning rate 1."""
    made = scaler(**options)
    made.scale(torch.ones(()))
    return made, torch.optim.SGD([p], lr=1.0)


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "SGD fused": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, fused=True),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.1),
    "AdamW fused": lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
    "Adagrad fused": lambda ps: torch.optim.Adagrad(ps, lr=0.1, fused=True),
}


def train(make: Callable[[list[Tensor]], torch.optim.Optimizer], use: Any, bad_step: int) -> list[Tensor]:
    """Six steps on a quadratic in float32, one with a gradient made infinite; the weights and the state."""
    torch.manual_seed(0)
    weights = [torch.randn(5, 4, requires_grad=True), torch.randn(4, requires_grad=True)]
    data = torch.randn(6, 8, 5)
    optimizer = make(weights)
    for i, x in enumerate(data):
        optimizer.zero_grad()
        loss = ((x @ weights[0] + weights[1]) ** 2).mean()
        if use is None:
            loss.backward()
            if i != bad_step:
                optimizer.step()
            continue
        use.scale(loss).backward()
        if i == bad_step:
            weights[1].grad[2] = INF  # type: ignore[index]
        use.step(optimizer)
        assert use.last_step_skipped == (i == bad_step)
        use.update()
    state = [value for p in weights for value in optimizer.state[p].values() if isinstance(value, Tensor)]
    return [*weights, *state]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("init_scale", [2.0**16, 2.0**-3])
def test_power_of_two_changes_no_bit(name: str, init_scale: float) -> None:
    plain = train(OPTIMIZERS[name], None, bad_step=2)
    floor = min(init_scale, 1.0) / 4
    scaled = train(OPTIMIZERS[name], scaler(init_scale=init_scale, min_scale=floor), bad_step=2)
    for expected, found in zip(plain, scaled, strict=True):
        assert torch.equal(expected, found)


def test_skips_are_counted() -> None:
    use = scaler(init_scale=1024.0)
    train(OPTIMIZERS["SGD"], use, bad_step=3)
    assert (use.skipped_steps, use.get_scale()) == (1, 512.0)
    train(OPTIMIZERS["AdamW fused"], use, bad_step=0)
    assert (use.skipped_steps, use.get_scale()) == (2, 256.0)


@pytest.mark.parametrize("fused", [False, True])
def test_the_value_tested_is_the_value_used(fused: bool) -> None:
    # 3e38 is finite, 3e38 / 2^-10 is not: torch.amp.GradScaler lets it through and writes inf into the weight.
    p = parameter(grad=3e38)
    use = scaler(init_scale=2.0**-10, min_scale=2.0**-14)
    use.scale(torch.ones(()))
    use.step(torch.optim.SGD([p], lr=1.0, fused=fused))
    assert use.last_step_skipped
    assert torch.equal(p, torch.ones(3))


def test_persistent_overflow_stays_at_the_floor_and_is_diagnosed() -> None:
    good, bad = parameter(grad=1.0), parameter()
    use = scaler(init_scale=8.0, min_scale=2.0, floor_patience=5)
    use.scale(torch.ones(()))
    optimizer = torch.optim.AdamW([good, bad])

    def overflow() -> float:
        bad.grad = torch.tensor([1.0, INF, math.nan])
        assert use.step(optimizer) is None
        use.update()
        return use.get_scale()

    assert [overflow() for _ in range(6)] == [4.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    expected = (
        "5 steps in a row were skipped with the loss scale at its floor of 2; "
        "1 of 2 gradients are not finite, the first is param_groups[0]['params'][1] of shape (3,); look for a loss "
        "that is not finite, a learning rate too high, or an operation that needs float32; gradients that are too "
        "large for float16 at this scale need a smaller min_scale."
    )
    with pytest.raises(ScaleCollapse, match="^" + re.escape(expected) + "$"):
        overflow()
    assert use.skipped_steps == 7
    assert [overflow() for _ in range(4)] == [2.0] * 4  # caught, the scaler goes on and counts anew
    assert torch.equal(bad, torch.ones(3))


def test_a_collapse_is_diagnosed_in_a_sparse_gradient() -> None:
    table = torch.nn.Embedding(4, 3, sparse=True)
    use, optimizer = started(table.weight, init_scale=1.0, floor_patience=1)
    use.scale(table(torch.tensor([1, 1])).sum() * INF).backward()
    use.step(optimizer)
    with pytest.raises(ScaleCollapse, match=re.escape("param_groups[0]['params'][0] of shape (4, 3)")):
        use.update()


def test_a_finite_step_breaks_the_row() -> None:
    p = parameter()
    use, optimizer = started(p, init_scale=1.0, floor_patience=3)
    for grad in (INF, INF, 0.0) * 4:
        p.grad = torch.full((3,), grad)
        use.step(optimizer)
        use.update()
    assert use.skipped_steps == 8


# --- the same as torch.amp.GradScaler ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scale_moves_as_torchs(seed: int) -> None:
    options: dict[str, Any] = {"init_scale": 2.0**20, "growth_interval": 3, "growth_factor": 4.0}
    scalers = [scaler(**options), torch.amp.GradScaler("cpu", **options)]
    generator = torch.Generator().manual_seed(seed)
    scales: list[list[float]] = [[], []]
    weights = [parameter(), parameter()]
    optimizers = [torch.optim.SGD([p], lr=0.5) for p in weights]
    for _ in range(60):
        bad = torch.rand((), generator=generator) < 0.2
        for use, p, optimizer, seen in zip(scalers, weights, optimizers, scales, strict=True):
            use.scale(torch.ones(()))
            p.grad = torch.full((3,), INF if bad else use.get_scale() * 0.01)
            use.step(optimizer)
            use.update()
            seen.append(use.get_scale())
    assert scales[0] == scales[1]
    assert torch.equal(weights[0], weights[1])


def test_each_loads_the_others_state() -> None:
    ours = scaler(init_scale=512.0, growth_interval=7)
    theirs = torch.amp.GradScaler("cpu")
    p = parameter()
    for _ in range(3):
        ours.scale(torch.ones(()))
        p.grad = torch.zeros(3)
        ours.step(torch.optim.SGD([p], lr=1.0))
        ours.update()
    theirs.load_state_dict(ours.state_dict())
    assert theirs.state_dict() == ours.state_dict()
    assert ours.state_dict()["_growth_tracker"] == 3
    again = scaler()
    again.load_state_dict(theirs.state_dict())
    assert again.state_dict() == ours.state_dict()


def test_collapsed_checkpoint_is_raised_to_the_floor() -> None:
    state = {**scaler().state_dict(), "scale": 2.0**-20}
    use = scaler()
    with pytest.warns(UserWarning, match=re.escape("below min_scale; going on from 1.")):
        use.load_state_dict(state)
    assert use.get_scale() == 1.0


@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_below_1_is_taken_as_pytorchs_scaler_takes_it(fused: bool) -> None:
    """Gradients of 1e7 in fp16, which only such a scale holds; set at first, or set later as a number or a tensor."""

    def train(use: torch.amp.GradScaler, set_scale: float | Tensor | None) -> tuple[list[float], float]:
        p = parameter()
        optimizer = torch.optim.SGD([p], lr=2.0**-24, fused=fused)
        for step in range(3):
            optimizer.zero_grad()
            use.scale((p * 1e7).sum()).backward()
            use.step(optimizer)
            use.update(set_scale if step == 0 else None)
        return p.tolist(), use.get_scale()

    for init_scale, then in [(2.0**-10, None), (2.0**8, 2.0**-12), (2.0**8, torch.tensor(2.0**-12))]:
        theirs = train(torch.amp.GradScaler("cpu", init_scale=init_scale), then)
        assert train(scaler(init_scale=init_scale), then) == theirs


def test_pickle_and_deepcopy() -> None:
    use = scaler(min_scale=4.0, floor_patience=9)
    train(OPTIMIZERS["SGD"], use, bad_step=1)
    for twin in (pickle.loads(pickle.dumps(use)), copy.deepcopy(use)):
        assert twin.state_dict() == use.state_dict()
        assert (twin.min_scale, twin.skipped_steps) == (4.0, 1)
        train(OPTIMIZERS["SGD"], twin, bad_step=4)
        assert twin.skipped_steps == 2


def test_disabled_does_nothing() -> None:
    p = parameter(grad=INF)
    use, optimizer = started(p, enabled=False)
    use.step(optimizer)
    use.unscale_(optimizer)
    use.update()
    assert p.isinf().all()
    assert (use.get_scale(), use.skipped_steps, use.last_step_skipped) == (1.0, 0, False)


def test_clipping_sees_true_gradients() -> None:
    p = parameter(grad=3.0 * 2.0**16)
    use, optimizer = started(p)
    use.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_([p], 1.0)
    assert norm.item() == pytest.approx(math.sqrt(27.0))
    use.step(optimizer)
    # float64: 1 - 3 / (sqrt(27) + 1e-6)
    torch.testing.assert_close(p.detach().double(), torch.full((3,), 1 - 3 / (27**0.5 + 1e-6)).double())


def test_several_dtypes_complex_and_sparse() -> None:
    double = parameter(grad=8e300, dtype=torch.float64)
    complex_ = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    complex_.grad = torch.tensor([4 + 8j, 12 - 4j])
    embedding = torch.ones(4, 2, requires_grad=True)
    embedding.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[4.0, 8.0], [4.0, 0.0]]), (4, 2), check_invariants=True
    )
    use = scaler(init_scale=4.0)
    use.scale(torch.ones(()))
    optimizer = torch.optim.SGD([double, complex_, embedding], lr=1.0)
    use.unscale_(optimizer)
    assert double.grad is not None
    assert double.grad.tolist() == [2e300] * 3
    assert complex_.grad.tolist() == [1 + 2j, 3 - 1j]
    assert embedding.grad.to_dense().tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]
    use.step(optimizer)
    use.update()
    complex_.grad = torch.tensor([1 + 0j, complex(0, INF)])
    use.step(optimizer)
    assert use.last_step_skipped


# --- closures ----------------------------------------------------------------------------------------------


def fit(use: GradScaler | None, poison_call: int = -1) -> tuple[Tensor, dict[str, Any], list[Any]]:
    """Three LBFGS steps on Rosenbrock's function; one evaluation may be given an infinite gradient."""
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=8, line_search_fn="strong_wolfe")
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        optimizer.zero_grad()
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        (use.scale(loss) if use else loss).backward()
        if calls == poison_call:
            x.grad[0] = INF  # type: ignore[index]
        calls += 1
        return loss

    returned = []
    for _ in range(3):
        if use is None:
            returned.append(optimizer.step(closure))
            continue
        before = x.detach().clone(), copy.deepcopy(optimizer.state_dict())
        returned.append(use.step(optimizer, closure))
        if use.last_step_skipped:
            assert torch.equal(x, before[0])
            assert repr(optimizer.state_dict()) == repr(before[1])
        use.update()
    return x.detach(), optimizer.state_dict()["state"], returned


def test_lbfgs_takes_the_same_path_scaled() -> None:
    plain, scaled = fit(None), fit(scaler(init_scale=2.0**10))
    assert torch.equal(plain[0], scaled[0])
    assert [v.item() for v in plain[2]] == [v.item() for v in scaled[2]]
    assert repr(plain[1]) == repr(scaled[1])


def test_lbfgs_step_that_overflows_midway_changes_nothing() -> None:
    use = scaler(init_scale=2.0**10)
    returned = fit(use, poison_call=12)[2]
    assert [value is None for value in returned].count(True) == 1
    assert (use.skipped_steps, use.get_scale()) == (1, 2.0**9)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("keyword", [False, True])
def test_closure_of_an_optimizer_that_calls_it_once(name: str, keyword: bool) -> None:
    weights = [parameter(2.0), parameter(2.0)]
    optimizers = [OPTIMIZERS[name]([p]) for p in weights]
    use = scaler()

    def closure() -> Tensor:
        loss = (weights[0] ** 2).sum()
        use.scale(loss).backward()
        use.unscale_(optimizers[0])  # allowed within, for clipping
        return loss

    options = {"closure": closure} if keyword else {}
    assert use.step(optimizers[0], *(() if keyword else (closure,)), **options).item() == 12.0
    use.update()
    (weights[1] ** 2).sum().backward()
    optimizers[1].step()
    assert torch.equal(weights[0], weights[1])


# --- other people's optimizers -----------------------------------------------------------------------------


class UnscalesItself(torch.optim.SGD):
    """An optimizer with the documented contract: it reads grad_scale and found_inf."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, lr=1.0)
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert self.found_inf.item() == 0.0
        for p in self.param_groups[0]["params"]:
            p -= p.grad / self.grad_scale


def test_contract_with_optimizers_that_unscale() -> None:
    p = parameter(grad=2.0**15)
    optimizer = UnscalesItself([p])
    use, _ = started(p)
    use.step(optimizer)
    use.update()
    assert p.tolist() == [0.5] * 3
    assert not hasattr(optimizer, "grad_scale")
    assert p.grad is not None
    assert p.grad.tolist() == [2.0**15] * 3  # tested, and left to the optimizer
    p.grad.fill_(INF)
    use.step(optimizer)
    assert use.last_step_skipped
    assert p.tolist() == [0.5] * 3


# --- misuse: each sentence names the cure, and is the error that PyTorch raises ------------------------------


def unscale_twice(use: GradScaler, optimizer: torch.optim.Optimizer) -> None:
    use.unscale_(optimizer)
    use.unscale_(optimizer)


def unscale_after_step(use: GradScaler, optimizer: torch.optim.Optimizer) -> None:
    use.step(optimizer)
    use.unscale_(optimizer)


def step_twice(use: GradScaler, optimizer: torch.optim.Optimizer) -> None:
    use.step(optimizer)
    use.step(optimizer)


MISUSE: list[tuple[Any, type[Exception], str]] = [
    (
        unscale_twice,
        RuntimeError,
        "unscale_() has already been called on this optimizer since the last update(); "
        "call it once per iteration, after the last backward() and before clipping.",
    ),
    (
        unscale_after_step,
        RuntimeError,
        "unscale_() is being called after step(); call it before step(), and update() after both.",
    ),
    (
        step_twice,
        RuntimeError,
        "step() has already been called since the last update(); "
        "call update() once at the end of every iteration, after all step()s.",
    ),
    (
        lambda use, optimizer: use.update(),
        AssertionError,
        "No inf checks were recorded for this optimizer; "
        "call scaler.scale(loss).backward() before step(optimizer), and step() before update().",
    ),
]


@pytest.mark.parametrize(("misuse", "kind", "sentence"), MISUSE)
def test_misuse(misuse: Any, kind: type[Exception], sentence: str) -> None:
    use, optimizer = started(parameter(grad=1.0))
    with pytest.raises(kind, match="^" + re.escape(sentence) + "$") as caught:
        misuse(use, optimizer)
    assert isinstance(caught.value, ScalerMisuse)
    assert isinstance(caught.value, UsageError)


CLIPPING = {
    "max_norm": torch.nn.utils.clip_grad_norm_,
    "clip_value": torch.nn.utils.clip_grad_value_,  # the names are a program's, from before there was a scaler
}


@pytest.mark.parametrize("limit", CLIPPING)
@pytest.mark.parametrize("fused", [False, True])
def test_clipping_of_scaled_gradients_draws_a_warning(fused: bool, limit: str) -> None:
    clip = CLIPPING[limit]
    p = parameter(grad=3.0 * 2.0**16)
    use, optimizer = started(p)
    if fused:
        optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    clip((p for p in [p]), 1.0)
    assert (p.grad.abs() <= 1).all(), "clipped it was"
    with pytest.warns(UserWarning, match=clip.__name__) as caught:
        use.step(optimizer)
    assert [str(w.message) for w in caught] == [
        f"{clip.__name__}() has clipped gradients that were still scaled by 65536; "
        f"call scaler.unscale_(optimizer) before clipping, unless {limit} was scaled as well."
    ]
    use.update()
    p.grad = torch.ones(3)
    clip([p], 1.0)  # before anything was scaled again
    use.scale(torch.ones(()))
    use.unscale_(optimizer)
    clip([p], 1.0)
    use.step(optimizer)


def test_clipping_at_a_scale_of_1_is_in_order() -> None:
    p = parameter(grad=3.0)
    use, optimizer = started(p, init_scale=1.0)
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    assert p.grad is not None
    clipped = p.grad.clone()
    use.step(optimizer)
    assert torch.equal(p, 1 - clipped)


def test_clipping_of_a_parameter_that_two_optimizers_share_is_in_order() -> None:
    p = parameter(grad=3.0)
    use, first = started(p)
    second = torch.optim.SGD([p], lr=1.0)
    use.unscale_(first)
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    use.step(first)
    use.step(second)


def test_warnings_name_the_scripts_line() -> None:
    p = parameter(grad=1.0)
    use, optimizer = started(p)

    def script() -> None:
        GradScaler("cpu", init_scale=3.0)
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        use.step(optimizer)
        use.update(3.0)
        use.load_state_dict({**use.state_dict(), "scale": 0.25})

    with pytest.warns(UserWarning, match="power of two|still scaled|below min_scale") as caught:
        script()
    begin = script.__code__.co_firstlineno
    assert [(w.filename, w.lineno - begin) for w in caught] == [(__file__, line) for line in (1, 3, 4, 5)]


def test_a_scheduler_after_a_skipped_first_step_is_not_too_early() -> None:
    p = parameter(grad=INF)
    use, optimizer = started(p)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    use.step(optimizer)
    assert use.last_step_skipped
    scheduler.step()


def test_a_scheduler_before_the_first_step_is_told_so() -> None:
    p = parameter(grad=1.0)
    use, optimizer = started(p)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(
        UserWarning, match=r"you should call them in the opposite order: `optimizer.step\(\)` before"
    ):
        scheduler.step()
    use.step(optimizer)


def test_fp16_parameters() -> None:
    use, optimizer = started(parameter(grad=1.0, dtype=torch.float16))
    sentence = (
        "Attempting to unscale FP16 gradients; keep the parameters in float32 (model.float()) "
        "and compute in float16 by torch.autocast."
    )
    with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
        use.step(optimizer)


@pytest.mark.parametrize("call", ["step", "unscale_", "update"])
def test_before_anything_was_scaled(call: str) -> None:
    optimizer = torch.optim.SGD([parameter(grad=1.0)], lr=1.0)
    sentence = "_scale is None; call scaler.scale(loss).backward() first."
    with pytest.raises(AssertionError, match=re.escape(sentence)):
        getattr(scaler(), call)(*([] if call == "update" else [optimizer]))


def test_step_without_gradients() -> None:
    use, optimizer = started(parameter())
    with pytest.raises(ScalerMisuse, match="No inf checks were recorded for this optimizer"):
        use.step(optimizer)


@pytest.mark.parametrize("unscale", [False, True])
def test_a_fused_optimizer_may_have_no_gradients(unscale: bool) -> None:
    use, optimizer = started(parameter(grad=1.0))
    idle = torch.optim.SGD([parameter()], lr=1.0, fused=True)
    if unscale:
        use.unscale_(idle)
    use.step(idle)
    assert not use.last_step_skipped
    with pytest.raises(ScalerMisuse, match="No inf checks were recorded"):
        use.update()
    use.step(optimizer)
    use.update()


def test_a_grad_scale_of_the_scripts_is_for_one_step() -> None:
    moved: list[list[float]] = []
    for use in (scaler(init_scale=8.0), torch.amp.GradScaler("cpu", init_scale=8.0)):
        p = parameter()
        optimizer: Any = torch.optim.SGD([p], lr=1.0, fused=True)
        optimizer.grad_scale = torch.tensor(4.0)
        for _ in range(2):
            optimizer.zero_grad()
            use.scale(p.sum()).backward()
            use.step(optimizer)
            use.update()
            assert not hasattr(optimizer, "grad_scale")
        moved.append(p.tolist())
    assert moved == [[-0.25] * 3] * 2  # 1 - 1/4 - 1


SMALLER = "give a smaller min_scale, a power of two, if that is meant."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_scale": 3.0}, "min_scale is 3; it must be a power of two, for example 2 or 4."),
        ({"growth_factor": 1.0}, "growth_factor is 1; it must be above 1, for example 2."),
        ({"backoff_factor": 1.0}, "backoff_factor is 1; it must lie between 0 and 1, for example 0.5."),
        (
            {"growth_interval": 0},
            "growth_interval is 0 and floor_patience 50; each must be 1 or more updates.",
        ),
        ({"init_scale": math.nan}, "init_scale is nan; it must be finite and at least min_scale, 1."),
        ({"init_scale": 0.0}, f"init_scale is 0; it must be finite and at least min_scale, 1: {SMALLER}"),
        (
            {"init_scale": 0.5, "min_scale": 1.0},
            f"init_scale is 0.5; it must be finite and at least min_scale, 1: {SMALLER}",
        ),
    ],
)
def test_arguments_out_of_range(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError, match="^" + re.escape(sentence) + "$"):
        scaler(**options)


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("init_scale", 3.0, "2 or 4"),
        ("init_scale", 1.5, "1 or 2"),
        ("growth_factor", 1.5, "2"),
        ("growth_factor", 3.0, "2 or 4"),
        ("backoff_factor", 0.8, "0.5"),
        ("backoff_factor", 0.3, "0.25 or 0.5"),
    ],
)
def test_factors_that_are_no_powers_of_two_are_taken_with_a_warning(
    argument: str, value: float, allowed: str
) -> None:
    sentence = f"{argument} is {value:g}, which is not a power of two such as {allowed}: unscaling rounds."
    with pytest.warns(UserWarning, match="^" + re.escape(sentence) + "$"):
        use = scaler(**{argument: value})
    assert getattr(use, f"_{argument}") == value
    for power in allowed.split(" or "):
        scaler(**{argument: float(power)})  # the cure is accepted


def test_update_to_a_given_scale() -> None:
    use, _ = started(parameter())
    use.update(64.0)
    assert use.get_scale() == 64.0
    use, _ = started(parameter(), min_scale=1.0)
    use.update(torch.tensor(2.0**-3))  # a tensor is not read, only held to the floor
    assert use.get_scale() == 1.0
    with pytest.raises(UsageError, match=re.escape("new_scale is 0.25; it must be finite and at least")):
        use.update(0.25)


# --- on a GPU ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"fused": True}, {"fused": True, "capturable": True}], ids=str)
def test_fused_and_capturable_steps_do_not_synchronize(options: dict[str, bool]) -> None:
    p = torch.ones(1000, device="cuda", requires_grad=True)
    optimizer = torch.optim.AdamW([p], lr=0.1, **options)
    use = GradScaler("cuda")
    for index in range(3):
        p.grad = torch.full_like(p, INF if index == 1 else 1.0)
        before = p.detach().clone()
        torch.cuda.set_sync_debug_mode("error")
        try:
            use.scale(torch.ones((), device="cuda"))
            use.step(optimizer)
            use.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(p, before) is (index == 1)
    assert use.skipped_steps == 1


def test_a_default_device_is_the_scripts_own_affair() -> None:
    use = scaler(init_scale=4.0)
    p = parameter()
    optimizer = torch.optim.SGD([p], lr=0.25)
    before = p.detach().clone()
    with torch.device("meta"):
        for grad in (4.0, INF):
            use.scale(before.sum())
            p.grad = torch.full((3,), grad, device="cpu")
            use.step(optimizer)
            use.update()
    assert use.skipped_steps == 1
    assert torch.equal(p.detach(), before - 0.25)
