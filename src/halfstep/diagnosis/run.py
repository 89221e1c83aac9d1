"""Runs a diagnosis: the program is watched in a precision and in fp32; if asked for, it also runs with the remedies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

from halfstep.comparison.work import Display
from halfstep.diagnosis import diagnose
from halfstep.diagnosis.compiled import beside, findings_of
from halfstep.diagnosis.model import (
    CompiledRun,
    Diagnosis,
    Finding,
    Looked,
    Note,
    Program,
    Reference,
    Remedy,
    Tried,
)
from halfstep.errors import UsageError
from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.record.ran import Ran
from halfstep.trials import Job, Outcome, Trial, caused_by_format, modules_to_keep, run_trial
from halfstep.words.absent import failed_look
from halfstep.words.plural import count
from halfstep.words.ran import words

REFERENCE = "fp32"
#: how many remedies are tried at most: each is a training of its own
TRIED = 4
#: how many modules are kept in fp32 beside the first one, where that one alone does not help
BESIDE = 2


@dataclass(frozen=True)
class Question:
    """What the user wants diagnosed; the fields are the options of ``halfstep diagnose``."""

    job: Job
    precision: str
    steps: int
    try_remedies: bool

    @property
    def program(self) -> list[str]:
        """The program and its arguments, as given."""
        return [*(["-m"] if self.job.module else []), self.job.program, *self.job.arguments]


def run_diagnosis(question: Question, display: Display) -> Diagnosis:
    """Run the trials and return what was found; :mod:`halfstep.report.words.diagnosis` puts it into words.

    Raises:
        UsageError: the program made no step that could be watched; the message has the reason.
    """
    precision, cwd = question.precision, str(Path.cwd())  # a program may remove it
    plain = parse(precision).name == REFERENCE
    names = [precision] if plain else [precision, REFERENCE]
    display.plan([Trial(name).label for name in names])
    tried = _run(question, precision, display)
    _require_steps(question, tried, display)
    reference = None if plain else _run(question, REFERENCE, display)
    usable = reference if reference is not None and reference.record.steps else None
    found = diagnose(precision, tried.record, usable.record if usable else None)
    compiled = _compiled(question, tried, display)
    findings = found.findings
    if compiled is not None:
        findings = (*findings_of(compiled), *findings)
    if question.try_remedies:
        findings = _try_remedies(question, findings, usable, display)
    return replace(
        found,
        program=Program(tuple(question.program), cwd),
        ran_as=words(Ran.of(tried.record)),
        emulated=bool(tried.record.takeover.get("emulated")),
        as_on=question.job.options.as_on,
        status=tried.status,
        reason=tried.reason,
        steps=len(tried.record.steps),
        skipped_steps=sum(bool(step.get("skipped")) for step in tried.record.steps),
        losses=_losses(tried),
        reference=_reference(reference),
        compiled=compiled,
        findings=findings,
        looked=_looked(tried, usable, plain),
    )


def _compiled(question: Question, tried: Outcome, display: Display) -> CompiledRun | None:
    """A program that compiles was watched in eager mode: it runs once more, compiled and unwatched."""
    if not any(event["what"] == "eager" for event in tried.record.watched):
        return None
    unwatched = replace(question, job=replace(question.job, watch=False, graphs=True))
    outcome = _run(unwatched, question.precision, display, repeat=1)
    return beside(outcome.record, tried.record, question.precision, outcome.status, outcome.reason)


def _run(question: Question, precision: str, display: Display, repeat: int = 0) -> Outcome:
    trial = Trial(precision, repeat=repeat)
    display.begin(trial.label, question.steps)
    outcome = run_trial(question.job, trial, lambda *step: display.advance(trial.label, *step))
    display.finish(trial.label, outcome.status, outcome.reason or count(len(outcome.record.steps), "step"))
    return outcome


def _require_steps(question: Question, tried: Outcome, display: Display) -> None:
    """There has to be a step to diagnose, of a framework that can be watched. Raises UsageError if there is none."""
    record, log = tried.record, question.job.log(tried.trial)
    if tried.status == "unsupported":
        raise UsageError(tried.reason)
    if record.takeover.get("framework") not in (None, "pytorch", "keras"):
        raise UsageError(
            f"The program trains with {record.takeover['framework']}; diagnose watches PyTorch, so use "
            "`halfstep compare` to see how it fares in this precision."
        )
    if not record.steps and caused_by_format(record):
        kept = _kept(question, record, display)
        raise UsageError(
            f"The program fails in {question.precision} before its first step: {tried.reason}{kept}."
        )
    if not record.steps:
        raise UsageError(
            f"The program made no optimizer step in {question.precision} ({tried.reason or tried.status}), so there is "
            f"nothing to diagnose; give a program that trains with PyTorch, and see its output in {str(log)!r}.",
            see=log,
        )


def _kept(question: Question, record: Record, display: Display) -> str:
    """What the program does if modules whose results meet other numbers are kept in fp32; the end of a sentence."""
    recipe, modules = parse(question.precision), modules_to_keep(record)
    if not modules or recipe.keep or recipe.compute not in ("bf16", "fp16"):
        return ""
    kept = str(replace(recipe, keep=modules))
    outcome = _run(question, kept, display)
    made = count(len(outcome.record.steps), "step")
    return f". Tried: in {kept} it " + (
        f"makes {made}" if outcome.status == "ok" else f"is {outcome.status}, too"
    )


def _losses(outcome: Outcome) -> tuple[float | None, ...]:
    return tuple(x if x is not None and math.isfinite(x) else None for x in outcome.record.losses)


def _reference(outcome: Outcome | None) -> Reference | None:
    if outcome is None:
        return None
    return Reference(REFERENCE, outcome.status, outcome.reason, len(outcome.record.steps), _losses(outcome))


def _looked(tried: Outcome, reference: Outcome | None, plain: bool) -> Looked:
    """How the numbers were seen."""
    numbers = [event for event in tried.record.watched if event["what"] == "numbers"]
    seen = {event["what"] for event in tried.record.watched}
    notes: dict[Note, bool] = {
        "in_part": any(event.get("counted", 0) < event.get("elements", 0) for event in numbers),
        "eager": "eager" in seen,
        "emulated": "rounded" in seen,
        "no_reference": reference is None and not plain,
    }
    return Looked(
        steps=tuple(sorted({event["step"] for event in numbers})),
        notes=tuple(note for note, holds in notes.items() if holds),
        reference_ran=None if reference is None else Ran.of(reference.record),
        warnings=(*tried.record.warnings, *starmap(failed_look, tried.record.absent.items())),
    )


def _try_remedies(
    question: Question, findings: Sequence[Finding], reference: Outcome | None, display: Display
) -> tuple[Finding, ...]:
    """The findings after the program was run with every remedy that is a recipe: whether each works."""
    recipes = list(dict.fromkeys(way.recipe for f in findings for way in f.remedies if way.recipe))[:TRIED]
    names = [
        question.precision,
        *([REFERENCE] if parse(question.precision).name != REFERENCE else []),
        *recipes,
    ]
    display.plan([Trial(name).label for name in dict.fromkeys(names)])
    left: dict[str | None, tuple[Outcome, Sequence[Finding]]] = {}
    for recipe in recipes:
        left[recipe] = _diagnosed(question, recipe, reference, display)
    judged = [
        replace(
            finding,
            remedies=tuple(
                with_outcome(way, finding, *left[way.recipe]) if way.recipe in left else way
                for way in finding.remedies
            ),
        )
        for finding in findings
    ]
    if judged:
        worst = judged[0]
        more = _kept_beside(question, worst, left, reference, display)
        judged[0] = replace(worst, remedies=(*worst.remedies, *more))
    return tuple(judged)


def _diagnosed(
    question: Question, recipe: str, reference: Outcome | None, display: Display
) -> tuple[Outcome, Sequence[Finding]]:
    """The program run in another recipe, and what is found there."""
    outcome = _run(question, recipe, display)
    return outcome, diagnose(recipe, outcome.record, reference.record if reference else None).findings


def _kept_beside(
    question: Question,
    finding: Finding,
    left: Mapping[str | None, tuple[Outcome, Sequence[Finding]]],
    reference: Outcome | None,
    display: Display,
) -> list[Remedy]:
    """If the same finding is left in a later module, keep both in fp32, and so on, until that works."""
    failing = [
        way for way in finding.remedies if way.works is False and way.recipe and parse(way.recipe).keep
    ]
    if not failing:
        return []
    recipe, found = parse(str(failing[0].recipe)), left[failing[0].recipe][1]
    for _ in range(BESIDE):
        same = (f.where for f in found if f.kind == finding.kind and f.where and f.where not in recipe.keep)
        where = next(same, None)
        if where is None:
            return []
        recipe = replace(recipe, keep=(*recipe.keep, where))
        outcome, found = _diagnosed(question, str(recipe), reference, display)
        way = with_outcome(
            Remedy(recipe=str(recipe), change="keep", names=recipe.keep), finding, outcome, found
        )
        if way.works:
            return [way]
    return []


def with_outcome(way: Remedy, finding: Finding, outcome: Outcome, left: Sequence[Finding]) -> Remedy:
    """A remedy that was tried: whether the finding is gone, and what is seen instead."""
    losses = [x for x in outcome.record.losses if x is not None]
    if outcome.status != "ok" or not losses or not math.isfinite(losses[-1]):
        reason = outcome.reason or "the loss was not finite at the end"
        return replace(way, works=False, tried=Tried(reason))
    same = [f for f in left if (f.kind, f.where) == (finding.kind, finding.where)]
    others = [f for f in left if f.severity >= finding.severity and f.fault == "precision"]
    found = next(iter([*same, *others]), None)
    return replace(way, works=found is None, tried=Tried("", found, losses[-1], len(losses)))
