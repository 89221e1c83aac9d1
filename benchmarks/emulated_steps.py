"""Seconds of training steps of the examples' models, in fp32 and emulated: the second half of ``numerics.py``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halfstep.meters import now
from halfstep.precisions.recipes import parse
from halfstep.pytorch.emulation.emulate import Emulated
from halfstep.pytorch.emulation.ops import Emulation

PRECISIONS = ("fp32", "tf32", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4")

#: A round's figure is the fastest of this many steps in a row: the machine has neighbours.
STEPS = 3

Step = Callable[[], None]


def measure(rounds: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By model and precision: milliseconds per step in each round, and their ratios to fp32's in the same round."""
    found = {}
    for case, step in steps().items():
        done = [turn(step, i) for i in range(rounds + 1)][1:]  # the first warms up
        rows = {name: {"ms": [1e3 * seconds[name] for seconds in done]} for name in PRECISIONS}
        for name in PRECISIONS[1:]:
            rows[name]["over fp32"] = [seconds[name] / seconds["fp32"] for seconds in done]
        found[case] = rows
    return found


def turn(step: Step, i: int) -> dict[str, float]:
    """One round: every precision once, in an order that turns."""
    shift = i % len(PRECISIONS)
    return {name: seconds(step, name) for name in PRECISIONS[shift:] + PRECISIONS[:shift]}


def seconds(step: Step, precision: str) -> float:
    recipe = parse(precision)
    if precision == "fp32":
        return min(once(step) for _ in range(STEPS))
    emulated = Emulated(Emulation(recipe.name, recipe.compute, recipe.gradients))
    try:
        return min(once(step) for _ in range(STEPS))
    finally:
        emulated.remove()


def once(step: Step) -> float:
    began = now()
    step()
    return now() - began


def steps() -> dict[str, Step]:
    """A step of each example's model at the example's own size: forward, backward, optimizer. Nothing is learnt."""
    torch.manual_seed(0)
    gpt, resnet = example("char_gpt"), example("digits_cnn")
    tokens = torch.randint(128, (16, 129))
    images, labels = torch.randn(64, 1, 16, 16), torch.randint(10, (64,))
    one, other = gpt.GPT(gpt.PRESETS["tiny"]), resnet.ResNet(16)
    loss = nn.functional.cross_entropy
    return {
        "GPT of char_gpt, tiny, 16 x 128 characters": step_of(
            one, lambda: one(tokens[:, :-1], tokens[:, 1:])
        ),
        "ResNet of digits_cnn, width 16, 64 images": step_of(other, lambda: loss(other(images), labels)),
    }


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def example(name: str) -> Any:
    """An example as a module; its training does not run."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
