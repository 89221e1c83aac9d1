"""Answers that stay with the baseline, or name none: why nothing else is advised, and what would tell."""

from __future__ import annotations

from halfstep.comparison import going_on
from halfstep.comparison.alike import same_words
from halfstep.comparison.evidence import (
    FEW_RUNS,
    Answer,
    Evidence,
    does_not_fall,
    may_gain,
    ran_of,
    ratio_of,
    standing,
)
from halfstep.comparison.model import Cause
from halfstep.comparison.reasons import (
    explained,
    failure,
    fitted,
    quality,
    ran,
    ratios,
    reason,
    units,
    unmeasured,
    went_on,
)
from halfstep.comparison.sentences import (
    COST,
    UNMEASURED,
    cost,
    more_runs,
    names,
    none_was,
    seen,
    smaller_one,
    why_open,
)
from halfstep.plural import count


def nothing_ran(evidence: Evidence) -> Answer | None:
    """No baseline: no trial ended well."""
    if evidence.baseline is not None:
        return None
    reasons = [failure(row) for row in evidence.failed]
    return {"precision": None, "text": "No trial ran to its end, so there is no advice.", "reasons": reasons}


def unstable(evidence: Evidence) -> Answer | None:
    """The baseline itself diverged."""
    index, base = evidence.base
    if not base.get("diverged"):
        return None
    words = f"{base['precision']} itself {base['quality']['words']}"
    text = f"Stay with {base['precision']} until the training is stable: {words}."
    return {"precision": base["precision"], "text": text, "reasons": [reason(words, index, "diverged")]}


def not_learning(evidence: Evidence) -> Answer | None:
    """The baseline's loss did not fall."""
    index, base = evidence.base
    if not does_not_fall(base):
        return None
    words = f"the loss did not fall in {count(base['steps'], 'step')} of {base['precision']}"
    text = f"Debug in {base['precision']} first: {words}, and a precision cannot be judged by it."
    return {"precision": base["precision"], "text": text, "reasons": [reason(words, index, "fall")]}


def continued(evidence: Evidence) -> Answer | None:
    """All the others that ran to their end went on from what an earlier trial had saved."""
    if not evidence.continued or evidence.ran or evidence.same:
        return None
    first = evidence.continued[0][1]
    text = f"No verdict: {names([*evidence.continued])} {going_on.words(first['went_on'])}; {going_on.CURE}."
    reasons = [went_on(row) for row in evidence.continued]
    return {"precision": None, "text": text, "reasons": reasons, "decided": False}


def ran_the_same(evidence: Evidence) -> Answer | None:
    """All the others that ran to their end ran the same as the baseline."""
    if not evidence.same or evidence.ran:
        return None
    _, base = evidence.base
    cause: Cause = evidence.same[0][1]["same_as_baseline"]
    said = f"{names([evidence.base, *evidence.same])} ran the same, because {same_words(cause)}"
    reasons = [ran(row) for row in (evidence.base, *evidence.same)]
    if ran_of(base).computed_otherwise:
        return {"precision": None, "text": f"No precision to choose: {said}.", "reasons": reasons}
    text = f"Stay with {base['precision']}: {said}."
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def alone(evidence: Evidence) -> Answer | None:
    """None of the others ran to its end."""
    if evidence.ran:
        return None
    _, base = evidence.base
    every = " in every trial" if any(v["trials"] > 1 for _, v in evidence.failed) else ""
    why = f"it alone ran to its end{every}" if evidence.failed else "nothing else was run"
    text = f"Stay with {base['precision']}: {why}."
    return {"precision": base["precision"], "text": text, "reasons": [failure(r) for r in evidence.failed]}


def only_emulated(evidence: Evidence) -> Answer | None:
    """All the others were emulated."""
    if evidence.real:
        return None
    _, base = evidence.base
    why = "the others were emulated, which tells how well they train, not what they cost"
    text = f"Stay with {base['precision']} here: {why}."
    reasons = [reason(f"{v['precision']}: emulated", i, "emulated") for i, v in evidence.ran]
    return {"precision": base["precision"], "text": text, "reasons": [*reasons, *map(quality, evidence.ran)]}


def undecided(evidence: Evidence) -> Answer | None:
    """The first that gains is of open quality."""
    open_ = evidence.judged("unknown")
    if not open_:
        return None
    _, verdict = open_[0]
    text = (
        f"Undecided: {verdict['precision']} is {cost(verdict, evidence)}, but {why_open(verdict, evidence)}."
    )
    reasons = [*ratios(open_[0]), *fitted(open_[0], evidence), quality(open_[0])]
    return {"precision": None, "text": text, "reasons": reasons, "decided": False}


