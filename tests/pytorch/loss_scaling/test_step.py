"""Steps: a bad one changes nothing, in any optimizer; the value tested is the value used; the scale is kept."""

from __future__ import annotations

import copy
import ctypes
import inspect
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from halfstep.precisions.loss_scale import DynamicScale, Skip
from halfstep.pytorch.loss_scaling import finite_cache as tested
from halfstep.record import Writer
from halfstep.takeover.base import HOPELESS, EnoughSteps, GradientsOverflow

from ..conftest import Begin

pytestmark = pytest.mark.usefixtures("followed")

SCALED = "fp32:loss_scale=dynamic:init_scale=1024"
OPTIMIZERS = [
    cls
    for name, cls in sorted(vars(torch.optim).items())
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and name != "Optimizer"
]


def net_for(cls: type) -> nn.Module:
    torch.manual_seed(0)
    if cls is torch.optim.SparseAdam:
        return nn.Embedding(6, 4, sparse=True)
    if cls is torch.optim.Muon:
        return nn.Linear(4, 4, bias=False)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def loss_of(net: nn.Module, factor: float = 1.0) -> Tensor:
    x = torch.arange(6) if isinstance(net, nn.Embedding) else torch.linspace(-1, 1, 24).reshape(6, 4)
    return net(x).square().mean() * factor


def state_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    state = copy.deepcopy(optimizer.state_dict()["state"])
    return [{k: v.clone() for k, v in net.state_dict().items()}, state]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def train(optimizer: torch.optim.Optimizer, net: nn.Module, factor: float = 1.0) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(net, factor)
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_a_skipped_step_changes_nothing_in_any_optimizer(begin, cls: type) -> None:
    takeover = begin(SCALED)
    net = net_for(cls)
    optimizer = cls(net.parameters(), lr=0.01)
    train(optimizer, net)
    before = state_of(net, optimizer)
    train(optimizer, net, float("inf"))
    assert takeover.scaling.skipped == 1
    assert takeover.scaling.value == 512
    assert same(state_of(net, optimizer), before)
    train(optimizer, net)
    assert not same(state_of(net, optimizer), before), "the next good step is made"


def test_a_skip_tells_when_and_why(begin) -> None:
    takeover = begin(SCALED)
    net = net_for(torch.optim.SGD)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    train(optimizer, net)
    loss_of(net).backward()
    net[2].bias.grad[1] = float("nan")
    optimizer.step()
    assert takeover.scaling.skips.since == (
        Skip(1, 1024.0, "1 of 6 gradients are not finite, the first of shape (4,)"),
    )


def test_lbfgs_that_overflows_in_a_later_evaluation_is_put_back(begin) -> None:
    takeover = begin(SCALED)
    net = net_for(torch.optim.LBFGS)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1)
    train(optimizer, net)
    before = state_of(net, optimizer)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(net, float("inf") if calls == 3 else 1.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == 3
    assert takeover.scaling.skipped == 1
    assert same(state_of(net, optimizer), before)


@pytest.mark.parametrize("at", [0, 3], ids=["first", "later"])
def test_lbfgs_has_its_closure_again_where_only_the_scale_was_too_high(begin: Begin, at: int) -> None:
    """One step may be all of a training: it goes the way of a run that had the lower scale from the start."""

    def trained(scale: float) -> tuple[list[Tensor], float, int, int]:
        takeover = begin(f"fp32:loss_scale=dynamic:init_scale={scale}")
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
        net.load_state_dict(start)
        optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=6)
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            hidden = net(torch.linspace(-1, 1, 24).reshape(6, 4))
            if calls > at:  # as fp16 would do: above 2^12 these gradients overflow
                hidden.register_hook(
                    lambda gradient: gradient * (INF if takeover.scaling.value > 4096 else 1)
                )
            loss = hidden.square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        found = [value.clone() for value in net.state_dict().values()]
        takeover.remove()
        return found, takeover.scaling.value, takeover.skipped, calls

    start = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).state_dict()
    start = {name: value.clone() for name, value in start.items()}
    plain, _, _, evaluations = trained(4096)
    weights, scale, skipped, calls = trained(65536)
    assert (scale, skipped, calls) == (4096, 0, evaluations + 4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, plain, strict=True))


