"""Answers that name a precision to use: the best for the objective among those that are not worse."""

from __future__ import annotations

from collections.abc import Sequence

from halfstep.comparison.evidence import (
    AS_GOOD,
    Answer,
    Evidence,
    Row,
    Verdict,
    is_gain,
    lower,
    may_gain,
    ratio_name,
    standing,
)
from halfstep.comparison.evidence import gain as gain_of
from halfstep.comparison.reasons import (
    fitted,
    quality,
    ratios,
    reason,
    skipped,
    steps_skipped,
    units,
)
from halfstep.comparison.sentences import (
    cost,
    names,
    no_faster,
)


def accuracy_first(evidence: Evidence) -> Answer | None:
    """The most accurate of those shown to be as good; the fastest of several."""
    if evidence.prefer != "accuracy":
        return None
    _, base = evidence.base
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
    _, base = evidence.base
    emulated = len(evidence.real) < len(evidence.ran)
    no_other = "no precision that was not emulated" if emulated else "no other precision"
    text = f"Stay with {base['precision']}: {no_other} was shown to be as accurate"
    unsure = [v for _, v in evidence.real if standing(v) != "bad"]
    if not unsure:
        text = f"{text}, and {names(evidence.real)} {'were' if len(evidence.real) > 1 else 'was'} shown to be worse"
    else:
        text = f"{text}; to know more, {evidence.more_seeds(unsure[0])}"
    return {"precision": base["precision"], "text": f"{text}.", "reasons": reasons, "decided": not unsure}


def keep_own_amp(evidence: Evidence) -> Answer | None:
    """The script's own mixed precision, if nothing gains more: no line has to change."""
    own = [row for row in evidence.pool if row[1]["precision"] == "as-is"]
    if not own or _falls_short(own[0], evidence):
        return None
    return _use(own[0], evidence)


def bf16_for_its_range(evidence: Evidence) -> Answer | None:
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


def fp16_where_bf16_is_not_native(evidence: Evidence) -> Answer | None:
    """The best is fp16, and bf16 gains nothing here."""
    pool = [row for row in evidence.pool if row[1]["precision"] != "as-is"]
    slow = [row for row in evidence.real if _is(row, "bf16") and row not in evidence.gaining]
    if not pool or not _is(pool[0], "fp16") or not slow:
        return None
    return _use(pool[0], evidence, more=[r for row in slow for r in (units(row) or ratios(row))[:1]])


def best(evidence: Evidence) -> Answer | None:
    """The first of those to choose among."""
    return _use(evidence.pool[0], evidence) if evidence.pool else None


def largest_batch(evidence: Evidence) -> Answer | None:
    """Of those that fit a larger batch than the baseline the largest; of nearly as large ones the safest."""
    good = [row for row in evidence.roomier if standing(row[1]) == "good"]
    pool = good or [row for row in evidence.roomier if standing(row[1]) == "close"]
    if not pool:
        return None
    size = {i: evidence.batches.largest(v["precision"]) for i, v in pool}
    near = [row for row in pool if size[row[0]] >= AS_GOOD * size[pool[0][0]]]
    row = max(near, key=lambda row: (row[1]["precision"] == "as-is", not _is(row, "fp16"), size[row[0]]))
    words = evidence.batches.words(row[1]["precision"], evidence.base[1]["precision"])
    reasons = [*fitted(row, evidence), *ratios(row, "memory"), quality(row), *skipped(row)]
    return _advised(row[1], evidence, words, bool(good), reasons)


def _use(row: Row, evidence: Evidence, more: Sequence[dict[str, str]] = ()) -> Answer:
    """The recommendation of a row for its ratio to the baseline."""
    reasons = [*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row), *more, *skipped(row)]
    return _advised(row[1], evidence, cost(row[1], evidence), evidence.decided, reasons)


def _advised(
    verdict: Verdict, evidence: Evidence, gain: str, decided: bool, reasons: list[dict[str, str]]
) -> Answer:
    """The recommendation, firm or, where the data do not carry a verdict, for the time being."""
    own = verdict["precision"] == "as-is"
    head = "Keep what the script does by itself" if own else f"Use {verdict['precision']}"
    if decided:
        said = f"{head}: {gain}, and no worse."
    else:
        said = (
            f"{head} for now: {gain}, and the loss is {'lower' if lower(verdict) else 'close'}; "
            f"whether it is worse the data cannot tell: {evidence.more_seeds(verdict)}."
        )
    return {"precision": verdict["precision"], "text": said, "reasons": reasons, "decided": decided}


def _is(row: Row, name: str) -> bool:
    return bool(row[1]["precision"].split(":")[0].removesuffix("-true") == name)


def _falls_short(row: Row, evidence: Evidence) -> bool:
    return gain_of(row[1], evidence.prefer) < AS_GOOD * gain_of(evidence.pool[0][1], evidence.prefer)
