"""What 16-bit training steps cost on this CPU: PyTorch's own products against products in fp32 units.

Expected where there are no 16-bit units: a step with products in fp32 units at most 1.10 of the fp32 step for a GPT
and 1.00 for a ResNet; PyTorch's own 10 to 40. Where there are (bf16 on avx512_bf16): `auto` below 1 and no slower
than PyTorch's own.

Seen on a 2-core AMD EPYC with avx512_bf16, of the fp32 step (results/products-amd-epyc.json): products in fp32 units
1.01 to 1.02 for the GPT of width 256, and 1.03 to 1.04 for the one of width 192 with four times the tokens (1.05 to
1.08, when neighbours used the memory); for the ResNet 0.96 and 0.99 eager, and compiled 1.02 (0.97 to 1.09) in fp16 and
1.02 (0.98 to 1.06) in bf16. There the casts around convolutions take 0.5 ms of 13, as long as memory does, and
PyTorch's compiled code 0.3 to 0.5 ms more than in fp32 (as with its own bf16 products, 0.4). PyTorch's own fp16 15 to
30. bf16 `auto` 0.45 to 0.47 for the GPTs, where PyTorch's own took 0.61, 0.75 and 0.76, and 0.83 for the ResNet, as
PyTorch's own: there a kernel for transposed convolutions is asked in vain.

"One list" is the same with CUDA's autocast list (softmax, norms, sums, exp, log and powers in fp32), which halfstep
applies on a CPU, too; beside it stands its ratio to the CPU's own list, which is to be below 1.03 for a GPT. Seen of
the GPT of width 256, by processor time on one core of a busy machine, in 61 pairs: fp16 1.008 (0.992 to 1.023), and
bf16 `auto` without 16-bit units 1.007 (0.983 to 1.025). Two equal steps differed by 1.020 (0.983 to 1.031) and 1.013
(0.983 to 1.033).

With the kernel in Python, for where there is no C++ compiler, a call takes 6 to 12 us more.

One process; rounds are interleaved (A B C A B C). A variant's figure in a round is the fastest of 3 steps in a row
(the machine has neighbours), and one step where 16 bits are computed without units for them. Ratios are taken round by
round to the fp32 step of the same network: their median with its 95 % interval (order statistics), or the lowest and
highest in brackets where there are too few rounds. Weights do not move (learning rate 0), so every round does the same
work. Where a step's time goes is told by PyTorch's profiler, which adds some per cent: for each kind of work the median
of 15 steps.

    python benchmarks/products.py [--rounds 21] [--slow-rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstep import codec
from halfstep.meters.clock import now, summary
from halfstep.meters.reading import Absent
from halfstep.options import ProductsMode
from halfstep.pytorch import capabilities
from halfstep.pytorch.autocast import lists
from halfstep.pytorch.products import products
from halfstep.pytorch.recording.profile import Profile
from halfstep.pytorch.recording.timeline import KINDS
from halfstep.takeover.looks import Looks


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Gpt(nn.Module):
    """8 heads."""

    def __init__(self, layers: int = 6, width: int = 256, vocabulary: int = 512, length: int = 128) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), Attention(width, 8)) for _ in range(layers)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for mix, mlp in zip(self.mixers, self.mlps, strict=True):
            x = x + mix(x)
            x = x + mlp(x)
        return self.head(x).flatten(0, 1)


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        stride = outside // inside
        self.one, self.norm1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.two, self.norm2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.one(x)))
        return F.relu(self.norm2(self.two(y)) + self.short(x))


def resnet20() -> nn.Module:
    """He et al. 2015, section 4.2: 3 stages of 3 blocks, 16 to 64 channels, 32 x 32 images."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    torch.manual_seed(0)
    return {
        "GPT, 6 layers, width 256, 4 x 128 tokens": (
            Gpt(),
            torch.randint(512, (4, 128)),
            torch.randint(512, (512,)),
        ),
        "GPT, 4 layers, width 192, 16 x 128 tokens": (
            Gpt(layers=4, width=192, vocabulary=128),
            torch.randint(128, (16, 128)),
            torch.randint(128, (2048,)),
        ),
        "ResNet-20, 8 images": (resnet20(), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))),
    }


@dataclass(frozen=True)
class Variant:
    """One way to take a step: the dtype of autocast (None for fp32), and where its products are computed.

    Attributes:
        one_list: whether softmax, norms and sums are fp32, as in CUDA's autocast list, which halfstep applies.
    """

    name: str
    dtype: torch.dtype | None = None
    mode: ProductsMode = "native"
    one_list: bool = False


#: steps under the profiler
PROFILED = 15

#: A round's figure is the fastest of this many steps in a row: the machine has neighbours.
STEPS = 3

VARIANTS = (
    Variant("fp32"),
    Variant("bf16, PyTorch's own", torch.bfloat16),
    Variant("bf16, auto", torch.bfloat16, "auto"),
    Variant("bf16, auto, one list", torch.bfloat16, "auto", one_list=True),
    Variant("bf16, fp32 units", torch.bfloat16, "fp32"),
    Variant("fp16, PyTorch's own", torch.float16),
    Variant("fp16, fp32 units", torch.float16, "fp32"),
    Variant("fp16, fp32 units, one list", torch.float16, "fp32", one_list=True),
)

