"""From a comparison to a recommendation: a table of rules, the first that has an answer decides.

Each reason names the figure of the comparison object that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halfstep.comparison.adopt import Script, adopt
from halfstep.comparison.evidence import (
    AS_GOOD,
    Evidence,
    Prefer,
    Row,
    Verdict,
    is_gain,
    lower,
    may_gain,
    not_learning,
    ratio_name,
    ratio_of,
    standing,
)
from halfstep.comparison.evidence import gain as gain_of
from halfstep.comparison.reasons import (
    explained,
    failure,
    quality,
    ratios,
    reason,
    skipped,
    steps_skipped,
    units,
    unmeasured,
)
from halfstep.comparison.sentences import (
    COST,
    UNMEASURED,
    cost,
    more_runs,
    names,
    no_faster,
    none_was,
    seen,
    smaller_one,
    why_open,
)

Answer = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One row of the table: its name, what a seasoned engineer would say, and how it follows from the evidence."""

    name: str
    wisdom: str
    answer: Callable[[Evidence], Answer | None]


def recommend(
    verdicts: list[Verdict], script: Script | None = None, prefer: Prefer = "speed"
) -> dict[str, Any]:
    """The recommendation for a comparison's verdicts, with its reasons and the lines to adopt it."""
    evidence = Evidence.of(verdicts, prefer)
    rule, found = next((r, answer) for r in RULES if (answer := r.answer(evidence)) is not None)
    precision = found["precision"]
    # What the script does by itself needs no lines.
    script = script or Script()
    ran_as = next((v["ran_as"] for v in verdicts if v["precision"] == precision), None)
    code = adopt(precision, script, ran_as) if precision and precision != "as-is" else None
    return {
        "decided": True,
        **found,
        "prefer": prefer,
        "rule": rule.name,
        "adopt": None if code is None else {"framework": script.framework, "code": code},
    }


def _nothing_ran(evidence: Evidence) -> Answer | None:
    if evidence.baseline is not None:
        return None
    reasons = [failure(row) for row in evidence.failed]
    return {"precision": None, "text": "No trial ran to its end, so there is no advice.", "reasons": reasons}


def _unstable(evidence: Evidence) -> Answer | None:
    index, base = _base(evidence)
    if not base.get("diverged"):
        return None
    words = f"{base['precision']} itself {base['quality']['words']}"
    text = f"Stay with {base['precision']} until the training is stable: {words}."
    return {"precision": base["precision"], "text": text, "reasons": [reason(words, index, "diverged")]}


def _not_learning(evidence: Evidence) -> Answer | None:
    index, base = _base(evidence)
    if not not_learning(base):
        return None
    words = f"the loss did not fall in {base['steps']} steps of {base['precision']}"
    text = f"Debug in {base['precision']} first: {words}, and a precision cannot be judged by it."
    return {"precision": base["precision"], "text": text, "reasons": [reason(words, index, "fall")]}


def _alone(evidence: Evidence) -> Answer | None:
    if evidence.ran:
        return None
    _, base = _base(evidence)
    every = " in every trial" if any(v["trials"] > 1 for _, v in evidence.failed) else ""
    why = f"it alone ran to its end{every}" if evidence.failed else "nothing else was run"
    text = f"Stay with {base['precision']}: {why}."
    return {"precision": base["precision"], "text": text, "reasons": [failure(r) for r in evidence.failed]}


def _accuracy_first(evidence: Evidence) -> Answer | None:
    if evidence.prefer != "accuracy":
        return None
    _, base = _base(evidence)
    shown = [(i, v) for i, v in evidence.real if v["quality"]["kind"] in ("equivalent", "better")]
    better = [(i, v) for i, v in shown if v["quality"]["kind"] == "better"]
    reasons = [quality(row) for row in evidence.ran]
    if not shown:
        return _none_as_accurate(evidence, reasons)
    row = max(better or shown, key=lambda row: (is_gain(row[1], "speed"), gain_of(row[1], "speed")))
    best = row[1]
    if not better and not is_gain(best, "speed"):
        text = f"Stay with {base['precision']}: {best['precision']} is as accurate, {no_faster(best)}."
        decided = best["speed_ratio"] is not None and not may_gain(best, "speed")
        reasons += ratios(row)
        return {"precision": base["precision"], "text": text, "reasons": reasons, "decided": decided}
    text = f"Use {best['precision']}: {best['quality']['words']}."
    return {"precision": best["precision"], "text": text, "reasons": [quality(row), *ratios(row)]}


