"""The advice in words: a headline, and a sentence for the rule that answered; :mod:`claims` words the reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from halfstep.comparison.advice.evidence import (
    AS_GOOD,
    FEW_RUNS,
    Evidence,
    Row,
    enough_repeats,
    gain,
    is_gain,
    lower,
    may_gain,
    may_gain_little,
    measured_faster,
    ratio_name,
    ratio_of,
    standing,
    units_can_gain,
)
from halfstep.comparison.advice.recommend import Advice
from halfstep.comparison.advice.rules import Answer
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.recommendation import Prefer, Reason, Recommendation
from halfstep.comparison.model.verdicts import Cause, PrecisionRow
from halfstep.comparison.rows import enough_steps
from halfstep.comparison.statistics.intervals import FEWEST_STEPS, MOST_RUNS
from halfstep.report.words.budget import MORE_TIME
from halfstep.report.words.claims import claimed, fits, plain_number, went_on
from halfstep.report.words.ratios import ends, gained
from halfstep.words.plural import capitalized

_FASTER = {"speed": "faster", "memory": "smaller", "energy": "thriftier", "accuracy": "better"}
_UNMEASURED = {
    "speed": "no step{} was timed here",
    "memory": "no peak of memory{} was measured here",
    "energy": "no energy{} was measured here",
}
_SAME: dict[Cause, str] = {
    "fp64": "the program computes in fp64, which every precision leaves as it is; make it fp32 to have a choice",
    "no_products": "the program makes no matrix product, convolution or attention, and a precision changes their "
    "format alone",
    "out_of_reach": "the program makes its products where the precision does not reach",
    "identical_losses": "every loss is the same to the last bit",
}


def worded(recommendation: Recommendation, advice: Advice) -> Recommendation:
    """The recommendation with its sentence, and the reasons, each a clause with the place of its figure.

    Args:
        recommendation: without words.
        advice: the rules' answer, from rows that have their words.
    """
    head, why = headline(advice), because(advice)
    reasons = [Reason(claimed(claim, advice.evidence), claim.evidence) for claim in advice.claims]
    return replace(
        recommendation, text=f"{head}: {why}", reasons=tuple(reasons), headline=head, because=capitalized(why)
    )


#: the headlines of some rules; for all others the answer decides. ``{0}``: "Stay with" or "Use"; ``{1}``: the precision
_HEADS = {
    "nothing_ran": "No trial ran to its end",
    "unstable": "{0} {1} until the training is stable",
    "not_learning": "Debug in {1} first",
    "continued": "No verdict",
    "only_emulated": "{0} {1} here",
}


def headline(advice: Advice) -> str:
    """``Use bf16``, ``Stay with fp32 for now``, ``Undecided``: what to do, without the reasons."""
    precision, baseline = advice.answer.precision, advice.evidence.baseline
    # A script with its own precision, which is another row, cannot "stay with" the baseline.
    elsewhere = any(row.precision == "as-is" for _, row in advice.evidence.ran)
    keep = "Use" if elsewhere and precision != "as-is" else "Stay with"
    if advice.rule in _HEADS:
        return _HEADS[advice.rule].format(keep, precision)
    if precision is None:
        return "No precision to choose" if advice.rule == "ran_the_same" else "Undecided"
    if baseline is not None and precision == baseline[1].precision:
        head = f"{keep} {precision}"
    else:
        head = "Keep what the script does by itself" if precision == "as-is" else f"Use {precision}"
    return head if advice.answer.decided else f"{head} for now"


def because(advice: Advice) -> str:
    """Why, in a sentence that follows the headline after a colon."""
    return _BECAUSE[advice.rule](advice.answer, advice.evidence)


# --- why, after the headline of each rule -------------------------------------------------------------------


def _ran_the_same(answer: Answer, evidence: Evidence) -> str:
    cause = evidence.same[0][1].same_as_baseline
    because = "" if cause is None else f", because {_SAME[cause]}"
    return f"{_names([evidence.base, *evidence.same])} ran the same{because}."


def _alone(answer: Answer, evidence: Evidence) -> str:
    every = " in every trial" if any((v.trials or 0) > 1 for _, v in evidence.failed) else ""
    why = f"it alone ran to its end{every}" if evidence.failed else "nothing else was run"
    return f"{why}."


def _accuracy_first(answer: Answer, evidence: Evidence) -> str:
    if answer.about is None:
        return _none_as_accurate(answer, evidence)
    row = answer.about[1]
    if answer.precision == row.precision:
        return f"{row.quality.words}."
    return f"{row.precision} is as accurate, {_no_faster(row, evidence)}."


def _none_as_accurate(answer: Answer, evidence: Evidence) -> str:
    emulated = len(evidence.real) < len(evidence.ran)
    no_other = "no precision that was not emulated" if emulated else "no other precision"
    text = f"{no_other} was shown to be as accurate"
    unsure = [v for _, v in evidence.real if standing(v) != "bad"]
    if unsure:
        return f"{text}; to know more, {_more_seeds(unsure[0], evidence)}."
    were = "were" if len(evidence.real) > 1 else "was"
    return f"{text}, and {_names(evidence.real)} {were} shown to be worse."


def _no_faster(row: PrecisionRow, evidence: Evidence) -> str:
    """What is said of a speed that is no gain."""
    if row.speed_ratio is None:
        return f"but {_UNMEASURED['speed'].format(' of ' + row.precision)}, so that no gain is known"
    if not units_can_gain(row) and measured_faster(row):
        return f"and its units cannot make it faster, although it was measured so ({_seen(row, 'speed')})"
    if may_gain(row, "speed"):
        more = f"({_seen(row, 'speed')}); {_more_runs(row, 'speed', evidence)}"
        return f"but the data cannot tell whether it is faster {more}"
    return "and no faster" + " by 5 % or more" * may_gain_little(row, "speed")


def _use(answer: Answer, evidence: Evidence) -> str:
    return _advised(answer, evidence, _cost(_about(answer), evidence))


def _largest_batch(answer: Answer, evidence: Evidence) -> str:
    return _advised(answer, evidence, fits(str(answer.precision), evidence))


def _advised(answer: Answer, evidence: Evidence, gain: str) -> str:
    """What the precision gains, and that it is no worse; or, if the data are not enough for that, what is open."""
    row = _about(answer)
    if answer.decided:
        return f"{gain}, and no worse."
    return (
        f"{gain}, and the loss is {'lower' if lower(row) else 'close'}; "
        f"the data cannot tell whether it is worse: {_more_seeds(row, evidence)}."
    )


def _undecided(answer: Answer, evidence: Evidence) -> str:
    row = _about(answer)
    return f"{row.precision} is {_cost(row, evidence)}, but {_why_open(row, evidence)}."


def _larger_batch_not_as_good(answer: Answer, evidence: Evidence) -> str:
    row = _about(answer)
    said = f"in {row.precision} {fits(row.precision, evidence)}"
    if answer.precision is None:
        return f"{said}, but {_why_open(row, evidence)}."
    return f"{said}, but it is worse."


def _why_open(row: PrecisionRow, evidence: Evidence) -> str:
    """Why its quality is not known, and what would show it."""
    if row.quality.kind == "not_known":
        return "neither its loss nor a logged figure shows how good it is; log one with halfstep.log(accuracy=...)"
    if row.quality.kind == "different":
        return (
            "whether it is worse is not known, as a name does not say which direction is better "
            f"({row.quality.words})"
        )
    return f"its quality is open; {_more_seeds(row, evidence)}"


def _gain_cannot_be_told(answer: Answer, evidence: Evidence) -> str:
    row, prefer = _about(answer), evidence.prefer
    return (
        f"the data cannot tell whether {row.precision} is {_FASTER[prefer]} ({_seen(row, prefer)}); "
        f"{_more_runs(row, prefer, evidence)}.{_smaller_one(evidence)}"
    )


def _gains_but_worse(answer: Answer, evidence: Evidence) -> str:
    row, prefer = _about(answer), evidence.prefer
    if not is_gain(row, prefer) and gain(row, prefer) < 1:
        return (
            f"{row.precision} is worse, and the data cannot tell whether it is {_FASTER[prefer]} "
            f"({_seen(row, prefer)})."
        )
    gains = _cost(row, evidence) if is_gain(row, prefer) else f"perhaps {_FASTER[prefer]}"
    return f"{row.precision} is {gains}, but worse."


def _impossible_gain(answer: Answer, evidence: Evidence) -> str:
    row = _about(answer)
    if row.ran.software:
        why = "its products ran in software, which is slower"
    elif row.ran.in_fp32_units or row.speed_bound is None:
        why = "its products ran in fp32 units, which are no faster"
    else:
        why = f"no units can make this program more than {row.speed_bound:.1f}× faster"
    value = row.speed_ratio.value if row.speed_ratio else 1.0
    return (
        f"{row.precision} was measured at {value:.2f}× the speed, "
        f"but {why}: something else on the machine made the difference; compare again when it is quiet, with --repeats "
        f"{FEW_RUNS} or more."
    )


def _no_units(answer: Answer, evidence: Evidence) -> str:
    formats = [v.ran.main if v.precision == "as-is" else v.precision for _, v in evidence.real]
    lacking = _joined(list(dict.fromkeys(formats)))
    return f"this device has no units for {lacking}.{_smaller_one(evidence)}"


def _not_measured(answer: Answer, evidence: Evidence) -> str:
    of_base = answer.claims and answer.claims[0].row == evidence.base
    what = _UNMEASURED[evidence.prefer].format("" if of_base else f" of {_names(evidence.real)}")
    more = "; let it make more steps" * (evidence.prefer == "speed")
    return f"{what}, so that no gain is known{more}."


def _no_gain(answer: Answer, evidence: Evidence) -> str:
    what, others = _FASTER[evidence.prefer], [v for _, v in evidence.real]
    if any(may_gain(v, evidence.prefer) for v in others):
        what = f"shown to be {what}"
    else:
        what += " by 5 % or more" * any(may_gain_little(v, evidence.prefer) for v in others)
    measured = " that was measured" * bool(evidence.unmeasured)
    text = f"no other precision{measured} was {what} here."
    return text + _smaller_one(evidence)


_BECAUSE: dict[str, Callable[[Answer, Evidence], str]] = {
    "nothing_ran": lambda answer, evidence: "there is no advice.",
    "unstable": lambda answer, evidence: f"{claimed(answer.claims[0], evidence)}.",
    "not_learning": lambda answer, evidence: (
        f"{claimed(answer.claims[0], evidence)}, and a precision cannot be judged by it."
    ),
    "continued": lambda answer, evidence: (
        f"{_names(evidence.continued)} {went_on(evidence.continued[0][1])}."
    ),
    "ran_the_same": _ran_the_same,
    "alone": _alone,
    "accuracy_first": _accuracy_first,
    "only_emulated": lambda answer, evidence: (
        "the others were emulated, which shows how well they train, not what they cost."
    ),
    "largest_batch": _largest_batch,
    **dict.fromkeys(("keep_own_amp", "bf16_for_its_range", "fp16_where_bf16_is_not_native", "best"), _use),
    "larger_batch_not_as_good": _larger_batch_not_as_good,
    "undecided": _undecided,
    "gain_cannot_be_told": _gain_cannot_be_told,
    "gains_but_worse": _gains_but_worse,
    "impossible_gain": _impossible_gain,
    "no_units": _no_units,
    "not_measured": _not_measured,
    "no_gain": _no_gain,
}


# --- parts of them -----------------------------------------------------------------------------------------


def _about(answer: Answer) -> PrecisionRow:
    if answer.about is None:
        raise LookupError("the rule speaks of no precision")
    return answer.about[1]


def _cost(row: PrecisionRow, evidence: Evidence) -> str:
    """``1.90× faster``: what it gains by the objective."""
    ratio = ratio_of(row, evidence.prefer)
    return "" if ratio is None else gained(ratio, ratio_name(evidence.prefer))


def _seen(row: PrecisionRow, prefer: Prefer) -> str:
    """``1.43×, from 0.93 to 2.19×``."""
    ratio = ratio_of(row, prefer) or Ratio(1.0)
    if ratio.low is None or ratio.high is None:
        return f"{plain_number(ratio.value)}×"
    return f"{plain_number(ratio.value)}×, from {ends(ratio.value, ratio.low, ratio.high)}"


def _more_runs(row: PrecisionRow, prefer: Prefer, evidence: Evidence) -> str:
    """What to do to tell its gain from noise."""
    ratio = ratio_of(row, prefer) or Ratio(1.0)
    if ratio.disturbed:
        return "other work on the machine disturbed the trials: compare again when it is quiet"
    if evidence.by_budget:
        return MORE_TIME
    if prefer in ("speed", "accuracy") and (row.steps or 0) < (steps := enough_steps(FEWEST_STEPS)):
        repeats = "" if min(ratio.runs or (1,)) > 1 else f", and run with --repeats {FEW_RUNS}"
        return f"let it make more steps, {steps} at least{repeats}: fewer have no interval"
    enough = enough_repeats(row, prefer)
    if enough is None:
        return f"{MOST_RUNS} runs would not be enough: make them longer, or use a quieter machine"
    return f"run with --repeats {enough}"


def _more_seeds(row: PrecisionRow, evidence: Evidence) -> str:
    """What would show its quality: more seeds, or, if seeds change nothing, a program that uses them."""
    if row.quality.kind == "one_seed" and row.quality.seeds > 1:
        return "let the program take its seed from HALFSTEP_TRIAL, as shifting its own seeds changed nothing"
    if evidence.by_budget:
        return MORE_TIME
    seeds = max((v.quality.seeds or 1 for _, v in evidence.ran), default=1)
    return f"run with --seeds {5 if seeds < 5 else 2 * seeds}"


def _smaller_one(evidence: Evidence) -> str:
    """A sentence about a precision that needs less memory, although nothing is faster; empty if there is none."""
    if evidence.prefer != "speed":
        return ""
    smaller = Evidence("memory", evidence.baseline, evidence.ran, evidence.failed).judged("good", "close")
    if not smaller or gain(smaller[0][1], "memory") < 1 / AS_GOOD:
        return ""
    row = smaller[0][1]
    value = row.memory_ratio.value if row.memory_ratio else 1.0
    return f" If memory is short, {row.precision} needs {value:.2f}× of it."


def _names(rows: Sequence[Row]) -> str:
    """``bf16 and fp16``, or ``fp32, bf16 and fp16``."""
    return _joined([v.precision for _, v in rows])


def _joined(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last
