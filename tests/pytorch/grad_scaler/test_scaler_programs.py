"""Random training programs: equal bit for bit under halfstep's scaler and PyTorch's, and under a scale and none."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler

INF = math.inf

Options = dict[str, Any]
OPTIMIZERS: dict[str, list[Options]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}],
    "Adam": [{}, {"amsgrad": True}, {"maximize": True}],
    "AdamW": [{}, {"amsgrad": True}],
    "Adagrad": [{}, {"lr_decay": 0.1}],
    "Adadelta": [{}, {"weight_decay": 0.1}],
    "Adamax": [{}],
    "NAdam": [{"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "RAdam": [{}],
    "RMSprop": [{"momentum": 0.9}, {"centered": True}],
    "Rprop": [{}],
    "ASGD": [{"weight_decay": 0.1}],
    "Adafactor": [{}],
    "Muon": [{}],
    "SparseAdam": [{}],
}
STYLES: list[Options] = [{}, {"foreach": True}, {"foreach": False}]
FUSED: list[Options] = [{"fused": True}] * 3
SHAPES = [(), (3,), (4, 3), (2, 3, 4), (7, 1), (90, 11), (0,)]
DTYPES = [torch.float32] * 5 + [torch.bfloat16, torch.float64]
SCALES = [2.0**k for k in (0, 1, 4, 10, 16, 40, 120)]


@dataclass
class Made:
    """What a program works on."""

    use: Any
    weights: list[Tensor]
    sparse: list[bool]
    optimizers: list[Optimizer]
    schedulers: list[Any]


class Plain(torch.amp.GradScaler):
    """PyTorch's, of whose fused optimizers every one is stepped as those that are not: unscaled, tested, then stepped.

    So a skipped step leaves a fused optimizer's state alone. One without gradients is stepped all the same.
    """

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        none = all(p.grad is None for group in optimizer.param_groups for p in group["params"])
        optimizer._step_supports_amp_scaling = fused and none
        try:
            return super().step(optimizer, *args, **kwargs)
        finally:
            optimizer._step_supports_amp_scaling = fused


def make(chance: random.Random, use: Any) -> Made:
    """Two to five weights of random shapes and dtypes, dealt out to one or two random optimizers."""
    count = chance.randint(2, 5)
    cuts = [0, count] if chance.random() < 0.6 else [0, chance.randint(1, count - 1), count]
    weights: list[Tensor] = []
    sparse: list[bool] = []
    optimizers: list[Optimizer] = []
    for start, end in itertools.pairwise(cuts):
        name = chance.choice(list(OPTIMIZERS))
        fusable = name in ("SGD", "Adam", "AdamW", "Adagrad")
        style = {} if name in ("Muon", "SparseAdam") else chance.choice(STYLES + FUSED * fusable)
        mine = [weight(chance, name) for _ in range(start, end)]
        lr = chance.choice([0.01, 0.1, 1.0])
        groups: Any = mine
        if len(mine) > 1 and chance.random() < 0.3:
            groups = [{"params": mine[:1], "lr": lr / 2}, {"params": mine[1:]}]
        options = {"lr": lr, **chance.choice(OPTIMIZERS[name]), **style}
        optimizers.append(getattr(torch.optim, name)(groups, **options))
        weights += mine
        sparse += [name == "SparseAdam"] * len(mine)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in optimizers if chance.random() < 0.3]
    return Made(use, weights, sparse, optimizers, schedulers)


def weight(chance: random.Random, name: str) -> Tensor:
    if name in ("Muon", "SparseAdam"):
        return torch.randn(6, 2, requires_grad=True)
    shapes = SHAPES[:-1] if name == "Adafactor" else SHAPES  # PyTorch's divides by the number of elements
    return torch.randn(chance.choice(shapes), dtype=chance.choice(DTYPES), requires_grad=True)


def loss(made: Made) -> Tensor:
    """Random data, and a nonlinear function of every weight."""
    total = torch.zeros(())
    for w, sparse in zip(made.weights, made.sparse, strict=True):
        if sparse:
            rows = nn.functional.embedding(torch.randint(6, (4,)), w, sparse=True)
            total = total + (rows * torch.randn(4, 2)).square().sum()
        else:
            x = torch.randn(w.shape, dtype=w.dtype)
            total = total + ((w * x + x).tanh() * (w - x)).square().sum().float()
    return total


def backward(chance: random.Random, made: Made) -> None:
    way = chance.choice(["one", "one", "several", "retained", "functional"])
    if way == "several":
        first, (second,) = made.use.scale((loss(made), [loss(made)]))
        (first + second).backward()
    elif way == "functional":
        used = [w for w in made.weights if w.requires_grad]
        for w, gradient in zip(used, torch.autograd.grad(made.use.scale(loss(made)), used), strict=True):
            w.grad = gradient if w.grad is None else w.grad + gradient
    else:
        scaled = made.use.scale(loss(made))
        scaled.backward(retain_graph=way == "retained")
        if way == "retained":
            scaled.backward()


def overflow(chance: random.Random, weights: list[Tensor]) -> None:
    """One number of one gradient becomes another."""
    gradient, at = chance.choice(weights).grad, chance.random()
    value = chance.choice([INF, -INF, math.nan, 1e-40, 1e30])
    if gradient is not None:
        values = gradient._values() if gradient.is_sparse else gradient
        if values.numel():
            values.view(-1)[int(at * values.numel())] = value


def step(chance: random.Random, made: Made, optimizer: Optimizer) -> Any:
    used = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not used and not getattr(optimizer, "_step_supports_amp_scaling", False):
        return "all of its weights are frozen"  # either scaler would raise
    dense = [p for p in used if not p.grad.is_sparse]
    if chance.random() < 0.4:
        made.use.unscale_(optimizer)
        limit = chance.choice([0.1, 1.0, 100.0])
        if chance.random() < 0.6:
            nn.utils.clip_grad_norm_(dense, limit)
        elif dense:
            nn.utils.clip_grad_value_(dense, limit)
    return made.use.step(optimizer)


def between(chance: random.Random, made: Made) -> None:
    """What scripts do between two iterations."""
    act = chance.choice(
        ["state", "pickle", "copy", "interval", "factors", "optimizer", "freeze", "grow"] + [""] * 12
    )
    optimizer = chance.choice(made.optimizers)
    if act == "state":
        made.use.load_state_dict(made.use.state_dict())
    elif act == "pickle":
        made.use = pickle.loads(pickle.dumps(made.use))
    elif act == "copy":
        made.use = copy.deepcopy(made.use)
    elif act == "interval":
        made.use.set_growth_interval(chance.choice([1, 2, 5]))
    elif act == "factors":
        made.use.set_growth_factor(8.0)
        made.use.set_backoff_factor(0.125)
    elif act == "optimizer":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif act == "freeze" and sum(w.requires_grad for w in made.weights) > 1:
        chosen = chance.choice(made.weights)
        chosen.requires_grad_(not chosen.requires_grad)
    elif act == "grow" and type(optimizer).__name__ not in ("Muon", "SparseAdam"):
        made.weights.append(torch.ones(2, requires_grad=True))
        made.sparse.append(False)
        optimizer.add_param_group({"params": made.weights[-1:]})


def run(seed: int, scaler: type[Any]) -> Iterator[Any]:
    """What can be seen of a random program after each of its iterations, the same for the same seed."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    scale, growth, backoff = chance.choice(SCALES), chance.choice([2.0, 4.0]), chance.choice([0.5, 0.25])
    made = make(chance, scaler("cpu", scale, growth, backoff, chance.choice([1, 2, 3, 2000]), seed % 20 != 0))
    for _ in range(chance.randint(3, 8)):
        if chance.random() < 0.9:
            for w in made.weights:
                w.grad = None if chance.random() < 0.7 or w.grad is None else w.grad * 0
        for _ in range(chance.choice([1, 1, 2, 3])):
            backward(chance, made)
            if chance.random() < 0.2:
                overflow(chance, made.weights)
        returned = [step(chance, made, o) for o in chance.sample(made.optimizers, len(made.optimizers))]
        for scheduler in made.schedulers:
            scheduler.step()
        new = chance.choice(SCALES) if chance.random() < 0.1 else None
        made.use.update(torch.tensor(new) if new and chance.random() < 0.5 else new)
        if made.use.is_enabled() and made.use.get_scale() < 1:
            made.use.update(1.0)  # PyTorch's has no floor
        yield [returned, made.use.state_dict(), seen(made)]
        if made.use.is_enabled():
            between(chance, made)


