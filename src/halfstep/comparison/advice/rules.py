"""The rules of advice: the first that has an answer decides.

A rule is a function of the evidence; its docstring says when it answers, and what a seasoned engineer would say. Its
answer is a value; the sentences are made of it in :mod:`halfstep.report.words.advice`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfstep.comparison.advice import claims
from halfstep.comparison.advice.claims import Claim, claim, explained, fitted, quality, ratios, skipped, units
from halfstep.comparison.advice.evidence import (
    AS_GOOD,
    Evidence,
    Row,
    does_not_fall,
    gain,
    is_gain,
    is_recipe,
    may_gain,
    ratio_name,
    ratio_of,
    standing,
)


@dataclass(frozen=True)
class Answer:
    """What a rule says.

    Attributes:
        precision: the one to use; None where none is named.
        claims: what it rests on.
        decided: whether the data carry it.
        about: the row that is spoken of, where it is one.
    """

    precision: str | None
    claims: Sequence[Claim] = ()
    decided: bool = True
    about: Row | None = None


def _stay(
    evidence: Evidence, found: Sequence[Claim], decided: bool = True, about: Row | None = None
) -> Answer:
    """The baseline is to be used."""
    return Answer(evidence.base[1].precision, found, decided, about)


def nothing_ran(evidence: Evidence) -> Answer | None:
    """No baseline: no trial ended well. Without a run there is nothing to say."""
    if evidence.baseline is not None:
        return None
    return Answer(None, [claim("failed", row, "reason") for row in evidence.failed])


def unstable(evidence: Evidence) -> Answer | None:
    """The baseline itself diverged. An unstable model belongs in fp32 until it is stable."""
    if not evidence.base[1].diverged:
        return None
    return _stay(evidence, [claim("diverged", evidence.base, "diverged")])


def not_learning(evidence: Evidence) -> Answer | None:
    """The baseline's loss did not fall. Debug a new architecture in fp32."""
    return (
        _stay(evidence, [claim("no_fall", evidence.base, "fall")])
        if does_not_fall(evidence.base[1])
        else None
    )


def continued(evidence: Evidence) -> Answer | None:
    """All the others that ran to their end went on from what an earlier trial had saved.

    A training that goes on from another's is not compared with it.
    """
    if not evidence.continued or evidence.ran or evidence.same:
        return None
    return Answer(None, [claim("went_on", row, "went_on") for row in evidence.continued], decided=False)


def ran_the_same(evidence: Evidence) -> Answer | None:
    """All the others that ran to their end ran the same as the baseline.

    Two names for one training leave nothing to choose.
    """
    if not evidence.same or evidence.ran:
        return None
    found = [claims.ran(row) for row in (evidence.base, *evidence.same)]
    return Answer(None, found) if evidence.base[1].ran.computed_otherwise else _stay(evidence, found)


def alone(evidence: Evidence) -> Answer | None:
    """None of the others ran to its end. What cannot run here cannot be used here."""
    if evidence.ran:
        return None
    return _stay(evidence, [claim("failed", row, "reason") for row in evidence.failed])


def accuracy_first(evidence: Evidence) -> Answer | None:
    """The most accurate of those shown to be as good; the fastest of several.

    Where accuracy is all, only what was shown to be as good will do.
    """
    if evidence.prefer != "accuracy":
        return None
    shown = [row for row in evidence.real if row[1].quality.kind in ("equivalent", "better")]
    better = [row for row in shown if row[1].quality.kind == "better"]
    told = [quality(row) for row in evidence.ran]
    if not shown:
        return _stay(evidence, told, decided=all(standing(v) == "bad" for _, v in evidence.real))
    row = max(better or shown, key=lambda row: (is_gain(row[1], "speed"), gain(row[1], "speed")))
    if better or is_gain(row[1], "speed"):
        return Answer(row[1].precision, [quality(row), *ratios(row)], about=row)
    decided = row[1].speed_ratio is not None and not may_gain(row[1], "speed")
    return _stay(evidence, [*told, *ratios(row)], decided, row)