def test_lbfgs_is_skipped_where_no_scale_is_low_enough(begin: Begin) -> None:
    takeover = begin("fp32:loss_scale=dynamic:init_scale=16")
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([weight])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight - weight.detach()).sqrt().sum()  # 0, of infinite slope
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert (takeover.skipped, takeover.scaling.value) == (1, DynamicScale().floor)


def test_running_statistics_survive_an_overflow_in_the_forward_pass(begin) -> None:
    begin(SCALED)
    net = net_for(torch.optim.SGD)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train(optimizer, net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer.zero_grad()
    net(torch.full((6, 4), 3e38)).sum().backward()
    assert not torch.isfinite(net[1].running_var).all(), "the control: the forward pass has poisoned them"
    optimizer.step()
    assert same(dict(net.state_dict()), before)


def test_running_statistics_of_a_layer_of_the_scripts_own_survive(begin) -> None:
    """Its class is made after the takeover, and its forward pass is all its own, as in timm."""
    begin(SCALED)

    class Activated(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            self.num_batches_tracked.add_(1)
            mean, var = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, mean, var, self.weight, self.bias, True, 0.1).relu()

    net = Activated(4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.full((6, 4), 3e38)).sum().backward()
    assert not torch.isfinite(net.running_mean).all(), "the control: the forward pass has poisoned them"
    optimizer.step()
    assert same(dict(net.state_dict()), before)


def test_the_value_tested_is_the_value_used(begin) -> None:
    """Finite after the backward pass, infinite after what the script does to it; and the other way round."""
    takeover = begin(SCALED)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    weight.grad.mul_(float("inf"))
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3))
    assert takeover.scaling.skipped == 1
    optimizer.zero_grad()
    (weight * float("inf")).sum().backward()
    weight.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), 0.9))
    assert takeover.scaling.skipped == 1


INF = float("inf")


def _by_pointer(gradient: Tensor) -> None:
    (ctypes.c_float * gradient.numel()).from_address(gradient.data_ptr())[0] = INF


def _by_storage(gradient: Tensor) -> None:
    torch.empty(0).set_(gradient.untyped_storage(), 0, (3,)).fill_(INF)


def _by_the_kernel_of_a_scaler(gradient: Tensor) -> None:
    torch._amp_foreach_non_finite_check_and_unscale_([gradient], torch.zeros(1), torch.full((), INF))


WRITES = {
    "data": lambda gradient: gradient.data.mul_(INF),
    "data of a view": lambda gradient: gradient.view(-1).data.mul_(INF),
    "detach": lambda gradient: gradient.detach().mul_(INF),
    "view": lambda gradient: gradient.view(-1)[:1].fill_(float("nan")),
    "numpy": lambda gradient: gradient.numpy().fill(INF),
    "numpy of a view": lambda gradient: gradient.detach()[1:].numpy().fill(INF),
    "array": lambda gradient: np.asarray(gradient).fill(INF),
    "set data": lambda gradient: setattr(gradient, "data", torch.full((3,), INF)),
    "dlpack": lambda gradient: np.from_dlpack(gradient).__setitem__(0, INF),
    "dlpack capsule": lambda gradient: torch.from_dlpack(torch.utils.dlpack.to_dlpack(gradient)).mul_(INF),
    "pointer": _by_pointer,
    "storage": _by_storage,
    "storage's bytes": lambda gradient: gradient.untyped_storage().fill_(0xFF),
    "kernel": _by_the_kernel_of_a_scaler,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_gradients_changed_behind_pytorchs_back_are_tested_again(
    begin: Begin, write: Callable[[Tensor], object]
) -> None:
    takeover = begin(SCALED)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    write(weight.grad)
    assert not weight.grad.isfinite().all(), "the control: the write has reached the gradient"
    optimizer.step()
    assert takeover.scaling.skipped == 1
    assert torch.equal(weight.detach(), torch.ones(3))


def test_what_was_written_after_one_pass_is_not_forgotten_by_another(begin: Begin) -> None:
    """The second starts from two losses, and is followed in another way than the first."""
    takeover = begin(SCALED)
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in (first, second)]
    first.sum().backward()
    _by_the_kernel_of_a_scaler(first.grad)
    torch.autograd.backward([second.sum(), 2 * second.sum()])
    for optimizer in optimizers:
        optimizer.step()
    assert takeover.scaling.skipped == 1
    assert torch.equal(first.detach(), torch.ones(3))
    assert torch.equal(second.detach(), torch.full((3,), 1 - 0.1 * 3.0))


