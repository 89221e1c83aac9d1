"""Trainings whose quality in a precision is known beforehand.

python known_truth.py equal           # the score is the same function of the seed in every precision
python known_truth.py shifted 0.05    # in every precision but fp32 the score is lower by 0.05, noise or not
python known_truth.py lost            # updates below half a unit in the last place of bf16: bf16 weights never move
"""

from __future__ import annotations

import argparse
import json
import os

import torch

import halfstep

PRECISION = json.loads(os.environ.get("HALFSTEP_TRIAL", '{"precision": "fp32"}'))["precision"]


def noisy_regression(steps: int, lower_by: float) -> None:
    """Linear regression; it logs a score that has the seed's own noise and a noise of its own in each precision."""
    torch.manual_seed(0)
    of_the_seed = 0.02 * torch.randn(()).item()
    model, target = torch.nn.Linear(16, 1), torch.randn(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    own = torch.Generator().manual_seed(1 + sum(map(ord, PRECISION)))
    for step in range(steps):
        x = torch.randn(64, 16)
        loss = (model(x) - x @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            noise = of_the_seed + 0.01 * torch.randn((), generator=own).item()
            halfstep.log(score=0.8 + noise - lower_by * (PRECISION != "fp32"))


def lost_updates(steps: int) -> None:
    """Weights of 1 that ought to become 1.25 by steps of 2^-10: in bf16 the neighbours of 1 are 2^-7 and 2^-8 away.

    fp32's loss falls from 0.0625 to (0.25 - steps / 1024)^2; with bf16 weights it stays: worse by a known amount.
    """
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(steps):
        noise = 1e-4 * torch.randn(())
        gap = 1.25 - model.weight.float().mean()
        # The gradient of every weight is -2^-10 exactly, whatever the gap: of -sum(w) / 2^10.
        loss = -model(torch.ones(1, 32)).float().sum() / 1024
        loss = loss - loss.detach() + gap.detach().square() + noise
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["equal", "shifted", "lost"])
    parser.add_argument("by", type=float, nargs="?", default=0.0)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    if args.case == "lost":
        lost_updates(args.steps)
    else:
        noisy_regression(args.steps, args.by if args.case == "shifted" else 0.0)


if __name__ == "__main__":
    main()
