"""Runs a comparison: plans its trials, runs them interleaved, and keeps the comparison object up to date on disk."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from halfstep import __version__
from halfstep.advice import recommend
from halfstep.compare import METHOD, SCHEMA, verdicts
from halfstep.drift import speed_drift
from halfstep.errors import UsageError
from halfstep.evidence import Prefer
from halfstep.fit import FitOption, fit_batch
from halfstep.machine import describe_machine, installed_versions
from halfstep.meters import idle_watts
from halfstep.rows import WARMUP, trial_row
from halfstep.tolerance import Tolerance
from halfstep.trials import Job, Outcome, Trial, run_trial

AS_IS = "as-is"

#: how long the idle machine is metered before the first trial, where it has energy counters
IDLE_SECONDS = 6.0


@dataclass(frozen=True)
class Request:
    """What the user wants compared; the fields are the options of ``halfstep compare``."""

    program: str
    arguments: tuple[str, ...]
    module: bool
    recipes: tuple[str, ...] | None
    steps: int | None
    repeats: int
    seeds: int
    time_limit: float | None
    launch: str
    products: str
    folder: Path
    tolerance: Tolerance = field(default_factory=Tolerance)
    prefer: Prefer = "speed"
    fit: FitOption | None = None
    memory_limit: int | None = None

    @property
    def job(self) -> Job:
        """What the trials have in common."""
        return Job(
            self.program,
            self.arguments,
            self.module,
            self.folder,
            self.steps,
            self.time_limit,
            self.launch,
            self.products,
        )

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        return [*(["-m"] if self.module else []), self.program, *self.arguments]


class Display(Protocol):
    """Shows how a comparison goes on."""

    def plan(self, trials: Sequence[str]) -> None:
        """These trials are to be run (again, when one is added)."""

    def begin(self, label: str, steps: int | None) -> None:
        """A trial begins; ``steps`` is how many it will make, if known."""

    def advance(self, label: str, step: int, loss: float | None, seconds: float | None) -> None:
        """It has made a step."""

    def finish(self, label: str, status: str, words: str) -> None:
        """It has ended."""


def run_comparison(request: Request, display: Display) -> dict[str, Any]:
    """Run all trials and return the comparison object; Ctrl-C ends it early with what there is.

    The object is written to ``comparison.json`` in the request's folder after every trial.
    """
    started = time.monotonic()
    environment = _environment()
    _check_limit(request, environment)
    environment |= idle_watts(IDLE_SECONDS, time.sleep)
    recipes = list(request.recipes or default_recipes(environment))
    outcomes: list[Outcome] = []
    pending = plan(recipes, request.repeats, request.seeds)
    known_steps = request.steps
    while pending:
        trial = pending.pop(0)
        display.plan([t.label for t in (*(o.trial for o in outcomes), trial, *pending)])
        outcome = _run(request.job, trial, known_steps, display)
        outcomes.append(outcome)
        if outcome.status == "ok":
            known_steps = len(outcome.record.steps)
        if request.recipes is None and AS_IS not in recipes and outcome.record.own_amp:
            recipes.append(AS_IS)
            pending = interleaved([*pending, *plan([AS_IS], request.repeats, request.seeds)])
        environment["seconds"] = time.monotonic() - started
        comparison = assemble(request, outcomes, environment)
        _write(request.folder, comparison)
        if outcome.status == "interrupted":
            return comparison
    if request.fit is not None:
        job = replace(request.job, memory_limit=request.memory_limit)
        comparison["fit_batch"] = fit_batch(job, request.fit, recipes, display)
        _write(request.folder, comparison)
    return comparison


def _check_limit(request: Request, environment: dict[str, Any]) -> None:
    """A batch must have something to fit into.

    Raises:
        UsageError: a CPU without a limit, for it swaps where a GPU fails; a limit where a GPU has its own.
    """
    on_cpu = len(environment["devices"]) < 2
    if request.memory_limit is not None and not on_cpu:
        raise UsageError(
            f"--memory-limit was given, but {environment['devices'][-1]['name']} has memory of its own that "
            "--fit-batch fills; leave the limit out."
        )
    if request.fit is not None and request.memory_limit is None and on_cpu:
        gib = environment["memory_bytes"] / 2**30
        raise UsageError(
            "--fit-batch on a CPU needs --memory-limit, because a CPU with too little memory swaps instead of "
            f"failing; give a size, e.g. --memory-limit {max(1, int(gib / 2))}GiB (this machine has {gib:.1f} GiB)."
        )


def plan(recipes: Sequence[str], repeats: int, seeds: int) -> list[Trial]:
    """The trials, interleaved: all precisions once before any of them again (A B A B)."""
    return [Trial(p, seed, repeat) for repeat in range(repeats) for seed in range(seeds) for p in recipes]


def interleaved(trials: Sequence[Trial]) -> list[Trial]:
    """The same trials with one added later put in its turn; the order of precisions is kept."""
    return sorted(trials, key=lambda trial: (trial.repeat, trial.seed))


def _run(job: Job, trial: Trial, steps: int | None, display: Display) -> Outcome:
    display.begin(trial.label, steps)
    outcome = run_trial(job, trial, lambda *step: display.advance(trial.label, *step))
    words = outcome.reason or f"{len(outcome.record.steps)} steps in {outcome.seconds:.0f} s"
    display.finish(trial.label, outcome.status, words)
    return outcome


def assemble(request: Request, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> dict[str, Any]:
    """The comparison object: what ``--json`` writes, and every report is drawn from."""
    job = request.job
    rows = [
        trial_row(o, job.command(o.trial), str(job.log(o.trial).relative_to(request.folder)))
        for o in outcomes
    ]
    found = verdicts(outcomes, rows, request.tolerance)
    drift = speed_drift(outcomes)
    if drift["words"] and found:
        # The first row is the baseline, which every ratio rests on.
        found[0]["warnings"].append(drift["words"])
    device = next((row["device"] for row in rows if row["device"]), "cpu")
    return {
        "schema": SCHEMA,
        "program": {
            "command": request.command,
            "module": request.module,
            "cwd": str(Path.cwd()),
            "launch": request.launch,
        },
        "environment": environment,
        "options": {
            "steps": request.steps,
            "repeats": request.repeats,
            "seeds": request.seeds,
            "warmup_steps": WARMUP,
            "time_limit": request.time_limit,
            "products": request.products,
            "tolerance": str(request.tolerance) or None,
            "prefer": request.prefer,
        },
        "trials": rows,
        "verdicts": found,
        "speed_drift": drift,
        "recommendation": recommend(found, "pytorch", device, request.prefer),
        "method": [{"figure": figure, "how": how} for figure, how in METHOD],
    }


def _write(folder: Path, comparison: dict[str, Any]) -> None:
    """Write the object beside its records; a reader never sees half of it."""
    path = folder / "comparison.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(comparison, allow_nan=False), encoding="utf-8")
    partial.replace(path)


def _environment() -> dict[str, Any]:
    import psutil

    machine = describe_machine()
    return {
        "halfstep": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": machine["cpu"]["model"],
        "cpu_flags": machine["cpu"]["flags"],
        "cores": machine["cpu"]["cores"],
        "memory_bytes": psutil.virtual_memory().total,
        "threads": machine["threads"],
        "frameworks": installed_versions(),
        "devices": machine["devices"],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def default_recipes(environment: dict[str, Any]) -> tuple[str, ...]:
    """Every precision that this machine can run, fp32 first; tf32 only where it has the units."""
    # The CPU comes first; a program uses the accelerator where there is one.
    able = environment["devices"][-1]["precisions"]
    return tuple(name for name in ("fp32", "tf32", "bf16", "fp16") if able[name]["kind"] != "impossible")