HELD = {
    "data": lambda gradient: gradient.data,
    "numpy": lambda gradient: gradient.numpy(),
    "dlpack": np.from_dlpack,
    "pointer": lambda gradient: (ctypes.c_float * 3).from_address(gradient.data_ptr()),
}


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD.keys())
def test_an_alias_that_is_held_may_write_in_any_later_step(
    begin: Begin, hold: Callable[[Tensor], Any]
) -> None:
    takeover = begin(SCALED)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    alias = hold(weight.grad)
    for step in range(4):
        optimizer.zero_grad(set_to_none=False)
        weight.sum().backward()
        if step % 2:
            alias[0] = INF
        before = weight.detach().clone()
        optimizer.step()
        assert torch.equal(weight.detach(), before) is bool(step % 2)
    assert takeover.scaling.skipped == 2


def test_memory_that_nobody_else_has_is_not_read_again(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, losses and batches may be looked at: their memory is not that of gradients."""
    begin(SCALED)
    monkeypatch.setattr(tested, "all_finite", lambda gradients: pytest.fail("the gradients were read again"))
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    batch = torch.ones(3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (weight * batch).sum()
        loss.backward()
        assert weight.detach().numpy().sum() == loss.detach().numpy()
        assert weight.data.data_ptr() != batch.data_ptr()
        optimizer.step()


def test_parameters_may_be_swapped_between_the_pass_and_the_step(begin: Begin) -> None:
    """As ``Module.to`` does where it is told to; gradients go with their parameters."""
    begin(SCALED)
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.ones(2)).sum().backward()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    before = layer.bias.detach().clone()
    optimizer.step()
    assert layer.bias.dtype is torch.float64
    assert torch.equal(layer.bias.detach(), before - 0.5)


def test_clipped_gradients_are_not_read_again_and_still_tested(
    begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    takeover = begin(SCALED)
    reads: list[int] = []
    exact = tested.all_finite
    monkeypatch.setattr(tested, "all_finite", lambda gradients: reads.append(1) or exact(gradients))
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for factor, skipped, passes in ((2.0, 0, 0), (float("inf"), 1, 1), (1e34, 1, 2)):
        optimizer.zero_grad()
        (weight * factor).sum().backward()
        nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        assert takeover.scaling.skipped == skipped
        assert len(reads) == passes, "only what the flags doubt is read once more"
        assert torch.isfinite(weight).all()
    optimizer.zero_grad()
    weight.sum().backward()
    nn.utils.clip_grad_norm_([weight], 1.0)
    weight.grad.mul_(float("nan"))
    optimizer.step()
    assert takeover.scaling.skipped == 2
    optimizer.zero_grad()
    weight.sum().backward()
    weight.grad.mul_(2.0)
    read = len(reads)
    nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
    assert (takeover.scaling.skipped, len(reads)) == (2, read), "the norm has read what was written meanwhile"


def test_a_scale_that_is_too_high_is_no_error_of_the_scripts(begin) -> None:
    """It asks to be told of a norm that is not finite; where the scale can fall no further, it is told."""
    takeover = begin("fp16:init_scale=65536")
    weight = nn.Parameter(torch.ones(4, 4))

    def one(optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
        optimizer.zero_grad()
        ((torch.ones(4, 4) @ weight).float() * factor).sum().backward()
        nn.utils.clip_grad_norm_([weight], 1.0, error_if_nonfinite=True)
        optimizer.step()

    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(4):
        one(optimizer)
    assert (takeover.skipped, takeover.scaling.value) == (3, 8192.0)
    assert not torch.equal(weight.detach(), torch.ones(4, 4)), "the fourth step was made"
    takeover.remove()
    begin("fp16:loss_scale=1024")
    with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped"):
        one(torch.optim.SGD([weight], lr=0.1), float("inf"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm_type", [2.0, 1, 0.5, float("inf"), "inf", 0.0])
def test_a_norm_vouches_for_gradients_only_where_it_tells(begin, norm_type: float, bad: float) -> None:
    """The norm of type 0 counts what is not zero: it is finite whatever the gradients are."""
    takeover = begin(SCALED)
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    sum(weight.sum() for weight in weights).backward()
    weights[1].grad[2] = bad
    nn.utils.clip_grad_norm_(weights, 1.0, norm_type)
    optimizer.step()
    assert takeover.scaling.skipped == 1
    assert all(torch.equal(weight.detach(), torch.ones(3)) for weight in weights)


def test_large_gradients_under_a_small_scale(begin) -> None:
    """torch.amp.GradScaler tests the scaled gradient: 3e38 times 2^-10 passes, and infinity is written."""
    begin("fp32:loss_scale=0.0009765625")
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * 3e38 * 4).sum().backward()
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(1))


def test_a_scale_that_has_fallen_to_1_grows_again(begin) -> None:
    takeover = begin("fp32:loss_scale=dynamic:init_scale=2:growth_interval=2")
    net = net_for(torch.optim.SGD)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scales = []
    for factor in (float("inf"), 1.0, 1.0, 1.0, 1.0):
        train(optimizer, net, factor)
        scales.append(takeover.scaling.value)
    assert scales == [1.0, 1.0, 2.0, 2.0, 4.0]


def test_several_optimizers_move_the_scale_once_a_pass(begin) -> None:
    takeover = begin("fp32:loss_scale=dynamic:growth_interval=2")
    a, b = (nn.Parameter(torch.ones(1)) for _ in range(2))
    first, second = torch.optim.SGD([a], lr=0.1), torch.optim.SGD([b], lr=0.1)
    for _ in range(2):
        (a + b).sum().backward()
        first.step()
        second.step()
    assert takeover.scaling.value == 2.0**17
    (a + b * float("inf")).sum().backward()
    first.step()
    second.step()
    assert takeover.scaling.value == 2.0**16, "one overflow halves it once"
    assert takeover.scaling.skipped == 1, "the optimizer whose gradients were finite has stepped"


@pytest.mark.parametrize("seed", range(4))
def test_the_scale_moves_as_torchs_with_several_optimizers(begin, seed: int) -> None:
    """Random steps, each the verdicts of three optimizers after one or two passes; the floor is ours."""
    choose = random.Random(seed)
    interval = choose.randint(1, 4)
    reference = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=interval)
    takeover = begin(f"fp32:loss_scale=dynamic:init_scale=16:growth_interval={interval}")
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizers = [torch.optim.SGD([weight], lr=1e-3) for weight in weights]
    for _ in range(60):
        factors = [choose.choice([1.0] * 7 + [float("inf")]) for _ in weights]
        for optimizer in optimizers:
            optimizer.zero_grad()
        for _ in range(choose.randint(1, 2)):
            sum((weight * factor).sum() for weight, factor in zip(weights, factors, strict=True)).backward()
        for optimizer in choose.sample(optimizers, 3):
            optimizer.step()
        reference.scale(torch.ones(()))
        for index, factor in enumerate(factors):
            found = torch.tensor(float(factor != 1.0))
            reference._per_optimizer_states[index]["found_inf_per_device"] = {found.device: found}
        reference.update()
        reference._scale.clamp_(DynamicScale().floor, DynamicScale().ceiling)
        assert takeover.scaling.value == reference.get_scale()


def test_an_optimizer_a_parameter_is_not_hopeless_after_one_pass(begin) -> None:
    """More parameters overflow in one pass than steps in a row are borne; twenty such passes end the program."""
    begin("fp32:loss_scale=1024")
    weights = [nn.Parameter(torch.ones(2)) for _ in range(HOPELESS + 5)]
    optimizers = {weight: torch.optim.SGD([weight], lr=0.1) for weight in weights}
    for weight in weights:
        weight.register_post_accumulate_grad_hook(lambda weight: optimizers[weight].step())
    for _ in range(HOPELESS - 1):
        (sum(weight.sum() for weight in weights) * float("inf")).backward()
    with pytest.raises(GradientsOverflow):
        (sum(weight.sum() for weight in weights) * float("inf")).backward()


def test_one_of_two_optimizers_that_never_steps_is_told_of(begin) -> None:
    begin("fp32:loss_scale=1024")
    good, bad = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in (good, bad)]
    with pytest.raises(GradientsOverflow, match=f"not finite in {HOPELESS} steps in a row"):
        for _ in range(HOPELESS):
            good.sum().backward()
            (bad * float("nan")).sum().backward()
            for optimizer in optimizers:
                optimizer.step()


def test_a_default_device_is_the_scripts_own_affair(begin) -> None:
    """Scripts say ``torch.set_default_device("cuda")``; what halfstep makes for itself lies where it has to."""
    takeover = begin(SCALED)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.25)
    with torch.device("meta"):
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            (weight * factor).sum().backward()
            optimizer.step()
    assert takeover.skipped == 1
    assert torch.equal(weight.detach(), torch.full((3,), 0.5))


def test_bf16_and_fp32_step_as_plain_pytorch_does_unless_asked(begin) -> None:
    for recipe, kept in (("fp32", False), ("bf16", False), ("bf16:skip_nonfinite", True)):
        takeover = begin(recipe)
        weight = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        (weight * float("inf")).sum().backward()
        optimizer.step()
        assert bool(torch.isfinite(weight).all()) is kept
        takeover.remove()


def test_persistent_overflow_ends_in_a_diagnosis_and_finite_weights(begin) -> None:
    begin("fp16:init_scale=4")
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def one_step() -> None:
        optimizer.zero_grad()
        (weight * float("inf")).sum().backward()
        optimizer.step()

    with pytest.raises(GradientsOverflow) as caught:
        for _ in range(HOPELESS + 30):
            one_step()
    assert str(caught.value) == (
        f"Gradients were not finite in {HOPELESS} steps in a row at the smallest scale 2^-24: fp16 cannot hold "
        "this training's numbers; try bf16, or fp32 to see whether it is the precision's fault."
    )
    assert torch.equal(weight.detach(), torch.ones(2))


def test_gradients_of_1e5_and_more_train_under_a_scale_below_1(begin) -> None:
    """A sum over 2000 samples: half the gradient of a weight is above 65504, fp16's largest number."""
    x = torch.linspace(-3, 3, 2000)[:, None] ** torch.arange(1, 4)
    target = x[:, 0].sin()

    def train() -> float:
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
        for _ in range(200):
            loss = ((net(x)[:, 0] - target) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    plain = train()
    takeover = begin("fp16")
    ours = train()
    assert takeover.scaling.value < 1
    assert takeover.skipped <= 8, "halving alone takes 18 batches to find the scale"
    # The slowest direction's loss falls as exp(-k / 500) in k steps: 8 left out leave 2 % of it, rounding 2^-10 * 4.
    assert abs(ours - plain) <= 0.03 * plain


def test_the_scale_rides_in_the_optimizers_state(begin, tmp_path) -> None:
    takeover = begin(SCALED)
    net = net_for(torch.optim.AdamW)
    optimizer = torch.optim.AdamW(net.parameters())
    train(optimizer, net)
    train(optimizer, net, float("inf"))
    train(optimizer, net)
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    takeover.remove()
    state = torch.load(tmp_path / "o.pt", weights_only=True)
    plain = torch.optim.AdamW(net.parameters())
    plain.load_state_dict(state)  # without halfstep
    assert "halfstep" not in plain.state_dict()
    resumed = begin(SCALED)
    torch.optim.AdamW(net.parameters()).load_state_dict(state)
    assert resumed.scaling.loss_scale == DynamicScale(512.0, finite_steps=1)
    assert resumed.scaling.skipped == 1
    torch.optim.AdamW(net.parameters()).load_state_dict(plain.state_dict())  # written without halfstep


def test_no_spurious_warning_of_a_scheduler(begin) -> None:
    begin(SCALED)
    net = net_for(torch.optim.SGD)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(optimizer, net, float("inf"))
        scheduler.step()


def test_a_scheduler_before_the_first_step_is_told_so(begin) -> None:
    begin(SCALED)
    optimizer = torch.optim.SGD(net_for(torch.optim.SGD).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(
        UserWarning, match=r"you should call them in the opposite order: `optimizer.step\(\)` before"
    ):
        scheduler.step()


def test_steps_end_the_program_and_count_one_optimizer(begin) -> None:
    begin("fp32", steps=2)
    a, b = (nn.Parameter(torch.ones(1)) for _ in range(2))
    first, second = torch.optim.SGD([a], lr=0.1), torch.optim.SGD([b], lr=0.1)

    def one_step() -> None:
        (a + b).sum().backward()
        first.step()
        second.step()

    one_step()
    with pytest.raises(EnoughSteps) as caught:
        one_step()
    assert caught.value.code == 0


def test_optimizers_made_before_the_takeover_are_seen(begin) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    takeover = begin(SCALED)
    (weight * float("nan")).sum().backward()
    optimizer.step()
    assert takeover.scaling.skipped == 1
    assert torch.equal(weight.detach(), torch.ones(2))


def test_one_optimizer_that_hooks_step_for_each_parameter_makes_one_step_per_pass(begin) -> None:
    takeover = begin("fp32", steps=3)
    weights = [nn.Parameter(torch.ones(2)) for _ in range(4)]
    optimizer = torch.optim.SGD(weights, lr=0.25)

    def step(weight: Tensor) -> None:
        optimizer.step()
        weight.grad = None

    for weight in weights:
        weight.register_post_accumulate_grad_hook(step)
    with pytest.raises(EnoughSteps):
        for _ in range(5):
            sum(weight.sum() for weight in weights).backward()
    assert takeover.steps == 3
    assert all(torch.equal(w.detach(), torch.full((2,), 0.25)) for w in weights), "the third pass was whole"


def trained_in_hooks(read: list[float]) -> list[Tensor]:
    """The last of a layer's parameters clips and steps the layer; its hooks read one another's gradients.

    The first layer is recomputed twice in each pass, so that it is reached again after its hooks were called.
    """
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4) for _ in range(3)]
    optimizers = {layer: torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5) for layer in layers}

    def hooked(layer: nn.Linear, waits_for: int) -> Callable[[Tensor], None]:
        calls = [0]

        def hook(parameter: Tensor) -> None:
            calls[0] += 1
            if calls[0] == waits_for:
                calls[0] = 0
                read.extend(float(p.grad.norm()) for p in layer.parameters())
                nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
                optimizers[layer].step()
                optimizers[layer].zero_grad()

        return hook

    for index, layer in enumerate(layers):
        hook = hooked(layer, 2 if index else 4)
        for parameter in layer.parameters():
            parameter.register_post_accumulate_grad_hook(hook)
    layers[2].weight.register_post_accumulate_grad_hook(lambda weight: read.append(float(weight.sum())))
    x = torch.linspace(-1, 1, 24).reshape(6, 4).requires_grad_()
    for _ in range(3):
        y = x
        for _ in range(2):
            y = torch.utils.checkpoint.checkpoint(layers[0], y, use_reentrant=True).tanh()
        layers[2](layers[1](y).tanh()).square().sum().backward()
    return [parameter.detach() for layer in layers for parameter in layer.parameters()]


