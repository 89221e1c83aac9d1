"""A script without AMP, run in bf16 and fp16, computes what the same script computes with AMP written by hand.

Bit for bit: losses, evaluations and final weights. By hand means ``torch.autocast`` around the forward pass, and in
fp16 ``GradScaler``, with autocast's one list of halfstep's and its products, which have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.autocast import lists
from halfstep.pytorch.products.products import install

from ..conftest import Begin

SCALE = 1024.0
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NoAmp:
    """What a script without AMP does where AMP would be."""

    def region(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Gradients are what they are."""

    def step(self, *optimizers: Optimizer) -> None:
        for optimizer in optimizers:
            optimizer.step()


class ManualUpdates(NoAmp):
    """The lines of PyTorch's own AMP examples."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        scaled = dtype is torch.float16
        self._scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1000, enabled=scaled)

    def region(self) -> AbstractContextManager[None]:
        return torch.autocast("cpu", dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        self._scaler.unscale_(optimizer)

    def step(self, *optimizers: Optimizer) -> None:
        for optimizer in optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + functional.gelu(self.out(attended.transpose(1, 2).flatten(2)))


class Gpt(nn.Module):
    """Tied weights; attention, norms, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = (
            nn.Embedding(12, 16),
            nn.ModuleList([Block(), Block()]),
            nn.LayerNorm(16),
        )
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.embed.weight
        self.recompute: bool | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            again = self.recompute
            x = block(x) if again is None else checkpoint(block, x, use_reentrant=again)
        return self.head(self.norm(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)
    )


def trained(
    amp: NoAmp, net: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float = 0.01
) -> list[Tensor]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    found = []
    for x, target in batches:
        with amp.region():
            loss = functional.cross_entropy(net(x).flatten(0, -2), target.flatten())
        optimizer.zero_grad()
        amp.backward(loss)
        amp.step(optimizer)
        found.append(loss.detach())
    return [*found, *(p.detach() for p in net.parameters())]


def rows(n: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(16, 8), torch.randint(4, (16,))) for _ in range(n)]


def tokens(n: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randint(12, (4, 6)), torch.randint(12, (4, 6))) for _ in range(n)]


def plain_loop(amp: NoAmp) -> list[Tensor]:
    return trained(amp, mlp(), rows())


def images(amp: NoAmp) -> list[Tensor]:
    net = cnn()
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(4, (4,))) for _ in range(4)]
    return [*trained(amp, net, batches), *net.buffers()]


def language(amp: NoAmp) -> list[Tensor]:
    return trained(amp, Gpt(), tokens())


def recomputed(amp: NoAmp) -> list[Tensor]:
    net = Gpt()
    net.recompute = False
    return trained(amp, net, tokens())


def recomputed_reentrant(amp: NoAmp) -> list[Tensor]:
    net = Gpt()
    net.recompute = True
    return trained(amp, net, tokens())


def compiled(amp: NoAmp) -> list[Tensor]:
    calls = 0

    def counting(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            return graph.forward(*args)

        return call

    torch._dynamo.reset()
    found = trained(amp, torch.compile(Gpt(), backend=counting, fullgraph=True), tokens())
    assert calls == 4
    return found


def accumulated(amp: NoAmp) -> list[Tensor]:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        for x, target in rows(3):
            with amp.region():
                loss = functional.cross_entropy(net(x), target) / 3
            amp.backward(loss)
            found.append(loss.detach())
        amp.step(optimizer)
    return [*found, *net.parameters()]


def clipped(amp: NoAmp) -> list[Tensor]:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = []
    for x, target in rows():
        with amp.region():
            loss = functional.cross_entropy(net(x), target)
        optimizer.zero_grad()
        amp.backward(loss)
        amp.unscale(optimizer)
        found += [loss.detach(), nn.utils.clip_grad_norm_(net.parameters(), 0.1)]
        amp.step(optimizer)
    return [*found, *net.parameters()]


def two_models(amp: NoAmp) -> list[Tensor]:
    """A GAN: each model's step reads the other's."""
    one, other = mlp(), nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (one, other)]
    found = []
    for x, _ in rows():
        with amp.region():
            judged = other(one(x).detach())
            loss = functional.binary_cross_entropy_with_logits(judged, torch.zeros_like(judged))
        optimizers[1].zero_grad()
        amp.backward(loss)
        amp.step(optimizers[1])
        with amp.region():
            judged = other(one(x))
            fooled = functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        optimizers[0].zero_grad()
        amp.backward(fooled)
        amp.step(optimizers[0])
        found += [loss.detach(), fooled.detach()]
    return [*found, *one.parameters(), *other.parameters()]


def evaluated(amp: NoAmp) -> list[Tensor]:
    """Between the steps, and in ``eval()``: a cast of a weight made there must not serve the next step."""
    net = cnn()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = []
    for _ in range(3):
        x, target = torch.randn(4, 3, 8, 8), torch.randint(4, (4,))
        net.train()
        with amp.region():
            loss = functional.cross_entropy(net(x), target)
        optimizer.zero_grad()
        amp.backward(loss)
        amp.step(optimizer)
        net.eval()
        with torch.no_grad(), amp.region():
            found += [loss.detach(), functional.cross_entropy(net(x), target)]
    return [*found, *net.parameters()]


def closed_over(amp: NoAmp) -> list[Tensor]:
    """Frozen features, and an optimizer with two groups; the loss is outside."""
    body, head = mlp(), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    body.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [{"params": head[0].parameters()}, {"params": head[2].parameters(), "lr": 0.1}], 0.01
    )
    found = []
    for x, target in rows():
        with amp.region():
            with torch.no_grad():
                features = body(x)
            out = head(features)
        loss = (out.float() - target[:, None]).square().mean()
        optimizer.zero_grad()
        amp.backward(loss)
        amp.step(optimizer)
        found.append(loss.detach())
    return [*found, *head.parameters()]


PROGRAMS = (
    *(plain_loop, images, language, recomputed, recomputed_reentrant, compiled, accumulated, clipped),
    *(two_models, evaluated, closed_over),
)


@contextmanager
def same_arithmetic(dtype: torch.dtype, products: str) -> Iterator[None]:
    """Autocast's one list, and products as halfstep computes them, without any recipe."""
    with ExitStack() as stack:
        stack.callback(lists.apply().remove)
        stack.callback(install([dtype], products).remove)
        yield


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("amp", "products"),
    [("none", "auto"), ("none", "native"), ("own", "native")],
    ids=["auto", "native", "own-native"],
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_as_amp_by_hand(
    begin: Begin, program: Callable[[NoAmp], list[Tensor]], amp: str, products: str, recipe: str
) -> None:
    """The script has no AMP, or has it by hand itself; halfstep's is in its place."""
    dtype = DTYPES[recipe]
    with same_arithmetic(dtype, products):
        torch.manual_seed(0)
        expected = program(ManualUpdates(dtype))
    begin(f"{recipe}:loss_scale={SCALE:.0f}" if recipe == "fp16" else recipe, products=products)
    torch.manual_seed(0)
    found = program(ManualUpdates(dtype) if amp == "own" else NoAmp())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
