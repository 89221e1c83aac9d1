"""Runs a comparison: plans its trials, runs them interleaved, and writes the comparison to disk after each."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from halfstep import codec
from halfstep.comparison import archive
from halfstep.comparison.advice.adopt import Script
from halfstep.comparison.advice.recommend import recommend
from halfstep.comparison.blocks import Here, InTurn, Runner, SideBySide, in_order
from halfstep.comparison.budgeted import Budgeted, Seen, levels, with_budget
from halfstep.comparison.cluster.ray_cluster import cluster
from halfstep.comparison.continued import files_of_earlier_trials
from halfstep.comparison.disturbance import disturbances, disturbed
from halfstep.comparison.environment import this_machine
from halfstep.comparison.fit import fit_batch
from halfstep.comparison.model.budget import End
from halfstep.comparison.model.comparison import Comparison, Program
from halfstep.comparison.model.environment import BlocksAtOnce, Environment
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.model.recommendation import Recommendation
from halfstep.comparison.request import Request, Stored, check_machine, save, stored
from halfstep.comparison.rows import WARMUP, trial_row
from halfstep.comparison.slots import slots
from halfstep.comparison.statistics.drift import speed_drift
from halfstep.comparison.statistics.sequential import LOOKS
from halfstep.comparison.trial_cost import without_energy
from halfstep.comparison.verdicts import verdicts
from halfstep.comparison.work import Disk, Display, Work
from halfstep.errors import UsageError
from halfstep.files import read_json
from halfstep.meters import idle_watts
from halfstep.record.events import Takeover
from halfstep.trials import Outcome, Trial, run_trial
from halfstep.words import absent

AS_IS = "as-is"

#: seconds for which the idle machine is metered before the first trial, if it has energy counters
IDLE_SECONDS = 6.0


def run_comparison(
    request: Request, display: Display, write: Callable[[Comparison], None], resume: Stored | None = None
) -> Comparison:
    """Run all trials and return the comparison, without words; Ctrl-C ends it early, with the trials so far.

    Args:
        write: writes the comparison, after every trial.
        resume: the stored request, if the comparison is resumed: trials that are done are not run again.

    Raises:
        UsageError: it was started on another machine, or its cluster cannot be used.
        HalfstepError: the machines of its cluster were lost.
    """
    if not request.on:
        return _run(request, display, write, resume, this_machine())
    program = "" if request.module else request.program
    blocks = request.repeats * request.seeds if request.budget is None else LOOKS[-1]
    with cluster(request.on, request.resources, blocks, program, request.folder) as found:
        return _run(request, display, write, resume, found.environment, found.runners)


def _run(
    request: Request,
    display: Display,
    write: Callable[[Comparison], None],
    resume: Stored | None,
    now: Environment,
    runners: Sequence[Runner] = (),
) -> Comparison:
    """As :func:`run_comparison`, on the machine that ``now`` describes, or by ``runners`` on several such machines."""
    started, cwd = time.monotonic(), os.getcwd()  # a program may remove it
    if resume is None:
        environment = now
        _check_limit(request, environment)
        if not runners:
            environment = environment.with_idle(idle_watts(IDLE_SECONDS, time.sleep))
    else:
        check_machine(resume.environment, now)
        _check_limit(request, resume.environment)
        environment = resume.environment
        started -= environment.seconds or 0.0
    places = slots(request.parallel, environment.devices, request.launch)
    if places:
        environment = replace(
            environment, side_by_side=BlocksAtOnce(len(places), len(places[0].cores) or None)
        )
        runners = [Here(place) for place in places]
    crew = SideBySide(runners) if runners else InTurn(run_trial)
    disk = Disk(display)
    disk.keep(save, request, environment, cwd)
    outcomes = [] if resume is None else _done(request, resume)
    recipes = _recipes(request, environment, outcomes)
    pending = missing(request, outcomes, environment)
    work, ran = Work(request, pending, display, disk), set[Trial]()
    budgeted = None if request.budget is None else Budgeted(request, work, pending, len(runners) or None)
    comparison = assemble(request, outcomes, environment, cwd) if budgeted and outcomes else Comparison()

    def choose() -> None:
        if budgeted is not None and not crew.interrupted:
            budgeted.choose(Seen(outcomes, comparison, recipes, time.monotonic() - started), crew.running)

    choose()
    for outcome in crew.run(pending, work):
        outcomes = [*(o for o in outcomes if o.trial != outcome.trial), outcome]
        ran.add(outcome.trial)
        if request.recipes is None and AS_IS not in recipes and outcome.record.own_amp:
            recipes.append(AS_IS)
            pending[:] = interleaved([*pending, *plan([AS_IS], request.repeats, request.seeds)])
        environment = replace(environment, seconds=time.monotonic() - started)
        disk.keep(save, request, environment, cwd)
        end: End | None = "interrupted" if crew.interrupted else None
        comparison = assemble(request, outcomes, environment, cwd, end=end)
        disk.keep(write, comparison)
        choose()
    again = [] if crew.interrupted else _to_repeat(request, outcomes, ran, environment)
    for outcome in crew.run(again, Work(request, again, display, disk, work.known_steps)):
        environment = replace(environment, seconds=time.monotonic() - started)
        disk.keep(save, request, environment, cwd)
        if outcome.status in archive.DONE:
            outcomes = [outcome if each.trial == outcome.trial else each for each in outcomes]
    fit = None
    if request.fit is not None and not crew.interrupted:
        job = replace(request.job, memory_limit=request.memory_limit)
        fit = fit_batch(job, request.fit, recipes, display)
    end = "interrupted" if crew.interrupted else budgeted.end if budgeted else None
    comparison = assemble(request, outcomes, environment, cwd, fit, end)
    disk.keep(write, comparison)
    return comparison


def _to_repeat(
    request: Request, outcomes: Sequence[Outcome], ran: Collection[Trial], environment: Environment
) -> list[Trial]:
    """The trials among ``ran`` that other work disturbed, to be run again.

    None if there is one repeat, which asks for a quick look; and none if half of all trials were disturbed, as such a
    machine will not become quiet.
    """
    found = [d is not None for d in disturbances([o.record for o in outcomes], environment.shares_cores)]
    if request.repeats < 2 or 2 * sum(found) >= len(found):
        return []
    return [o.trial for o, disturbed in zip(outcomes, found, strict=True) if disturbed and o.trial in ran]


def _check_limit(request: Request, environment: Environment) -> None:
    """Check that a batch has a memory limit to fit into.

    Raises:
        UsageError: no limit on a CPU, which swaps instead of failing; or a limit on a GPU, which has its own.
    """
    on_cpu = len(environment.devices) < 2
    if request.memory_limit is not None and not on_cpu:
        raise UsageError(
            f"--memory-limit was given, but {environment.devices[-1].name} has its own memory, which "
            "--fit-batch fills; leave the limit out."
        )
    if request.fit is not None and request.memory_limit is None and on_cpu:
        gib = (environment.memory_bytes or 0) / 2**30
        raise UsageError(
            "--fit-batch on a CPU needs --memory-limit, because a CPU with too little memory swaps instead of "
            f"failing; give a size, e.g. --memory-limit {max(1, int(gib / 2))}GiB (this machine has {gib:.1f} GiB)."
        )


def _done(request: Request, resume: Stored) -> list[Outcome]:
    before, now = resume.request.time_limit, request.time_limit
    archive.clear(request)
    raised = before is not None and (now is None or now > before)
    return archive.done(archive.outcomes(request), raised)


def _recipes(request: Request, environment: Environment, done: Sequence[Outcome]) -> list[str]:
    if request.recipes is not None:
        return list(request.recipes)
    own = [AS_IS] if any(o.record.own_amp for o in done) else []
    return [*default_recipes(environment), *own]


def rebuilt(folder: str | Path) -> Comparison:
    """The comparison of a folder, made again from its records; trials that did not end are rows, too.

    Raises:
        UsageError: no comparison was started there, or no trial has left a record.
    """
    old = stored(Path(folder))
    found = archive.outcomes(old.request)
    if not found:
        raise UsageError(f"No trial in {str(folder)!r} has left a record yet; resume it with `--resume`.")
    fit = _batches(Path(folder)) if old.request.fit is not None else None
    return assemble(old.request, found, old.environment, old.cwd, fit)


def _batches(folder: Path) -> Fit | None:
    """The batches that fit, which only ``comparison.json`` has."""
    with contextlib.suppress(OSError, ValueError):
        raw = read_json(folder / "comparison.json")
        fit = raw.get("fit_batch") if isinstance(raw, dict) else None
        return codec.read(Fit, fit) if isinstance(fit, dict) else None
    return None


def plan(recipes: Sequence[str], repeats: int, seeds: int) -> list[Trial]:
    """The trials, interleaved: all precisions once before any of them again (A B A B)."""
    return [Trial(p, seed, repeat) for repeat in range(repeats) for seed in range(seeds) for p in recipes]


def interleaved(trials: Sequence[Trial]) -> list[Trial]:
    """The same trials in the order of repeats and seeds, so that one added later runs in its turn."""
    return sorted(trials, key=lambda trial: (trial.repeat, trial.seed))


def assemble(
    request: Request,
    outcomes: Sequence[Outcome],
    environment: Environment,
    cwd: str | None = None,
    fit: Fit | None = None,
    end: End | None = None,
) -> Comparison:
    """The comparison as values: :mod:`halfstep.report.words` makes its words from them.

    Args:
        cwd: the folder it was started in; None: the current one.
        fit: the largest batches, where they were searched.
        end: why a comparison with a budget ended; None: it has not ended, or that is not known.
    """
    job = request.job
    recipes = _recipes(request, environment, outcomes)
    outcomes = in_order(outcomes, recipes)
    records = [o.record for o in outcomes]
    others = disturbances(records, environment.shares_cores)
    files = files_of_earlier_trials(records, request.fresh)
    rows = [
        trial_row(o, tuple(job.command(o.trial)), str(job.log(o.trial).relative_to(request.folder)))
        for o in outcomes
    ]
    for i, by in enumerate(map(disturbed, others, files)):
        rows[i] = replace(rows[i], disturbed=by) if by else rows[i]
    if environment.side_by_side is not None and not environment.shares_cores:
        rows = [without_energy(row, absent.SHARED) for row in rows]
    found = verdicts(outcomes, rows, request.tolerance, levels(request, recipes))
    found, budget = with_budget(found, request, recipes, outcomes, environment.places, end)
    takeover = next((o.record.takeover for o in outcomes if o.record.steps), Takeover())
    script = Script.of(takeover, [own for o in outcomes for own in o.record.own_amp])
    return Comparison(
        program=Program(tuple(request.command), request.module, cwd or str(Path.cwd()), request.launch),
        environment=environment,
        # "steps" and "products" only get their places here, and their values from the options of a run below.
        options={
            "steps": None,
            "repeats": request.repeats,
            "seeds": request.seeds,
            "budget": request.budget,
            "looked_at": request.looked_at,
            "warmup_steps": WARMUP,
            "time_limit": request.time_limit,
            "products": None,
            "tolerance": str(request.tolerance) or None,
            "prefer": request.prefer,
            "parallel": request.parallel or None,
            "on": request.on or None,
            "resources": request.resources or None,
        }
        | asdict(request.options),
        trials=tuple(rows),
        missing=tuple(trial.label for trial in missing(request, outcomes, environment)),
        verdicts=tuple(found),
        speed_drift=speed_drift(outcomes),
        recommendation=(
            Recommendation(decided=False, prefer=request.prefer, rule="not_all_ran")
            if budget is not None and budget.not_run
            else recommend(found, script, request.prefer, fit)
        ),
        fit_batch=fit,
        budget=budget,
    )


def missing(request: Request, outcomes: Sequence[Outcome], environment: Environment) -> list[Trial]:
    """The trials that were asked for and have not ended, in order; none with a budget, which chooses them later."""
    if request.budget is not None:
        return []
    known = {o.trial for o in archive.done(outcomes)}
    asked = plan(_recipes(request, environment, outcomes), request.repeats, request.seeds)
    return [trial for trial in asked if trial not in known]


def default_recipes(environment: Environment) -> tuple[str, ...]:
    """Every precision that this machine can run, fp32 first; tf32 only where it has the units."""
    # The CPU comes first; a program uses the accelerator where there is one.
    able = environment.devices[-1].precisions
    return tuple(name for name in ("fp32", "tf32", "bf16", "fp16") if able[name].kind != "impossible")