def test_hooks_that_step_a_whole_layer_see_true_gradients_of_all_its_parameters(begin) -> None:
    """A scale that is a power of two changes no bit of fp32; the reference is plain PyTorch."""
    read: list[float] = []
    expected, seen = trained_in_hooks(read), read.copy()
    read.clear()
    begin(SCALED)
    assert all(torch.equal(*pair) for pair in zip(trained_in_hooks(read), expected, strict=True))
    assert read == seen


@pytest.mark.parametrize("zeroed", [True, False])
def test_a_hook_of_one_parameter_that_steps_all_of_them_uses_true_gradients(begin, zeroed: bool) -> None:
    """Its own is reached last; the others have no hook that unscales them. The reference is plain PyTorch."""

    def train() -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(_: Tensor) -> None:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            if zeroed:
                optimizer.zero_grad()

        net[0].weight.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            net(torch.linspace(-1, 1, 24).reshape(6, 4)).square().sum().backward()
        return [p.detach() for p in net.parameters()] + [p.grad for p in net.parameters() if not zeroed]

    expected = train()
    takeover = begin(SCALED)
    assert all(torch.equal(*pair) for pair in zip(train(), expected, strict=True))
    assert (takeover.steps, takeover.skipped) == (3, 0)


def test_a_gradient_that_a_hook_has_read_is_tested_before_the_step(begin) -> None:
    takeover = begin(SCALED)
    weight = nn.Parameter(torch.ones(2))
    weight.register_post_accumulate_grad_hook(lambda weight: None)
    optimizer = torch.optim.SGD([weight], lr=0.25)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        (weight * factor).sum().backward()
        optimizer.step()
    assert torch.equal(weight.detach(), torch.full((2,), 0.5))
    assert takeover.scaling.skipped == 1


