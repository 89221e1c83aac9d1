"""Trains layers whose parameters dominate, and prints what that took, as JSON.

python lean.py deep|large|middle|small|many|embedding OPTIMIZER freed|live|accumulated none|hand ROWS STEPS [--compile]
    [--shard: by fully_shard, over the processes of torchrun; by hand is then FSDP2's own policy]

Bytes are the largest resident set of a phase over a baseline: the process after it has trained one layer of the same
width and has given its memory back. What every process needs for PyTorch, its threads and its kernels is so left out.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterator
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn

from halfstep.meters.memory import PeakMemory
from halfstep.meters.reading import Absent
from halfstep.pytorch.recording.stored import stored_in

#: width of a layer, how many there are, and the rows of an embedding before them
NETWORKS = {
    "deep": (1024, 64, 0),
    "large": (2048, 8, 0),
    "middle": (1024, 4, 0),
    "small": (512, 8, 0),
    "many": (64, 150, 0),
    "embedding": (1024, 8, 32768),
    "small embedding": (64, 8, 65536),
}

SHARDED = "--shard" in sys.argv


class Phases:
    """The most bytes over the baseline in each phase of a step, over all steps."""

    def __init__(self) -> None:
        self._meter = PeakMemory()
        self.peaks: dict[str, float] = {}
        gc.collect()
        self._meter.start()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._meter.mark()
        yield
        read = self._meter.read()
        if isinstance(read, Absent):
            raise SystemExit(read.reason)
        self.peaks[name] = max(self.peaks.get(name, 0.0), read.value)


class Layers(nn.Module):
    def __init__(self, width: int, count: int, rows: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width) if rows else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = x + self.embedding((x[:, 0] * 1e4).long() % self.embedding.num_embeddings)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """One of torch.optim's, or of a peer's that is installed."""
    if name == "torchao":
        from torchao.optim import _AdamW

        return _AdamW(model.to(torch.bfloat16).parameters(), lr=1e-3, bf16_stochastic_round=True)  # type: ignore[no-any-return]
    if name == "optimi":
        from optimi import AdamW

        return AdamW(model.to(torch.bfloat16).parameters(), lr=1e-3, kahan_sum=True)  # type: ignore[no-any-return]
    more = {"momentum": 0.9} if name == "SGD" else {}
    made: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3, **more)
    return made


def cast_by(amp: str) -> contextlib.AbstractContextManager[object]:
    by_autocast = amp == "hand" and not SHARDED
    return torch.autocast("cpu", torch.bfloat16) if by_autocast else contextlib.nullcontext()


def shard(model: Layers, amp: str) -> None:
    """Each layer by itself, over all processes."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if amp == "hand" else MixedPrecisionPolicy()
    for part in (*model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=policy)


def warm_up(name: str, dtype: torch.dtype, amp: str, rows: int, width: int) -> None:
    """Import, compile and allocate what a training needs beside its numbers."""
    model = Layers(width, 1)
    if SHARDED:
        shard(model, amp)
    optimizer = optimizer_for(name, model)
    for _ in range(3):
        with cast_by(amp):
            result = model(torch.randn(rows, width).to(dtype))
        result.sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    network, name, mode, amp, rows, steps = *sys.argv[1:5], *map(int, sys.argv[5:7])
    if amp == "hand":
        # the same kernels for 16-bit products as under halfstep
        from halfstep.pytorch.products.products import install

        install([torch.bfloat16], "auto")
    width, count, table = NETWORKS[network]
    if SHARDED:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    dtype = torch.bfloat16 if name in ("torchao", "optimi") else torch.float32
    warm_up(name, dtype, amp, rows, width)
    phases = Phases()
    model = Layers(width, count, table)
    parameters = sum(p.numel() for p in model.parameters())
    if SHARDED:
        shard(model, amp)
    optimizer = optimizer_for(name, model)
    called = torch.compile(model) if "--compile" in sys.argv else model
    seconds, losses, stored = [], [], {}
    for step in range(steps):
        started = time.perf_counter()
        if mode == "freed":
            optimizer.zero_grad()
        for part in range(2 if mode == "accumulated" else 1):
            generator = torch.Generator().manual_seed(2 * step + part)
            x = torch.randn(rows, width, generator=generator).to(dtype)
            with phases.phase("forward"), cast_by(amp):
                loss = (called(x).float() - x.float().roll(1, 1)).square().mean()
            if mode == "live" or (mode == "accumulated" and part == 0):
                optimizer.zero_grad()  # the last step's gradients have lived through the forward pass
            with phases.phase("backward"):
                loss.backward()
        with phases.phase("step"):
            optimizer.step()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
        stored = stored_in(model.parameters(), [], [optimizer])
    told = {
        "parameters": parameters // (dist.get_world_size() if SHARDED else 1),
        "bytes": max(phases.peaks.values()),
        "phases": phases.peaks,
        "stored": stored,
        "losses": losses,
    }
    if not SHARDED or dist.get_rank() == 0:
        print(json.dumps(told | {"seconds": median(seconds[1:] or seconds)}))
    if SHARDED:
        dist.barrier()
        dist.destroy_process_group()
        gc.collect()  # gloo that outlives the interpreter aborts the process now and then


if __name__ == "__main__":
    main()
