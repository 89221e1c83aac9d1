"""The rules of advice: the first that has an answer decides.

A rule is a function of the evidence; its docstring says when it answers, and the engineering reason. Its answer is a
value; :mod:`halfstep.report.words.advice` words it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

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
    """What a rule says."""

    precision: str | None  #: the one to use; None where none is named
    claims: Sequence[Claim] = ()  #: what the answer rests on
    decided: bool = True  #: whether the data are enough for it
    about: Row | None = None  #: the row that the answer is about, where it is about one


def _stay(
    evidence: Evidence, found: Sequence[Claim], decided: bool = True, about: Row | None = None
) -> Answer:
    """The answer to use the baseline."""
    return Answer(evidence.base[1].precision, found, decided, about)


def nothing_ran(evidence: Evidence) -> Answer | None:
    """There is no baseline, as no trial ended well. Without a run there is no advice."""
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
    """All the others that ran to their end continued from what an earlier trial had saved.

    A training that continues another one cannot be compared with it.
    """
    if not evidence.continued or evidence.ran or evidence.same:
        return None
    return Answer(None, [claim("went_on", row, "went_on") for row in evidence.continued], decided=False)


def ran_the_same(evidence: Evidence) -> Answer | None:
    """All the others that ran to their end ran the same as the baseline.

    Between two identical trainings there is nothing to choose.
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
    """If accuracy is the objective: the better ones of those shown to be as good; of several the fastest.

    If only accuracy counts, a precision has to be shown to be as good.
    """
    if evidence.prefer != "accuracy":
        return None
    shown = [row for row in evidence.real if row[1].quality.kind in ("equivalent", "better")]
    better = [row for row in shown if row[1].quality.kind == "better"]
    qualities = [quality(row) for row in evidence.ran]
    if not shown:
        return _stay(evidence, qualities, decided=all(standing(v) == "bad" for _, v in evidence.real))
    row = max(better or shown, key=lambda row: (is_gain(row[1], "speed"), gain(row[1], "speed")))
    if better or is_gain(row[1], "speed"):
        return Answer(row[1].precision, [quality(row), *ratios(row)], about=row)
    decided = row[1].speed_ratio is not None and not may_gain(row[1], "speed")
    return _stay(evidence, [*qualities, *ratios(row)], decided, row)


def only_emulated(evidence: Evidence) -> Answer | None:
    """All the others were emulated. An emulated run shows how well a precision trains, not what it costs."""
    if evidence.real:
        return None
    emulated = [claim("emulated", row, "emulated") for row in evidence.ran]
    return _stay(evidence, [*emulated, *map(quality, evidence.ran)])


def largest_batch(evidence: Evidence) -> Answer | None:
    """The largest batch among those larger than the baseline's; among nearly equal ones the safest precision.

    If memory is the objective, the largest batch that fits says more than a peak.
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
    """The script's own mixed precision, if nothing gains clearly more.

    A script that already has good mixed precision should keep it: no line has to change.
    """
    own = [row for row in evidence.pool if row[1].precision == "as-is"]
    return None if not own or _falls_short(own[0], evidence) else _use(own[0], evidence)


def bf16_for_its_range(evidence: Evidence) -> Answer | None:
    """The best is fp16, and bf16 is nearly as good.

    bf16 has fp32's range: it needs no loss scale, and nothing overflows. That is worth a small loss of speed.
    """
    fp16 = _best_is_fp16(evidence)
    safer = [row for row in evidence.pool if is_recipe(row[1], "bf16") and not _falls_short(row, evidence)]
    if fp16 is None or not safer:
        return None
    return _use(safer[0], evidence, [claim("range", fp16, ratio_name(evidence.prefer))])


def fp16_where_bf16_is_not_native(evidence: Evidence) -> Answer | None:
    """The best is fp16, and bf16 gains nothing here. Use fp16 where there are no units for bf16."""
    fp16 = _best_is_fp16(evidence)
    slow = [row for row in evidence.real if is_recipe(row[1], "bf16") and row not in evidence.gaining]
    if fp16 is None or not slow:
        return None
    return _use(fp16, evidence, [each for row in slow for each in (units(row) or ratios(row))[:1]])


def best(evidence: Evidence) -> Answer | None:
    """The first of those to choose from. Use the largest gain that is not worse."""
    return _use(evidence.pool[0], evidence) if evidence.pool else None


def _use(row: Row, evidence: Evidence, more: Sequence[Claim] = ()) -> Answer:
    """The answer to use a row, for its ratio to the baseline."""
    found = [*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row), *more, *skipped(row)]
    return Answer(row[1].precision, found, evidence.decided, row)


def _best_is_fp16(evidence: Evidence) -> Row | None:
    """The best row, apart from the script's own precision; None if it is not fp16."""
    first = next((row for row in evidence.pool if row[1].precision != "as-is"), None)
    return first if first is not None and is_recipe(first[1], "fp16") else None