def _none_as_accurate(evidence: Evidence, reasons: list[dict[str, str]]) -> Answer:
    _, base = _base(evidence)
    emulated = len(evidence.real) < len(evidence.ran)
    no_other = "no precision that was not emulated" if emulated else "no other precision"
    text = f"Stay with {base['precision']}: {no_other} was shown to be as accurate"
    unsure = [v for _, v in evidence.real if standing(v) != "bad"]
    if not unsure:
        text = f"{text}, and {names(evidence.real)} {'were' if len(evidence.real) > 1 else 'was'} shown to be worse"
    else:
        text = f"{text}; to know more, {evidence.more_seeds(unsure[0])}"
    return {"precision": base["precision"], "text": f"{text}.", "reasons": reasons, "decided": not unsure}


def _keep_own_amp(evidence: Evidence) -> Answer | None:
    """The script's own mixed precision, if nothing gains more: no line has to change."""
    own = [row for row in evidence.pool if row[1]["precision"] == "as-is"]
    if not own or _falls_short(own[0], evidence):
        return None
    return _use(own[0], evidence, text="Keep what the script does by itself")


def _bf16_for_its_range(evidence: Evidence) -> Answer | None:
    """bf16 has fp32's range: no loss scale, nothing to overflow."""
    pool = [row for row in evidence.pool if row[1]["precision"] != "as-is"]
    if not pool or not _is(pool[0], "fp16"):
        return None
    safer = [row for row in pool if _is(row, "bf16") and not _falls_short(row, evidence)]
    if not safer:
        return None
    index, fp16 = pool[0]
    left_out = f", in which {steps_skipped(fp16)}" if fp16["skipped_steps"] else ""
    more = reason(
        f"fp32's range, so no loss scale; nearly as good as {fp16['precision']}{left_out}",
        index,
        ratio_name(evidence.prefer),
    )
    return _use(safer[0], evidence, more=[more])


def _fp16_where_bf16_is_not_native(evidence: Evidence) -> Answer | None:
    pool = [row for row in evidence.pool if row[1]["precision"] != "as-is"]
    slow = [row for row in evidence.real if _is(row, "bf16") and row not in evidence.gaining]
    if not pool or not _is(pool[0], "fp16") or not slow:
        return None
    return _use(pool[0], evidence, more=[r for row in slow for r in (units(row) or ratios(row))[:1]])


def _best(evidence: Evidence) -> Answer | None:
    return _use(evidence.pool[0], evidence) if evidence.pool else None


def _undecided(evidence: Evidence) -> Answer | None:
    open_ = evidence.judged("unknown")
    if not open_:
        return None
    _, verdict = open_[0]
    text = (
        f"Undecided: {verdict['precision']} is {cost(verdict, evidence)}, but {why_open(verdict, evidence)}."
    )
    reasons = [*ratios(open_[0]), quality(open_[0])]
    return {"precision": None, "text": text, "reasons": reasons, "decided": False}


def _gain_cannot_be_told(evidence: Evidence) -> Answer | None:
    # Where the device has no units for it, why it is no faster is known.
    open_ = [row for row in evidence.open if evidence.prefer != "speed" or not units(row)]
    if not open_:
        return None
    _, base = _base(evidence)
    _, first = open_[0]
    text = (
        f"Stay with {base['precision']} for now: whether {first['precision']} is {COST[evidence.prefer]} "
        f"the data cannot tell ({seen(first, evidence.prefer)}); {more_runs(first, evidence.prefer)}."
        + smaller_one(evidence)
    )
    reasons = [r for row in open_ for r in (*ratios(row, evidence.prefer), quality(row))]
    return {"precision": base["precision"], "text": text, "reasons": reasons, "decided": False}


def _gains_but_worse(evidence: Evidence) -> Answer | None:
    bad = evidence.judged("bad")
    maybe = [r for r in evidence.real if standing(r[1]) == "bad" and may_gain(r[1], evidence.prefer)]
    if not bad and not maybe:
        return None
    _, base = _base(evidence)
    first = (bad or maybe)[0][1]
    gains = cost(first, evidence) if bad else f"perhaps {COST[evidence.prefer]}"
    text = f"Stay with {base['precision']}: {first['precision']} is {gains}, but worse."
    reasons = [reason for row in bad or maybe for reason in (*ratios(row, evidence.prefer)[:1], quality(row))]
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def _only_emulated(evidence: Evidence) -> Answer | None:
    if evidence.real:
        return None
    _, base = _base(evidence)
    why = "the others were emulated, which tells how well they train, not what they cost"
    text = f"Stay with {base['precision']} here: {why}."
    reasons = [reason(f"{v['precision']}: emulated", i, "emulated") for i, v in evidence.ran]
    return {"precision": base["precision"], "text": text, "reasons": [*reasons, *map(quality, evidence.ran)]}


