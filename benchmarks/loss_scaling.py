"""What loss scaling adds to a step: halfstep's scaler, PyTorch's, the bare optimizer, one pass over memory.

Run ``python benchmarks/loss_scaling.py``; it takes some minutes and 3 GB. In each round every contender runs once, in
turning order, right after the gradients were written (as a backward pass leaves them). A ratio is taken within
each round; its median and the median's 95 % interval (order statistics) go into the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from halfstep.meters import Absent, now, summary
from halfstep.pytorch import capabilities
from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler
from halfstep.pytorch.loss_scaling.gradient_kernels import gradient_kernels

Contender = Callable[[], object]

GPT2 = [50257 * 768, 1024 * 768, *([768, 768, 2304 * 768, 2304, 768 * 768, 768, 768, 768] * 12)]
GPT2 += [3072 * 768, 3072, 768 * 3072, 768] * 12 + [768, 768]  # 124M in 148 tensors

CASES = {
    "10M in 10": [1_000_000] * 10,
    "10M in 1k": [10_000] * 1_000,
    "10M in 10k": [1_000] * 10_000,
    "GPT-2, 124M in 148": GPT2,
    "100M in 10": [10_000_000] * 10,
    "100M in 1k": [100_000] * 1_000,
    "100M in 10k": [10_000] * 10_000,
}

OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, fused=True),
    "fused SGD, momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, fused=True),
}


class NoOptimizer(torch.optim.Optimizer):
    """Does nothing, so that only the scaler is timed."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        """Leave the weights alone."""


def make_parameters(sizes: list[int], device: str) -> list[torch.Tensor]:
    parameters = [torch.zeros(size, requires_grad=True, device=device) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.numel(), device=device) * 1e-2
    return parameters


def scaling_step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> Contender:
    device = optimizer.param_groups[0]["params"][0].device
    scaler.scale(torch.ones((), device=device))

    def run() -> None:
        scaler.step(optimizer)
        scaler.update()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def scalers(optimizer: torch.optim.Optimizer) -> dict[str, Contender]:
    device = optimizer.param_groups[0]["params"][0].device.type
    settings: dict[str, Any] = {"device": device, "init_scale": 2.0, "growth_interval": 10**9}
    return {
        "halfstep": scaling_step(GradScaler(**settings), optimizer),
        "torch": scaling_step(torch.amp.GradScaler(**settings), optimizer),
    }


def rounds(contenders: dict[str, tuple[Contender, Contender]], count: int) -> list[dict[str, float]]:
    """Seconds of each contender in each round, its preparation not counted; two rounds more warm up."""
    names = list(contenders)
    done = []
    for i in range(count + 2):
        seconds = {}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            prepare, run = contenders[name]
            prepare()
            began = now()
            run()
            seconds[name] = now() - began
        done.append(seconds)
    return done[2:]


def report(done: list[dict[str, float]], base: str) -> dict[str, Any]:
    """Milliseconds of each contender and its ratio to ``base``, with 95 % intervals."""
    rows: dict[str, Any] = {}
    for name in done[0]:
        rows[name] = {"ms": spread([1e3 * seconds[name] for seconds in done])}
        if name != base:
            rows[name][f"over {base}"] = spread([seconds[name] / seconds[base] for seconds in done])
    return rows


def spread(values: list[float]) -> dict[str, float | None]:
    found = summary(values)
    assert not isinstance(found, Absent)
    return {"median": found.median, "low": found.low, "high": found.high, "least": min(values)}


def measure(sizes: list[int], count: int, device: str) -> dict[str, Any]:
    parameters = make_parameters(sizes, device)
    gradients = [parameter.grad for parameter in parameters]
    source = torch.randn(sum(sizes), device=device) * 1e-2
    flat, slices = torch.empty_like(source), source.split(sizes)

    def backward() -> None:
        torch._foreach_copy_(gradients, slices)

    with_gradients = {name: (backward, run) for name, run in scalers(NoOptimizer(parameters)).items()}
    passes: dict[str, tuple[Contender, Contender]] = {
        "pass": (lambda: flat.copy_(source), lambda: flat.mul_(0.5)),
        "pass over the tensors": (backward, lambda: torch._foreach_mul_(gradients, 0.5)),
    }
    if device == "cpu" and (kernels := gradient_kernels()) is not None:  # what memory in many pieces costs
        passes["kernel in C"] = backward, lambda: kernels.unscale_(gradients, 0.5)
    found = {"step and update": report(rounds({**passes, **with_gradients}, count), "pass")}
    for name, make in OPTIMIZERS.items():
        optimizer = make(parameters)
        contenders = {"optimizer": optimizer.step, **scalers(optimizer)}
        done = rounds({key: (backward, run) for key, run in contenders.items()}, count)
        found[name] = report(done, "optimizer")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/loss_scaling-<device>.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    loads: dict[str, float] = {}
    for case, sizes in CASES.items():
        if options.only is None or options.only in case:
            results[case] = measure(sizes, options.rounds, options.device)
            loads[case] = os.getloadavg()[0]  # above the number of CPUs, others disturbed the figures
            for what, rows in results[case].items():
                print(
                    f"{case}, {what}: " + ", ".join(line(name, row) for name, row in rows.items()), flush=True
                )
    cpu = capabilities.cpu().model or platform.machine()
    name = cpu if options.device == "cpu" else torch.cuda.get_device_name()
    path = options.json or Path(__file__).parent / "results" / f"loss_scaling-{slug(name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "loss_scaling",
        "device": name,
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "unit": "ms and ratios: median, its 95 % interval, and the least of all rounds",
        "load_average": loads,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def line(name: str, row: dict[str, Any]) -> str:
    ratios = [value for key, value in row.items() if key != "ms"]
    tail = "".join(f" = {r['median']:.2f}x{interval(r)}" for r in ratios)
    return f"{name} {row['ms']['median']:.2f} ms{tail}"


def interval(ratio: dict[str, Any]) -> str:
    """The median's interval; nothing where the rounds were too few for one."""
    return "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    main()
