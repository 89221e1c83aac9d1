"""Optimizers and models are told apart by identity: those of a program may be equal to each other."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from halfstep.record import Record, Writer, read
from halfstep.takeover.identity import IdentitySet

from .conftest import Begin


class Equal(torch.optim.SGD):
    """Equal to all that have its settings."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and other.defaults == self.defaults

    __hash__ = None  # type: ignore[assignment]


class Scaler(torch.amp.GradScaler):
    """Has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaler)


def trained(cls: type[torch.optim.SGD], own_amp: bool) -> list[float]:
    """Losses of two networks in turn, each with its own optimizer; the settings of both are the same."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2)]
    optimizers = [cls(network.parameters(), lr=0.1, momentum=0.9) for network in networks]
    scaler: Any = Scaler("cpu", enabled=own_amp)
    losses = []
    for _ in range(4):
        for network, optimizer in zip(networks, optimizers, strict=True):
            x = torch.randn(4, 8)
            with torch.autocast("cpu", torch.bfloat16, enabled=own_amp):
                loss = (network(x) - x).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    return losses


def both(
    begin: Begin,
    folder: Path,
    recipe: str,
    train: Callable[[Any], list[float]],
    *classes: type,
    watch: bool = False,
) -> list[Record]:
    """Train with each of two classes, which must give the same numbers and store the same; returns the records."""
    found, records = [], []
    for cls in classes:
        path = folder / f"{cls.__name__}.jsonl"
        takeover = begin(recipe, Writer(path), watch=watch)
        found.append(train(cls))
        takeover.close()
        takeover.remove()
        records.append(read(path))
    assert found[0] == found[1]
    assert records[0].stored == records[1].stored
    assert records[1].stored.measured
    return records


@pytest.mark.parametrize("own_amp", [False, True])
@pytest.mark.parametrize("recipe", ["as-is", "fp32", "bf16", "fp16", "bf16-true", "bf16-lean:states=bf16"])
def test_they_train_as_others_do(begin: Begin, tmp_path: Path, recipe: str, own_amp: bool) -> None:
    def train(cls: type[torch.optim.SGD]) -> list[float]:
        return trained(cls, own_amp)

    stepped, equal = both(begin, tmp_path, recipe, train, torch.optim.SGD, Equal)
    assert [step["loss"] for step in equal.steps] == [step["loss"] for step in stepped.steps]
    assert len(equal.steps) == 4


class EqualNet(nn.Sequential):
    """Equal to all of its class, as a dataclass with the same settings is."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualNet)

    def __hash__(self) -> int:
        return 1


def trained_in_turn(cls: type[nn.Sequential]) -> list[float]:
    """Losses of two models loaded in 16 bits, and of a copy of the second one."""
    torch.manual_seed(0)
    models = [cls(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).to(torch.bfloat16) for _ in range(2)]
    models.append(copy.deepcopy(models[1]))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    losses = []
    for _ in range(4):
        x = torch.randn(4, 8).to(torch.bfloat16)
        for model, optimizer in zip(models, optimizers, strict=True):
            loss = (model(x).float() - x.float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return [*losses, *(float(p.detach().double().sum()) for model in models for p in model.parameters())]


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("recipe", ["as-is", "fp32", "bf16", "fp16", "bf16-true", "bf16-lean"])
def test_equal_models_are_trained_as_others_are(
    begin: Begin, tmp_path: Path, recipe: str, watch: bool
) -> None:
    both(begin, tmp_path, recipe, trained_in_turn, nn.Sequential, EqualNet, watch=watch)


class EqualNorm(nn.BatchNorm1d):
    """Equal to all of its class."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualNorm)

    def __hash__(self) -> int:
        return 1


def statistics_after_a_skipped_step(cls: type[nn.BatchNorm1d]) -> list[list[float]]:
    torch.manual_seed(0)
    norms = [cls(8), cls(8)]
    model = nn.Sequential(nn.Linear(4, 8), norms[0], nn.ReLU(), nn.Linear(8, 8), norms[1], nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for factor in (1.0, math.inf):
        optimizer.zero_grad()
        (model(torch.randn(6, 4)).square().mean() * factor).backward()
        optimizer.step()
        # PyTorch's `buffers` lists those of equal modules once.
        found.append([buffer.tolist() for norm in norms for buffer in norm.buffers()])
    assert found[0] == found[1], "the skipped step has changed nothing"
    return found[1]


def test_equal_norm_layers_have_their_own_statistics(begin: Begin) -> None:
    found = []
    for cls in (nn.BatchNorm1d, EqualNorm):
        takeover = begin("fp16")
        found.append(statistics_after_a_skipped_step(cls))
        takeover.remove()
    assert found[0] == found[1]


def test_a_set_holds_its_members_weakly() -> None:
    weight = [nn.Parameter(torch.zeros(1))]
    held: IdentitySet[Equal] = IdentitySet()
    first, second = Equal(weight, lr=0.1), Equal(weight, lr=0.1)
    assert first == second
    held.update([first, second, first])
    assert [id(one) for one in held] == [id(first), id(second)]
    del first
    gc.collect()
    assert [id(one) for one in held] == [id(second)]
    assert len(held) == 1