def _no_units(evidence: Evidence) -> Answer | None:
    lacking = [row for row in evidence.real if units(row)]
    if evidence.prefer != "speed" or not lacking or len(lacking) < len(evidence.real):
        return None
    _, base = _base(evidence)
    text = f"Stay with {base['precision']}: this device has no units for {names(lacking)}." + smaller_one(
        evidence
    )
    reasons = [r for row in lacking for r in (*units(row), *ratios(row), *explained(row, evidence.prefer))]
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def _not_measured(evidence: Evidence) -> Answer | None:
    if any(ratio_of(v, evidence.prefer) for _, v in evidence.real):
        return None
    _, base = _base(evidence)
    measured = not unmeasured(_base(evidence), evidence.prefer)
    what = UNMEASURED[evidence.prefer].format(f" of {names(evidence.real)}" if measured else "")
    more = "; let it make more steps" * (evidence.prefer == "speed")
    text = f"Stay with {base['precision']}: {what}, so that no gain is known{more}."
    reasons = [r for row in (_base(evidence), *evidence.real) for r in unmeasured(row, evidence.prefer)]
    return {"precision": base["precision"], "text": text, "reasons": reasons[:1], "decided": False}


def _no_gain(evidence: Evidence) -> Answer | None:
    _, base = _base(evidence)
    measured = " that was measured" * bool(evidence.unmeasured)
    text = f"Stay with {base['precision']}: no other precision{measured} was {none_was(evidence)} here."
    reasons = [
        r for row in evidence.real for r in (*ratios(row), *units(row), *explained(row, evidence.prefer))
    ]
    reasons += [r for row in evidence.unmeasured for r in unmeasured(row, evidence.prefer)]
    return {"precision": base["precision"], "text": text + smaller_one(evidence), "reasons": reasons}


def _base(evidence: Evidence) -> Row:
    if evidence.baseline is None:
        raise LookupError("the rule before has answered where there is no baseline")
    return evidence.baseline


def _is(row: Row, name: str) -> bool:
    return bool(row[1]["precision"].split(":")[0].removesuffix("-true") == name)


def _falls_short(row: Row, evidence: Evidence) -> bool:
    return gain_of(row[1], evidence.prefer) < AS_GOOD * gain_of(evidence.pool[0][1], evidence.prefer)


def _use(
    row: Row, evidence: Evidence, text: str | None = None, more: list[dict[str, str]] | None = None
) -> Answer:
    """The recommendation of a row, firm or, where the data do not carry a verdict, for the time being."""
    _, verdict = row
    reasons = [*ratios(row, evidence.prefer), quality(row), *(more or []), *skipped(row)]
    head = text or f"Use {verdict['precision']}"
    if evidence.decided:
        said = f"{head}: {cost(verdict, evidence)}, and no worse."
    else:
        said = (
            f"{head} for now: {cost(verdict, evidence)}, and the loss is {'lower' if lower(verdict) else 'close'}; "
            f"whether it is worse the data cannot tell: {evidence.more_seeds(verdict)}."
        )
    return {"precision": verdict["precision"], "text": said, "reasons": reasons, "decided": evidence.decided}


#: the first rule that has an answer decides; the test of each is in tests/comparison/test_advice.py
RULES: tuple[Rule, ...] = (
    Rule("nothing_ran", "Without a run there is nothing to say.", _nothing_ran),
    Rule("unstable", "An unstable model belongs in fp32 until it is stable.", _unstable),
    Rule("not_learning", "Debug a new architecture in fp32.", _not_learning),
    Rule("alone", "What cannot run here cannot be used here.", _alone),
    Rule(
        "accuracy_first", "Where accuracy is all, only what was shown to be as good will do.", _accuracy_first
    ),
    Rule("only_emulated", "An emulated run tells how well it trains, not what it costs.", _only_emulated),
    Rule("keep_own_amp", "A script that has good mixed precision of its own should keep it.", _keep_own_amp),
    Rule(
        "bf16_for_its_range",
        "Where bf16 is nearly as good as fp16, its range is worth more.",
        _bf16_for_its_range,
    ),
    Rule("fp16_where_bf16_is_not_native", "fp16 where bf16 has no units.", _fp16_where_bf16_is_not_native),
    Rule("best", "Use the best that is not worse.", _best),
    Rule("undecided", "Where the data do not carry a verdict, say so and ask for more seeds.", _undecided),
    Rule(
        "gain_cannot_be_told",
        "A gain that noise may have made, or have hidden, asks for more runs.",
        _gain_cannot_be_told,
    ),
    Rule("gains_but_worse", "A gain is worth nothing if the training is worse.", _gains_but_worse),
    Rule("no_units", "Without units for it, mixed precision cannot be faster.", _no_units),
    Rule("not_measured", "What was not measured cannot be advised on.", _not_measured),
    Rule("no_gain", "Without a gain, stay with what is exact.", _no_gain),
)