def by_hand(
    scale: float,
    dtype: torch.dtype = torch.float32,
    started: Callable[[Tensor, float], None] = lambda loss, scale: (loss * scale).backward(),
    grown: float = 1.0,
) -> tuple[list[Tensor], int, float]:
    """A loss scaler as research code writes it: weights, its own steps, and its scale at the end."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 16, generator=generator).to(dtype), torch.randint(0, 4, (64,), generator=generator)
    steps = 0
    for _ in range(12):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        started(loss, scale)
        for p in net.parameters():
            p.grad.div_(scale)
        if all(p.grad.isfinite().all() for p in net.parameters()):
            optimizer.step()
            steps += 1
            scale *= grown
        else:
            scale /= 2
    return [p.detach() for p in net.parameters()], steps, scale


def test_a_scaler_written_by_hand_scales_alone(begin) -> None:
    """In fp16: 12 steps of 24 roundings at most, each moving a weight by less than 0.1 of it."""
    exact, _, _ = by_hand(4096.0, torch.float64)
    takeover = begin("fp16")
    weights, steps, scale = by_hand(4096.0)
    assert (steps, scale, takeover.steps, takeover.skipped) == (12, 4096.0, 12, 0)
    for ours, true in zip(weights, exact, strict=True):
        assert (ours - true).norm() <= 12 * 24 * 2.0**-11 * 0.1 * true.norm()


def test_a_scaler_written_by_hand_finds_its_own_height(begin) -> None:
    """With two scales the script skipped until their product was low enough, and its own was far below."""
    begin("fp16")
    _, _, scale = by_hand(2.0**24)
    assert scale >= 2.0**14


@pytest.mark.parametrize(
    "started",
    [
        lambda loss, scale: (loss * scale).backward(),
        lambda loss, scale: (torch.tensor(scale) * loss).backward(),
        lambda loss, scale: (loss * scale / 2).backward(),
        lambda loss, scale: (loss / (1 / scale)).double().backward(),
        lambda loss, scale: loss.backward(torch.tensor(scale)),
        lambda loss, scale: torch.autograd.backward([loss], [torch.tensor(scale)]),
    ],
)
def test_a_scaler_written_by_hand_need_not_be_a_power_of_two(begin, started) -> None:
    """It grows by 0.1 % per step; beside a second scale of 65536 the script would skip, and halve its own."""
    takeover = begin("fp16")
    _, steps, scale = by_hand(2.0**20, started=started, grown=1.001)
    assert (steps, takeover.steps, takeover.skipped) == (12, 12, 0)
    assert scale == pytest.approx(2.0**20 * 1.001**12)


def test_a_script_may_lower_its_own_scale_as_far_as_it_takes(begin) -> None:
    """At 512 a first factor would be a weight of the loss; of a line that has a scale it is one."""
    takeover = begin("fp32:loss_scale=dynamic:init_scale=1024")
    weight = nn.Parameter(torch.ones(3))
    torch.optim.SGD([weight], lr=0.1)
    for factor in (2000.0 / 2**n for n in range(12)):
        (weight.sum() * factor).backward()
        assert takeover.scaling.last_value == 1.0


@pytest.mark.parametrize("factor", [1000.0, 512.0])
def test_a_weight_of_a_loss_is_no_scale(begin, factor: float) -> None:
    takeover = begin("fp32:loss_scale=dynamic:init_scale=1024")
    weight = nn.Parameter(torch.ones(3))
    torch.optim.SGD([weight], lr=0.1)  # without one, each line that asks for gradients has a scale of its own
    (weight.sum() * factor).backward()
    assert takeover.scaling.last_value == 1024.0
    (weight.sum() * 2048.0).backward()
    assert takeover.scaling.last_value == 1.0


def test_with_several_optimizers_the_skipped_steps_are_those_that_are_counted(
    begin: Begin, tmp_path: Path
) -> None:
    """Steps are the first optimizer's: of 4 steps 2 were skipped, although 5 updates were."""
    takeover = begin(SCALED, Writer(tmp_path / "record.jsonl"))
    weights = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
    bad = [(1, 1), (2, 0), (2, 1), (2, 2), (3, 0)]
    for step in range(4):
        for index, (weight, optimizer) in enumerate(zip(weights, optimizers, strict=True)):
            optimizer.zero_grad()
            (weight * (INF if (step, index) in bad else 1.0)).sum().backward()
            optimizer.step()
    assert (takeover.steps, takeover.skipped, takeover.skipped_here, takeover.skipped_beside) == (4, 5, 2, 3)
    takeover.close()
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "skip"] == [step for step, _ in bad]
    assert sum(line["skipped"] for line in lines if line["event"] == "step") == 2
