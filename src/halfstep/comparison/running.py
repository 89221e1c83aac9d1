"""Runs a comparison: plans its trials, runs them interleaved, and keeps the comparison object up to date on disk."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from halfstep import codec
from halfstep.comparison import archive
from halfstep.comparison.advice.adopt import Script
from halfstep.comparison.advice.recommend import recommend
from halfstep.comparison.disturbance import disturbances, disturbed
from halfstep.comparison.fit import fit_batch
from halfstep.comparison.going_on import files_of_earlier_trials
from halfstep.comparison.model.comparison import Comparison, Program
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.request import Request, Stored, check_machine, save, stored
from halfstep.comparison.rows import WARMUP, trial_row
from halfstep.comparison.statistics.drift import speed_drift
from halfstep.comparison.verdicts import verdicts
from halfstep.errors import UsageError
from halfstep.files import read_json
from halfstep.machine.description import describe_machine, installed_versions
from halfstep.meters import idle_watts
from halfstep.trials import Outcome, Trial, run_trial
from halfstep.version import __version__
from halfstep.words.plural import count

AS_IS = "as-is"

#: how long the idle machine is metered before the first trial, where it has energy counters
IDLE_SECONDS = 6.0


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


def run_comparison(
    request: Request, display: Display, write: Callable[[Comparison], None], resume: Stored | None = None
) -> Comparison:
    """Run all trials and return the comparison, without words; Ctrl-C ends it early with what there is.

    Args:
        request: what to compare.
        display: shows how it goes on.
        write: writes down what there is, after every trial.
        resume: the request as it was begun: its trials that are done are not run again.

    Raises:
        UsageError: it was begun on another machine.
    """
    started = time.monotonic()
    if resume is None:
        environment = _environment()
        _check_limit(request, environment)
        environment |= idle_watts(IDLE_SECONDS, time.sleep)
    else:
        check_machine(resume.environment, _environment())
        _check_limit(request, resume.environment)
        environment = resume.environment
        started -= float(environment.get("seconds") or 0.0)
    disk = _Disk(display)
    disk.keep(save, request, environment)
    outcomes = [] if resume is None else _done(request, resume)
    recipes = _recipes(request, environment, outcomes)
    done = len(outcomes)
    pending = missing(request, outcomes, environment)
    known_steps, interrupted = request.options.steps, False
    while pending and not interrupted:
        trial = pending.pop(0)
        display.plan([t.label for t in (*(o.trial for o in outcomes[done:]), trial, *pending)])
        outcome = _run(request, trial, known_steps, display, disk)
        outcomes.append(outcome)
        if outcome.status == "ok":
            known_steps = len(outcome.record.steps)
        if request.recipes is None and AS_IS not in recipes and outcome.record.own_amp:
            recipes.append(AS_IS)
            pending = interleaved([*pending, *plan([AS_IS], request.repeats, request.seeds)])
        environment["seconds"] = time.monotonic() - started
        disk.keep(save, request, environment)
        disk.keep(write, assemble(request, outcomes, environment))
        interrupted = outcome.status == "interrupted"
    for index in _to_repeat(request, outcomes, done):
        display.plan([outcomes[index].trial.label])
        outcome = _run(request, outcomes[index].trial, known_steps, display, disk)
        environment["seconds"] = time.monotonic() - started
        disk.keep(save, request, environment)
        interrupted = outcome.status == "interrupted"
        if interrupted:
            break
        outcomes[index] = outcome if outcome.status in archive.DONE else outcomes[index]
    fit = None
    if request.fit is not None and not interrupted:
        job = replace(request.job, memory_limit=request.memory_limit)
        fit = fit_batch(job, request.fit, recipes, display)
    comparison = assemble(request, outcomes, environment, fit=fit)
    disk.keep(write, comparison)
    return comparison


class _Disk:
    """Keeps what it can: a folder that is gone, or a full disk, is said once and ends no comparison."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._told = ""

    def keep(self, write: Callable[..., object], *args: Any) -> None:
        """``write(*args)``; the trials go on without."""
        try:
            write(*args)
        except OSError as error:
            why = error.strerror or type(error).__name__
            if why != self._told:
                self._told = why
                self._display.finish(
                    "the folder", "not written", f"{why}; make room, then go on with --resume"
                )


def _to_repeat(request: Request, outcomes: Sequence[Outcome], done: int) -> list[int]:
    """The trials of this run, from index ``done`` on, that other work disturbed; none where it disturbed half of all.

    Whoever asked for one repeat wants a quick look, and a machine that is busy all the time will not be quieter.
    """
    found = [d is not None for d in disturbances([o.record for o in outcomes])]
    if (
        request.repeats < 2
        or 2 * sum(found) >= len(found)
        or any(o.status == "interrupted" for o in outcomes)
    ):
        return []
    return [index for index, disturbed in enumerate(found) if disturbed and index >= done]


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