def only_emulated(evidence: Evidence) -> Answer | None:
    """All the others were emulated. An emulated run tells how well it trains, not what it costs."""
    if evidence.real:
        return None
    emulated = [claim("emulated", row, "emulated") for row in evidence.ran]
    return _stay(evidence, [*emulated, *map(quality, evidence.ran)])


def largest_batch(evidence: Evidence) -> Answer | None:
    """Of those that fit a larger batch than the baseline the largest; of nearly as large ones the safest.

    For memory, the largest batch that fits tells more than a peak.
    """
    good = [row for row in evidence.roomier if standing(row[1]) == "good"]
    pool = good or [row for row in evidence.roomier if standing(row[1]) == "close"]
    if not pool:
        return None
    size = {i: evidence.batches.largest(v.precision) for i, v in pool}
    near = [row for row in pool if size[row[0]] >= AS_GOOD * size[pool[0][0]]]
    row = max(
        near, key=lambda row: (row[1].precision == "as-is", not is_recipe(row[1], "fp16"), size[row[0]])
    )
    found = [*fitted(row, evidence), *ratios(row, "memory"), quality(row), *skipped(row)]
    return Answer(row[1].precision, found, bool(good), row)


def keep_own_amp(evidence: Evidence) -> Answer | None:
    """The script's own mixed precision, if nothing gains more: no line has to change.

    A script that has good mixed precision of its own should keep it.
    """
    own = [row for row in evidence.pool if row[1].precision == "as-is"]
    return None if not own or _falls_short(own[0], evidence) else _use(own[0], evidence)


def bf16_for_its_range(evidence: Evidence) -> Answer | None:
    """bf16 has fp32's range: no loss scale, nothing to overflow.

    Where bf16 is nearly as good as fp16, its range is worth more.
    """
    fp16 = _best_is_fp16(evidence)
    safer = [row for row in evidence.pool if is_recipe(row[1], "bf16") and not _falls_short(row, evidence)]
    if fp16 is None or not safer:
        return None
    return _use(safer[0], evidence, [claim("range", fp16, ratio_name(evidence.prefer))])


def fp16_where_bf16_is_not_native(evidence: Evidence) -> Answer | None:
    """The best is fp16, and bf16 gains nothing here. fp16 where bf16 has no units."""
    fp16 = _best_is_fp16(evidence)
    slow = [row for row in evidence.real if is_recipe(row[1], "bf16") and row not in evidence.gaining]
    if fp16 is None or not slow:
        return None
    return _use(fp16, evidence, [each for row in slow for each in (units(row) or ratios(row))[:1]])


def best(evidence: Evidence) -> Answer | None:
    """The first of those to choose among. Use the best that is not worse."""
    return _use(evidence.pool[0], evidence) if evidence.pool else None


def _use(row: Row, evidence: Evidence, more: Sequence[Claim] = ()) -> Answer:
    """A row is to be used for its ratio to the baseline."""
    found = [*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row), *more, *skipped(row)]
    return Answer(row[1].precision, found, evidence.decided, row)


def _best_is_fp16(evidence: Evidence) -> Row | None:
    """The first to choose among, but for the script's own, if it is fp16."""
    first = next((row for row in evidence.pool if row[1].precision != "as-is"), None)
    return first if first is not None and is_recipe(first[1], "fp16") else None


def _falls_short(row: Row, evidence: Evidence) -> bool:
    return gain(row[1], evidence.prefer) < AS_GOOD * gain(evidence.pool[0][1], evidence.prefer)


def undecided(evidence: Evidence) -> Answer | None:
    """The first that gains is of open quality.

    Where the data do not carry a verdict, say so and ask for more seeds.
    """
    open_ = evidence.judged("unknown")
    if not open_:
        return None
    found = [*ratios(open_[0]), *fitted(open_[0], evidence), quality(open_[0])]
    return Answer(None, found, decided=False, about=open_[0])


