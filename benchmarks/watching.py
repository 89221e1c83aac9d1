"""What watching costs: the record's own look at every loss, and ``halfstep diagnose`` with full histograms.

Expected: the look that is always on at most 1.03 of a recorded step without it; a diagnosed step, on average over
the sampled and the others, at most 2. A small GPT (``examples/char_gpt.py``) and a residual network
(``examples/digits_cnn.py``) train in this process; in every round each variant trains anew, in turn. A variant's
figure is the mean of its steps after the first two; ratios are taken round by round: their median, with the lowest
and the highest.

    python benchmarks/watching.py [--rounds 7] [--steps 16] [--precisions fp32,bf16,fp16] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from halfstep.precisions.recipes import parse
from halfstep.pytorch.takeover import Takeover
from halfstep.pytorch.watching.nan_origin import NullNanOrigin
from halfstep.record import Writer
from halfstep.takeover.base import Options

VARIANTS = ("recorded, no look", "recorded", "diagnosed")
PAIRS = [("recorded", "recorded, no look"), ("diagnosed", "recorded, no look")]
Step = Callable[[], torch.Tensor]


def gpt() -> tuple[torch.nn.Module, Step]:
    """Four layers of 128, 8 sequences of 64 characters."""
    example = importlib.import_module("char_gpt")
    preset = example.PRESETS["tiny"]
    model = example.GPT(preset)
    tokens = torch.randint(preset.vocab_size, (8, 65))
    return model, lambda: model(tokens[:, :-1], tokens[:, 1:])


def resnet() -> tuple[torch.nn.Module, Step]:
    """Width 16, 64 images of 16 x 16."""
    model = importlib.import_module("digits_cnn").ResNet(16)
    images, labels = torch.randn(64, 1, 16, 16), torch.randint(10, (64,))
    return model, lambda: F.cross_entropy(model(images), labels)


MODELS = {"gpt": gpt, "resnet": resnet}


@contextlib.contextmanager
def in_force(precision: str, variant: str, record: Path) -> Iterator[None]:
    """The precision, recorded, as the variant has it."""
    takeover = Takeover(Options(parse(precision), writer=Writer(record), watch=variant == "diagnosed"))
    if variant == "recorded, no look":
        takeover.nan_origin = NullNanOrigin()
    try:
        yield
    finally:
        takeover.close()
        takeover.remove()


def seconds(make: Callable[[], tuple[torch.nn.Module, Step]], steps: int) -> float:
    """The mean step after the first two."""
    torch.manual_seed(0)
    model, loss_of = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    begun = 0.0
    for step in range(steps):
        if step == 2:
            begun = time.perf_counter()
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()
    return (time.perf_counter() - begun) / (steps - 2)


def measured(model: str, precision: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step, a value a round, of every variant."""
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for variant in VARIANTS:
                with in_force(precision, variant, Path(folder) / "record.jsonl"):
                    found[variant].append(seconds(MODELS[model], steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--precisions", default="fp32,bf16,fp16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    results = []
    for model in MODELS:
        for precision in args.precisions.split(","):
            found = measured(model, precision, args.rounds, args.steps)
            for ours, theirs in PAIRS:
                ratios = sorted(a / b for a, b in zip(found[ours], found[theirs], strict=True))
                middle = median(ratios)
                print(f"{model:7} {precision:5} {ours:10} {middle:6.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})"
                      f"  step {1000 * median(found[ours]):.1f} ms", flush=True)  # fmt: skip
                row = {
                    "model": model,
                    "precision": precision,
                    "variant": ours,
                    "over": theirs,
                    "ratio": middle,
                }
                results.append(row | {"low": ratios[0], "high": ratios[-1], "seconds": found[ours]})
    if args.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}
        args.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