def _done(request: Request, resume: Stored) -> list[Outcome]:
    before, now = resume.request.time_limit, request.time_limit
    archive.clear(request)
    raised = before is not None and (now is None or now > before)
    return archive.done(archive.outcomes(request), raised)


def _recipes(request: Request, environment: dict[str, Any], done: Sequence[Outcome]) -> list[str]:
    if request.recipes is not None:
        return list(request.recipes)
    own = [AS_IS] if any(o.record.own_amp for o in done) else []
    return [*default_recipes(environment), *own]


def rebuilt(folder: str | Path) -> Comparison:
    """The comparison object of a folder, made again from its records; trials that did not end are rows, too.

    Raises:
        UsageError: no comparison was begun there, or no trial has left a record.
    """
    old = stored(Path(folder))
    found = archive.outcomes(old.request)
    if not found:
        raise UsageError(f"No trial in {str(folder)!r} has left a record yet; resume it with `--resume`.")
    return assemble(old.request, found, old.environment, old.cwd, _batches(Path(folder)))


def _batches(folder: Path) -> Fit | None:
    """The batches that fit are the end of a search and stand in the comparison alone."""
    with contextlib.suppress(OSError, ValueError):
        raw = read_json(folder / "comparison.json")
        fit = raw.get("fit_batch") if isinstance(raw, dict) else None
        return codec.read(Fit, fit) if isinstance(fit, dict) else None
    return None


def plan(recipes: Sequence[str], repeats: int, seeds: int) -> list[Trial]:
    """The trials, interleaved: all precisions once before any of them again (A B A B)."""
    return [Trial(p, seed, repeat) for repeat in range(repeats) for seed in range(seeds) for p in recipes]


def interleaved(trials: Sequence[Trial]) -> list[Trial]:
    """The same trials with one added later put in its turn; the order of precisions is kept."""
    return sorted(trials, key=lambda trial: (trial.repeat, trial.seed))


def _run(request: Request, trial: Trial, steps: int | None, display: Display, disk: _Disk) -> Outcome:
    display.begin(trial.label, steps)
    again = archive.has_ended(request, trial)
    where = archive.beside(request) if again else request
    disk.keep(archive.forget, where, trial)
    outcome = run_trial(where.job, trial, lambda *step: display.advance(trial.label, *step))
    disk.keep(archive.keep, where, outcome)
    if again:
        disk.keep(archive.replace_trial, request, outcome)
    words = outcome.reason or f"{count(len(outcome.record.steps), 'step')} in {outcome.seconds:.0f} s"
    display.finish(trial.label, outcome.status, words)
    return outcome


def assemble(
    request: Request,
    outcomes: Sequence[Outcome],
    environment: dict[str, Any],
    cwd: str | None = None,
    fit: Fit | None = None,
) -> Comparison:
    """The comparison as values: :mod:`halfstep.report.words` makes its words from them."""
    job = request.job
    records = [o.record for o in outcomes]
    others, files = disturbances(records), files_of_earlier_trials(records)
    rows = [
        trial_row(o, tuple(job.command(o.trial)), str(job.log(o.trial).relative_to(request.folder)))
        for o in outcomes
    ]
    for i, by in enumerate(map(disturbed, others, files)):
        rows[i] = replace(rows[i], disturbed=by) if by else rows[i]
    found = verdicts(outcomes, rows, request.tolerance)
    script = Script.of(next((o.record.takeover for o in outcomes if o.record.steps), {}))
    return Comparison(
        program=Program(tuple(request.command), request.module, cwd or str(Path.cwd()), request.launch),
        environment=environment,
        # The options of every run have their values from below; two of them stand in their places already.
        options={
            "steps": None,
            "repeats": request.repeats,
            "seeds": request.seeds,
            "warmup_steps": WARMUP,
            "time_limit": request.time_limit,
            "products": None,
            "tolerance": str(request.tolerance) or None,
            "prefer": request.prefer,
        }
        | asdict(request.options),
        trials=tuple(rows),
        missing=tuple(trial.label for trial in missing(request, outcomes, environment)),
        verdicts=tuple(found),
        speed_drift=speed_drift(outcomes),
        recommendation=recommend(found, script, request.prefer, fit),
        fit_batch=fit,
    )


def missing(request: Request, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> list[Trial]:
    """The trials that were asked for and have not ended, in the order in which they are to be run."""
    known = {o.trial for o in archive.done(outcomes)}
    asked = plan(_recipes(request, environment, outcomes), request.repeats, request.seeds)
    return [trial for trial in asked if trial not in known]


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
