"""Finds the largest batch that fits each precision, by bisection with real trials of a few steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.model.fit import Fit, FitRow, FitTrial
from halfstep.errors import UsageError
from halfstep.trials import Job, Outcome, Trial, run_trial, safe
from halfstep.trials.progress import TrialDisplay
from halfstep.words import fit as fit_words

#: enough steps for a forward and a backward pass while the optimizer's state exists
FIT_STEPS = 4
#: the search ends when the two ends differ by at most 1/16 of the batch: 448 fits, 480 does not
FINENESS = 16
#: where the search begins if the program's arguments name no batch
FIRST = 8
MOST = 2**24

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]i?)?B?$", re.IGNORECASE)


@dataclass(frozen=True)
class FitOption:
    """The program's own option for the batch, and what it counts."""

    name: str  #: what is counted, for people: ``images``
    #: the option as the program takes it: ``--batch-size``, or ``train.batch`` for ``train.batch=8``
    argument: str

    def given(self, arguments: Sequence[str]) -> int | None:
        """The batch in the program's arguments; None where they name none."""
        for at, word in enumerate(arguments):
            value = arguments[at + 1] if word == self.argument and at + 1 < len(arguments) else ""
            value = word.removeprefix(f"{self.argument}=") if word.startswith(f"{self.argument}=") else value
            if value.isdecimal() and int(value) > 0:
                return int(value)
        return None

    def into(self, arguments: Sequence[str], batch: int) -> tuple[str, ...]:
        """The arguments with this batch: it replaces another batch, or is added at their end."""
        joined = f"{self.argument}={batch}"
        for at, word in enumerate(arguments):
            if word.startswith(f"{self.argument}="):
                return (*arguments[:at], joined, *arguments[at + 1 :])
            if word == self.argument:
                return (*arguments[: at + 1], str(batch), *arguments[at + 2 :])
        return (*arguments, *([self.argument, str(batch)] if self.argument.startswith("-") else [joined]))


def parse_fit(text: str) -> FitOption:
    """``images=--batch-size`` or, without a name, ``--batch-size``. Raises UsageError if no option is named."""
    name, equals, argument = text.partition("=")
    if text.startswith("-") or not equals:
        name, argument = "batch", text
    if not name or not argument.strip("-") or "=" in argument:
        raise UsageError(
            f"--fit-batch was given {text!r}; give the program's own option for the batch, with what it counts: "
            "--fit-batch images=--batch-size, or --fit-batch --batch-size."
        )
    return FitOption(name, argument)


def parse_size(text: str) -> int:
    """``2GiB``, ``800MB`` or ``2G`` (binary, as ``2GiB``) in bytes. Raises UsageError if it is no size."""
    found = _SIZE.match(text.strip())
    if not found or float(found[1]) == 0:
        raise UsageError(f"--memory-limit was given {text!r}; give a size such as 2GiB or 800MB.")
    unit = (found[2] or "").lower()
    decimal = unit and "i" not in unit and text.strip().lower().endswith("b")
    return int(float(found[1]) * (1000 if decimal else 1024) ** (" kmgt".index(unit[0]) if unit else 0))


@dataclass
class Search:
    """The state of a bisection: the largest batch that fitted, the smallest that did not."""

    fits: int | None = None
    fails: int | None = None

    def next(self, first: int) -> int | None:
        """The batch to try next; None once the two are close enough."""
        if self.fits is None and self.fails is None:
            return first
        if self.fails is None:
            return None if self.fits is None or self.fits >= MOST else 2 * self.fits
        if self.fits is None:
            return self.fails // 2 or None
        gap = self.fails - self.fits
        if gap <= max(1, self.fits // FINENESS):
            return None
        middle = self.fits + gap // 2
        return middle // 8 * 8 if gap > 16 else middle


def fit_batch(
    job: Job,
    option: FitOption,
    precisions: Sequence[str],
    display: TrialDisplay,
    run: Callable[..., Outcome] = run_trial,
) -> Fit:
    """The largest batches: a row per precision with every trial that it rests on.

    Args:
        job: what to run; a batch must fit into its memory limit, or into the GPU's own memory if that is None.
    """
    rows: list[FitRow] = []
    for precision in precisions:
        rows.append(_row(job, option, precision, display, run))
        if rows[-1].trials and rows[-1].trials[-1].status == "interrupted":
            break
    first = rows[0].largest if rows else None
    return Fit(
        name=option.name,
        argument=option.argument,
        steps=FIT_STEPS,
        memory_limit_bytes=job.memory_limit,
        rows=tuple(
            replace(row, ratio=row.largest / first if row.largest and first else None) for row in rows
        ),
    )


def _row(
    job: Job, option: FitOption, precision: str, display: TrialDisplay, run: Callable[..., Outcome]
) -> FitRow:
    search, trials, reason = Search(), list[FitTrial](), ""
    while not reason and (batch := search.next(option.given(job.arguments) or FIRST)) is not None:
        trial = _try(job, option, precision, batch, display, run)
        reason = _no_answer(option, trials, trial)
        trials.append(trial)
        if not reason and trial.status == "out_of_memory":
            search.fails = batch
        elif not reason:
            search.fits = batch
    if not reason and search.fits is None:
        reason = fit_words.none_fitted(search.fails)
    return FitRow(precision, search.fits, search.fails, reason, tuple(trials))


def _try(
    job: Job,
    option: FitOption,
    precision: str,
    batch: int,
    display: TrialDisplay,
    run: Callable[..., Outcome],
) -> FitTrial:
    trial, folder = Trial(precision), job.folder / "fit" / f"{safe(precision)}-{batch}"
    options = replace(job.options, steps=FIT_STEPS)
    tried = replace(job, arguments=option.into(job.arguments, batch), folder=folder, options=options)
    label = f"{precision}, {batch} {option.name}"
    display.begin(label, FIT_STEPS)
    outcome = run(tried, trial, lambda *step: display.advance(label, *step))
    status, reason = _judged(job.memory_limit, outcome)
    display.finish(label, status, reason)
    return FitTrial(
        size=batch,
        status=status,
        reason=reason,
        samples=outcome.record.sample.get("samples"),
        peak_memory_bytes=outcome.record.end.get("peak_memory_bytes"),
        peak_resident_bytes=outcome.record.end.get("peak_resident_bytes"),
        seconds=outcome.seconds,
        log=str(tried.log(trial).relative_to(job.folder)),
    )


def _judged(limit: int | None, outcome: Outcome) -> tuple[str, str]:
    """(status, reason). A peak over the limit may be too short to be seen while the trial runs; its record has it."""
    peak = outcome.record.end.get("peak_resident_bytes")
    if limit is not None and peak is not None and peak > limit:
        return "out_of_memory", fit_words.over_limit(peak, limit)
    return outcome.status, outcome.reason


def _no_answer(option: FitOption, before: Sequence[FitTrial], trial: FitTrial) -> str:
    """Why a trial says nothing about memory; empty if it does: a diverged trial fitted, too."""
    size, samples = trial.size, trial.samples
    if trial.status not in ("ok", "diverged", "out_of_memory"):
        return fit_words.no_answer(size, option.name, trial.status, trial.reason)
    same = next((t for t in before if samples and t.samples == samples and t.size < size), None)
    if samples and same is not None and trial.status != "out_of_memory":
        return fit_words.same_samples(samples, option.argument, same.size, size)
    return ""