def _falls_short(row: Row, evidence: Evidence) -> bool:
    return gain(row[1], evidence.prefer) < AS_GOOD * gain(evidence.pool[0][1], evidence.prefer)


def undecided(evidence: Evidence) -> Answer | None:
    """Something gains, and its quality is not known.

    Where the data are not enough for a verdict, say so and ask for more seeds.
    """
    open_ = evidence.judged("unknown")
    if not open_:
        return None
    found = [*ratios(open_[0]), *fitted(open_[0], evidence), quality(open_[0])]
    return Answer(None, found, decided=False, about=open_[0])


def larger_batch_not_as_good(evidence: Evidence) -> Answer | None:
    """What fits a larger batch than the baseline is worse, or its quality is not known.

    A larger batch is no gain if the training is worse.
    """
    if not evidence.roomier:
        return None
    open_ = [row for row in evidence.roomier if standing(row[1]) == "unknown"]
    row = (open_ or evidence.roomier)[0]
    found = [*fitted(row, evidence), *ratios(row, "memory"), quality(row)]
    return Answer(None, found, decided=False, about=row) if open_ else _stay(evidence, found, about=row)


def gain_cannot_be_told(evidence: Evidence) -> Answer | None:
    """Noise leaves open whether something gains. More runs are needed to tell a gain from noise."""
    if not evidence.open:
        return None
    found = [(*ratios(row, evidence.prefer), *fitted(row, evidence), quality(row)) for row in evidence.open]
    return _stay(evidence, list(chain(*found)), decided=False, about=evidence.open[0])


def gains_but_worse(evidence: Evidence) -> Answer | None:
    """What gains, or may gain, was shown to be worse. A gain is worth nothing if the training is worse."""
    maybe = [r for r in evidence.real if standing(r[1]) == "bad" and may_gain(r[1], evidence.prefer)]
    rows = evidence.judged("bad") or maybe
    if not rows:
        return None
    found = [(*ratios(row, evidence.prefer)[:1], *fitted(row, evidence), quality(row)) for row in rows]
    return _stay(evidence, list(chain(*found)), about=rows[0])


def impossible_gain(evidence: Evidence) -> Answer | None:
    """What was measured to be faster is faster than the hardware's units can make it.

    The precision cannot be the cause, so something else was: other work slowed the baseline, for example.
    """
    if not evidence.impossible:
        return None
    row = evidence.impossible[0]
    bound = units(row) or ([] if row[1].speed_bound is None else [claim("speed_bound", row, "speed_bound")])
    measured = [each for row in evidence.impossible for each in ratios(row)[:1]]
    return _stay(evidence, [*measured, *bound], decided=False, about=row)


def no_units(evidence: Evidence) -> Answer | None:
    """The products of all of them ran in fp32 units.

    Without units for its format, a precision cannot be faster.
    """
    if evidence.prefer != "speed" or not evidence.real or not all(map(units, evidence.real)):
        return None
    found = [(*units(row), *ratios(row), *explained(row, evidence.prefer)) for row in evidence.real]
    return _stay(evidence, list(chain(*found)))


def not_measured(evidence: Evidence) -> Answer | None:
    """None has the objective's figure. There is no advice on what was not measured."""
    if any(ratio_of(v, evidence.prefer) for _, v in evidence.real):
        return None
    rows = (evidence.base, *evidence.real)
    found = [each for row in rows for each in claims.unmeasured(row, evidence.prefer)]
    return _stay(evidence, found[:1], decided=False)


def no_gain(evidence: Evidence) -> Answer | None:
    """All else: none that was measured gained. Without a gain, stay with the more exact precision."""
    found = [
        (*ratios(row), *fitted(row, evidence), *units(row), *explained(row, evidence.prefer))
        for row in evidence.real
    ]
    found += [tuple(claims.unmeasured(row, evidence.prefer)) for row in evidence.unmeasured]
    return _stay(evidence, list(chain(*found)))


#: the first rule that has an answer decides; the test of each is in tests/comparison/advice/test_rules.py
RULES: tuple[Callable[[Evidence], Answer | None], ...] = (
    nothing_ran, unstable, not_learning, continued, ran_the_same, alone, accuracy_first, only_emulated, largest_batch,
    keep_own_amp, bf16_for_its_range, fp16_where_bf16_is_not_native, best, larger_batch_not_as_good, undecided,
    gain_cannot_be_told, gains_but_worse, impossible_gain, no_units, not_measured, no_gain,
)  # fmt: skip