def larger_batch_not_as_good(evidence: Evidence) -> Answer | None:
    """What fits a larger batch than the baseline is of open quality, or worse."""
    roomier = evidence.roomier
    if not roomier:
        return None
    _, base = evidence.base
    open_ = [row for row in roomier if standing(row[1]) == "unknown"]
    _, first = row = (open_ or roomier)[0]
    fits = f"in {first['precision']} {evidence.batches.words(first['precision'], base['precision'])}"
    reasons = [*fitted(row, evidence), *ratios(row, "memory"), quality(row)]
    if open_:
        text = f"Undecided: {fits}, but {why_open(first, evidence)}."
        return {"precision": None, "text": text, "reasons": reasons, "decided": False}
    text = f"Stay with {base['precision']}: {fits}, but it is worse."
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def gain_cannot_be_told(evidence: Evidence) -> Answer | None:
    """Noise leaves open whether the first gains."""
    open_ = evidence.open
    if not open_:
        return None
    _, base = evidence.base
    _, first = open_[0]
    text = (
        f"Stay with {base['precision']} for now: whether {first['precision']} is {COST[evidence.prefer]} "
        f"the data cannot tell ({seen(first, evidence.prefer)}); {more_runs(first, evidence.prefer)}."
        + smaller_one(evidence)
    )
    reasons = [
        r for row in open_ for r in (*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row))
    ]
    return {"precision": base["precision"], "text": text, "reasons": reasons, "decided": False}


def gains_but_worse(evidence: Evidence) -> Answer | None:
    """What gains, or may, was shown to be worse."""
    bad = evidence.judged("bad")
    maybe = [r for r in evidence.real if standing(r[1]) == "bad" and may_gain(r[1], evidence.prefer)]
    if not bad and not maybe:
        return None
    _, base = evidence.base
    first = (bad or maybe)[0][1]
    gains = cost(first, evidence) if bad else f"perhaps {COST[evidence.prefer]}"
    text = f"Stay with {base['precision']}: {first['precision']} is {gains}, but worse."
    reasons = [
        reason
        for row in bad or maybe
        for reason in (*ratios(row, evidence.prefer)[:1], *fitted(row, evidence), quality(row))
    ]
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def impossible_gain(evidence: Evidence) -> Answer | None:
    """What was measured to be faster was so by more than units can give, so that something else made the difference."""
    if not evidence.impossible:
        return None
    _, base = evidence.base
    index, first = row = evidence.impossible[0]
    bound, ratio = first.get("speed_bound"), ratio_of(first, "speed")
    if units(row) or bound is None:
        why, rests_on = "its products ran in fp32 units, which are no faster", units(row)
    else:
        why = f"no units can make this program more than {bound:.1f}× faster"
        rests_on = [reason(f"{first['precision']}: {bound:.1f}× faster at most", index, "speed_bound")]
    text = (
        f"Stay with {base['precision']} for now: {first['precision']} was measured at {ratio['value']:.2f}× the speed, "
        f"but {why}: something else on the machine made the difference; compare again when it is quiet, with --repeats "
        f"{FEW_RUNS} or more."
    )
    reasons = [*(r for each in evidence.impossible for r in ratios(each)[:1]), *rests_on]
    return {"precision": base["precision"], "text": text, "reasons": reasons, "decided": False}


def no_units(evidence: Evidence) -> Answer | None:
    """The hardware computes all of them in units of another format."""
    lacking = [row for row in evidence.real if units(row)]
    if evidence.prefer != "speed" or not lacking or len(lacking) < len(evidence.real):
        return None
    _, base = evidence.base
    text = f"Stay with {base['precision']}: this device has no units for {names(lacking)}." + smaller_one(
        evidence
    )
    reasons = [r for row in lacking for r in (*units(row), *ratios(row), *explained(row, evidence.prefer))]
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def not_measured(evidence: Evidence) -> Answer | None:
    """None has the objective's figure."""
    if any(ratio_of(v, evidence.prefer) for _, v in evidence.real):
        return None
    _, base = evidence.base
    measured = not unmeasured(evidence.base, evidence.prefer)
    what = UNMEASURED[evidence.prefer].format(f" of {names(evidence.real)}" if measured else "")
    more = "; let it make more steps" * (evidence.prefer == "speed")
    text = f"Stay with {base['precision']}: {what}, so that no gain is known{more}."
    reasons = [r for row in (evidence.base, *evidence.real) for r in unmeasured(row, evidence.prefer)]
    return {"precision": base["precision"], "text": text, "reasons": reasons[:1], "decided": False}


def no_gain(evidence: Evidence) -> Answer | None:
    """What is left: none that was measured gained."""
    _, base = evidence.base
    measured = " that was measured" * bool(evidence.unmeasured)
    text = f"Stay with {base['precision']}: no other precision{measured} was {none_was(evidence)} here."
    reasons = [
        r
        for row in evidence.real
        for r in (*ratios(row), *fitted(row, evidence), *units(row), *explained(row, evidence.prefer))
    ]
    reasons += [r for row in evidence.unmeasured for r in unmeasured(row, evidence.prefer)]
    return {"precision": base["precision"], "text": text + smaller_one(evidence), "reasons": reasons}