#: of compiled code: a graph that was traced by one list is used under the other, too
TRACED = tuple(variant for variant in VARIANTS if not variant.one_list)


def step_of(
    model: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
) -> Callable[[Variant], float]:
    """A training step under a variant, which returns its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, foreach=True)

    def step(variant: Variant) -> float:
        begin = now()
        with torch.autocast("cpu", dtype=variant.dtype or torch.bfloat16, enabled=variant.dtype is not None):
            loss = F.cross_entropy(call(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return now() - begin

    return step


@contextlib.contextmanager
def in_force(variant: Variant) -> Iterator[None]:
    """Inside, products are computed where the variant has them, by its list."""
    with contextlib.ExitStack() as stack:
        if variant.one_list:
            stack.callback(lists.apply().remove)
        stack.callback(products.install([variant.dtype or torch.bfloat16], variant.mode).remove)
        yield


def is_slow(variant: Variant) -> bool:
    """Whether it is slow enough to be seen in few rounds: 16 bits without units for them."""
    if variant.dtype is None or variant.mode != "native":
        return False
    return capabilities.support(products.DTYPES[variant.dtype]).kind != "native"


def measure(
    step: Callable[[Variant], float], variants: Sequence[Variant], rounds: int, slow_rounds: int
) -> dict[str, list[float]]:
    """Seconds of every variant, round by round; slow ones are left out of the later rounds."""
    for variant in variants:
        with in_force(variant):
            step(variant), step(variant)
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for index in range(rounds):
        for variant in variants:
            slow = is_slow(variant)
            if index < slow_rounds or not slow:
                with in_force(variant):
                    times[variant.name].append(min(step(variant) for _ in range(1 if slow else STEPS)))
    return times


def work(step: Callable[[Variant], float], variant: Variant) -> dict[str, float]:
    """Seconds of a step by kind of work, as a record has them: medians of some steps under PyTorch's profiler."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with in_force(variant):
        step(variant)
        for _ in range(PROFILED):
            profile = Profile(Looks(print))
            profile.begin()
            step(variant)
            sample = profile.end()
            if "time_shares" in sample:  # or the profiler has lost its marks
                for kind, seconds in found.items():
                    seconds.append(sample["time_shares"].get(kind, 0.0) * sample["profiled"]["seconds"])
    return {kind: median(values) for kind, values in found.items() if any(values)}


def spread(values: list[float]) -> dict[str, float | int | str]:
    """The median and its 95 % interval, or the lowest and highest where there are too few values for one."""
    found = summary(values)
    assert not isinstance(found, Absent)
    low, high, interval = found.low, found.high, "95 %"
    if low is None or high is None:
        low, high, interval = min(values), max(values), "lowest and highest"
    return {"median": found.median, "low": low, "high": high, "interval": interval, "rounds": len(values)}


def figures(times: dict[str, list[float]]) -> dict[str, Any]:
    base = times["fp32"]
    return {
        name: {
            "seconds": spread(values),
            "over_fp32": spread([value / other for value, other in zip(values, base, strict=False)]),
        }
        | of_list(values, times.get(name.removesuffix(", one list")))
        for name, values in times.items()
    }


def of_list(values: list[float], without: list[float] | None) -> dict[str, Any]:
    """The ratio to the same step by the CPU's own list; nothing of that step itself."""
    if without is None or without is values:
        return {}
    return {"over_own_list": spread([a / b for a, b in zip(values, without, strict=True)])}


def show(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, row in rows.items():
        seconds, ratio = row["seconds"], row["over_fp32"]
        ends = "{low:.2f} to {high:.2f}".format(**ratio)
        ends = ends if ratio["interval"] == "95 %" else f"[{ends}]"
        print(f"  {name:26} {seconds['median'] * 1e3:9.1f} ms  {ratio['median']:7.2f} of fp32  {ends}")
        if "over_own_list" in row:
            found = "{median:.3f} of the CPU's own list  {low:.3f} to {high:.3f}".format(
                **row["over_own_list"]
            )
            print(f"  {'':41} {found}")
    print("  where the time goes, under the profiler:")
    for name, row in rows.items():
        if "work_seconds" in row:
            parts = ", ".join(f"{kind} {1e3 * seconds:.2f}" for kind, seconds in row["work_seconds"].items())
            print(f"  {name:26} {parts} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--slow-rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # inductor's own
    machine = capabilities.describe()
    print(f"{machine.cpu.model}, {machine.threads} threads, torch {machine.torch}")
    results = {}
    for name, (model, x, y) in networks().items():
        calls: dict[str, Callable[[Tensor], Tensor]] = {"eager": model}
        if not options.no_compile:
            calls["compiled"] = torch.compile(model)
        for how, call in calls.items():
            step = step_of(model, call, x, y)
            variants = VARIANTS if how == "eager" else TRACED
            rows = figures(measure(step, variants, options.rounds, options.slow_rounds))
            for variant in variants:
                if not is_slow(variant):
                    rows[variant.name]["work_seconds"] = work(step, variant)
            results[f"{name}, {how}"] = rows
            show(f"{name}, {how}", rows)
    if options.json:
        written = {
            "benchmark": "products",
            **codec.write(machine),
            "load_average": os.getloadavg()[0],
            "results": results,
        }
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(written, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
