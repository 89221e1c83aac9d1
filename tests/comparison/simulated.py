"""Trials that never ran: records of training curves that are drawn, so that the truth about them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from halfstep.record import Record
from halfstep.trials import Outcome, Trial


def outcome(
    precision: str,
    losses: Sequence[float],
    seed: int = 0,
    repeat: int = 0,
    seconds: Sequence[float] | None = None,
    logged: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    status: str = "ok",
) -> Outcome:
    """A trial with these losses, one a step, and these step times (all 0.1 s unless given)."""
    record = Record(Path(f"{precision}-{seed}-{repeat}.jsonl"))
    for i, loss in enumerate(losses):
        took = None if i == 0 else 0.1 if seconds is None else seconds[i]
        record.add({"event": "step", "step": i, "loss": loss, "seconds": took, "skipped": False})
    for name, points in (logged or {}).items():
        for step, value in points:
            record.add({"event": "logged", "name": name, "step": step, "value": value})
    record.add({"event": "takeover", "framework": "torch", "device": "cpu", "ran_as": precision})
    record.add({"event": "end", "status": status, "reason": "" if status == "ok" else status})
    return Outcome(Trial(precision, seed, repeat), status, "" if status == "ok" else status, 0, record)  # type: ignore[arg-type]


def comparison(
    random: np.random.Generator,
    seeds: int,
    shifts: Mapping[str, float],
    steps: int = 20,
    seed_noise: float = 0.02,
    own_noise: float = 0.01,
) -> list[Outcome]:
    """Falling losses, fp32 first: each seed has its own level and batches, each trial its own noise, each precision a shift."""
    found = []
    for seed in range(seeds):
        shared = (
            2 * 0.9 ** np.arange(steps)
            + seed_noise * random.standard_normal()
            + 0.05 * random.standard_normal(steps)
        )
        for precision, shift in {"fp32": 0.0, **shifts}.items():
            own = own_noise * random.standard_normal() + 0.01 * random.standard_normal(steps)
            found.append(outcome(precision, list(shared + own + shift), seed))
    return found