def seen(made: Made) -> list[Any]:
    """Copies of weights, gradients and the state of optimizers."""
    state = [[o.state.get(w, {}) for w in made.weights] for o in made.optimizers]
    return copy.deepcopy([[w.detach() for w in made.weights], [w.grad for w in made.weights], state])


def same(a: Any, b: Any) -> bool:
    """Equal in every bit, but that one NaN is as good as another."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.is_sparse:
            a, b = a.to_dense(), b.to_dense()
        bits = a.isnan() | ((a == b) & (a.signbit() == b.signbit()))
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.isnan(), b.isnan())
            and bool(bits.all())
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_programs_end_as_with_torchs(first: int) -> None:
    """No warning of ours either: these programs use the scaler as they should."""
    for seed in range(first, first + 20):
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected call of `lr_scheduler.step"
            )  # PyTorch's, after a skipped step
            expected = list(run(seed, Plain))
        for i, (theirs, ours) in enumerate(zip(expected, run(seed, GradScaler), strict=True)):
            assert same(theirs, ours), (seed, i)


class Bare:
    """No scaler: a script that knows nothing of loss scales."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def scale(self, outputs: Any) -> Any:
        return outputs

    def unscale_(self, optimizer: Optimizer) -> None:
        pass

    def step(self, optimizer: Optimizer) -> Any:
        return optimizer.step()

    def update(self, new_scale: Any = None) -> None:
        pass

    def is_enabled(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {}


class Guarded(Bare):
    """The same script, had it looked at its gradients before every step."""

    def step(self, optimizer: Optimizer) -> Any:
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        dense = [g.to_dense() if g.is_sparse else g for g in gradients]
        return optimizer.step() if all(bool(g.isfinite().all()) for g in dense) else None


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize(
    "recipe",
    ["fp32:loss_scale=4", "fp32:loss_scale=dynamic:init_scale=1024:growth_interval=1"],
)
def test_random_scripts_see_nothing_of_a_scale_but_skipped_steps(
    begin: Any, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without weights in bf16: a recipe in fp32 would widen them."""
    monkeypatch.setattr(sys.modules[__name__], "DTYPES", [torch.float32] * 6 + [torch.float64])
    expected = [list(run(seed, Guarded)) for seed in range(60)]
    begin(recipe)
    for seed, theirs in enumerate(expected):
        for i, (was, is_) in enumerate(zip(theirs, run(seed, Bare), strict=True)):
            assert same(was, is_), (seed, i)