def larger_batch_not_as_good(evidence: Evidence) -> Answer | None:
    """What fits a larger batch than the baseline is of open quality, or worse.

    Room for a batch is no gain if it trains worse.
    """
    if not evidence.roomier:
        return None
    open_ = [row for row in evidence.roomier if standing(row[1]) == "unknown"]
    row = (open_ or evidence.roomier)[0]
    found = [*fitted(row, evidence), *ratios(row, "memory"), quality(row)]
    return Answer(None, found, decided=False, about=row) if open_ else _stay(evidence, found, about=row)


def gain_cannot_be_told(evidence: Evidence) -> Answer | None:
    """Noise leaves open whether the first gains. A gain that noise may have made or hidden asks for more runs."""
    if not evidence.open:
        return None
    told = [(*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row)) for row in evidence.open]
    return _stay(evidence, [each for row in told for each in row], decided=False, about=evidence.open[0])


def gains_but_worse(evidence: Evidence) -> Answer | None:
    """What gains, or may, was shown to be worse. A gain is worth nothing if the training is worse."""
    maybe = [r for r in evidence.real if standing(r[1]) == "bad" and may_gain(r[1], evidence.prefer)]
    rows = evidence.judged("bad") or maybe
    if not rows:
        return None
    told = [(*ratios(row, evidence.prefer)[:1], *fitted(row, evidence), quality(row)) for row in rows]
    return _stay(evidence, [each for row in told for each in row], about=rows[0])


def impossible_gain(evidence: Evidence) -> Answer | None:
    """What was measured to be faster was so by more than units can give, so that something else made the difference.

    A gain that no unit can give is another's loss.
    """
    if not evidence.impossible:
        return None
    row = evidence.impossible[0]
    bound = units(row) or ([] if row[1].speed_bound is None else [claim("speed_bound", row, "speed_bound")])
    measured = [each for row in evidence.impossible for each in ratios(row)[:1]]
    return _stay(evidence, [*measured, *bound], decided=False, about=row)


def no_units(evidence: Evidence) -> Answer | None:
    """The hardware computes all of them in units of another format.

    Without units for it, mixed precision cannot be faster.
    """
    if evidence.prefer != "speed" or not evidence.real or not all(map(units, evidence.real)):
        return None
    told = [(*units(row), *ratios(row), *explained(row, evidence.prefer)) for row in evidence.real]
    return _stay(evidence, [each for row in told for each in row])


def not_measured(evidence: Evidence) -> Answer | None:
    """None has the objective's figure. What was not measured cannot be advised on."""
    if any(ratio_of(v, evidence.prefer) for _, v in evidence.real):
        return None
    rows = (evidence.base, *evidence.real)
    found = [each for row in rows for each in claims.unmeasured(row, evidence.prefer)]
    return _stay(evidence, found[:1], decided=False)


def no_gain(evidence: Evidence) -> Answer | None:
    """What is left: none that was measured gained. Without a gain, stay with what is exact."""
    told = [
        (*ratios(row), *fitted(row, evidence), *units(row), *explained(row, evidence.prefer))
        for row in evidence.real
    ]
    told += [tuple(claims.unmeasured(row, evidence.prefer)) for row in evidence.unmeasured]
    return _stay(evidence, [each for row in told for each in row])


#: the first rule that has an answer decides; the test of each is in tests/comparison/advice/test_rules.py
RULES: tuple[Callable[[Evidence], Answer | None], ...] = (
    nothing_ran, unstable, not_learning, continued, ran_the_same, alone, accuracy_first, only_emulated, largest_batch,
    keep_own_amp, bf16_for_its_range, fp16_where_bf16_is_not_native, best, larger_batch_not_as_good, undecided,
    gain_cannot_be_told, gains_but_worse, impossible_gain, no_units, not_measured, no_gain,
)  # fmt: skip
