"""Where it began, without being asked: the record of an ordinary run names the module."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from halfstep.pytorch.watching.nan_origin import module_at
from halfstep.record import Record, Writer, read

from ..conftest import Begin


class Attention(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        logits = (self.gain * q) @ (self.gain * k).transpose(-2, -1)
        return self.proj(logits.softmax(-1) @ v)


class Block(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(gain), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Root(nn.Module):
    """The root of a number that is below zero: NaN in every precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 100.0).sqrt()


def trained(
    begin: Begin, recipe: str, model: nn.Module, record: Path, steps: int = 3, weight: float = 1.0
) -> Record:
    takeover = begin(recipe, Writer(record))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(2, 8, 16)
    for _ in range(steps):
        loss = weight * model(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    takeover.close()
    return read(record)


def test_logits_that_overflow_are_told_by_their_block(begin: Begin, tmp_path: Path) -> None:
    model = nn.Sequential(Block(0.1), Block(300.0), Block(0.1))
    event = trained(begin, "fp16", model, tmp_path / "r.jsonl").nonfinite
    assert (event["what"], event["step"], event["module"], event["direction"]) == (
        "loss",
        0,
        "1.attn",
        "forward",
    )
    assert event["words"] == "in 1.attn (forward, softmax)"


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_nan_of_the_model_is_told_before_the_weights_have_it(
    begin: Begin, tmp_path: Path, recipe: str
) -> None:
    model = nn.Sequential(nn.Linear(16, 16), Root(), nn.Linear(16, 16), nn.Linear(16, 1))
    event = trained(begin, recipe, model, tmp_path / "r.jsonl").nonfinite
    # A module without parameters lies between two that have some: the one before is named.
    assert (event["module"], event["operation"], event["direction"]) == ("0", "sqrt", "forward")


class Spoils(nn.Module):
    """Its result, which the layer after it keeps, is NaN; nothing that its own node keeps is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.5 + math.nan


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_weight_that_meets_a_nan_has_not_made_it(begin: Begin, tmp_path: Path, recipe: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16), Spoils(), nn.Linear(16, 16))
    event = trained(begin, recipe, model, tmp_path / "r.jsonl").nonfinite
    assert event["operation"] == "view", "the layer looks at what it was given as a matrix"


class Rooted(nn.Module):
    """Two layers, with the root between them."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.first, self.root, self.last = nn.Linear(16, 16), root, nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.root(self.first(x)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("between", "words"),
    [
        (False, "in compiled graph 2 of 3, which holds 1.first to 1.last (forward)"),
        (True, "in compiled graph 1 of 1 (forward)"),
    ],
)
def test_of_compiled_graphs_the_one_is_told(begin: Begin, tmp_path: Path, between: bool, words: str) -> None:
    """Each of three blocks is a graph of its own; or the root alone is, between layers that Dynamo leaves alone."""
    blocks = (Rooted(nn.Tanh()), Rooted(Root()), Rooted(nn.Tanh()))
    model = nn.Sequential(*(nn.Sequential(*block.children()) if between else block for block in blocks))
    for block in model:
        block.compile(backend="aot_eager")
    event = trained(begin, "fp32", model, tmp_path / "r.jsonl").nonfinite
    assert event["words"] == words
    assert event["module"].startswith("1")


def test_a_loss_that_is_nan_by_itself_lies_after_the_last_layer(begin: Begin, tmp_path: Path) -> None:
    event = trained(begin, "fp32", nn.Linear(16, 1), tmp_path / "r.jsonl", weight=float("nan")).nonfinite
    assert event["words"] == "after the last layer (forward, mean)"


def test_a_skipped_step_names_the_layer_whose_gradient_went_bad_first(begin: Begin, tmp_path: Path) -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    class Middle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Steep.apply(x)

    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), Middle(), nn.Linear(16, 1))
    record = trained(begin, "fp16", model, tmp_path / "r.jsonl")
    assert [step["skipped"] for step in record.steps] == [True] * 3
    assert record.nonfinite["what"] == "gradients"
    assert record.nonfinite["words"] == "in module 1 (backward)"


def test_a_healthy_run_says_nothing(begin: Begin, tmp_path: Path) -> None:
    assert trained(begin, "bf16", nn.Sequential(Block(0.1)), tmp_path / "r.jsonl").nonfinite is None


def test_the_module_is_what_its_neighbours_share() -> None:
    used = [(1, "blocks.3.attn.qkv.weight"), (9, "blocks.3.attn.proj.weight"), (12, "head.weight")]
    assert module_at(5, used) == "blocks.3.attn"
    assert module_at(10, used) == "blocks.3.attn.proj"
    assert module_at(99, used) == "head"
