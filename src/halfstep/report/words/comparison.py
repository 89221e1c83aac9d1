"""A comparison in words: makes every ``words``, ``text`` and warning of its JSON from its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from halfstep.comparison.advice.recommend import advise
from halfstep.comparison.model.budget import Budget
from halfstep.comparison.model.comparison import Comparison, Method
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FigureRow
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import Explanation, PrecisionRow
from halfstep.comparison.why import Trials
from halfstep.report.words import warnings
from halfstep.report.words.advice import worded as worded_advice
from halfstep.report.words.budget import drop_words, no_verdict
from halfstep.report.words.explanations import no_faster_words, no_smaller_words
from halfstep.report.words.method import LOOKS_METHOD, METHOD
from halfstep.report.words.quality import figure_words, quality_words
from halfstep.report.words.ratios import ratio_words
from halfstep.words.plural import capitalized


def worded(comparison: Comparison) -> Comparison:
    """The comparison with its words. Call this once: a second call would repeat warnings."""
    prefer = comparison.recommendation.prefer
    rows = worded_rows(comparison.verdicts, comparison.trials)
    rows = [_dropped(row, comparison.budget, prefer) for row in rows]
    drift = comparison.speed_drift
    drift = replace(drift, words=warnings.drift(drift, _several(comparison.trials)))
    where, budget = comparison.environment, comparison.budget
    if rows:
        # Warnings about the whole comparison go to the first row, the baseline, on which every ratio rests.
        whole = filter(None, (drift.words, warnings.cluster(where.cluster), warnings.side_by_side(where)))
        rows[0] = replace(rows[0], warnings=(*rows[0].warnings, *whole))
    return replace(
        comparison,
        verdicts=tuple(map(_with_sentences, rows)),
        speed_drift=drift,
        recommendation=(
            no_verdict(comparison.recommendation, budget)
            if budget is not None and budget.not_run
            else worded_advice(
                comparison.recommendation,
                advise(rows, prefer, comparison.fit_batch, budget is not None),
            )
        ),
        method=tuple(Method(figure, how) for figure, how in method(comparison)),
    )


def _dropped(row: PrecisionRow, budget: Budget | None, prefer: Prefer) -> PrecisionRow:
    """With the reason why it was not run again, if a budget dropped it."""
    standings = budget.standings if budget else ()
    drop = next((s.drop for s in standings if s.precision == row.precision and s.drop), None)
    return row if drop is None else replace(row, reason=drop_words(row, drop, prefer))


def method(comparison: Comparison) -> list[tuple[str, str]]:
    """How each figure was measured; if there are repeated looks at the verdicts, first how these are made."""
    again = comparison.budget is not None or comparison.options.get("looked_at") is True
    return [LOOKS_METHOD, *METHOD] if again else METHOD


def _several(trials: Sequence[TrialRow]) -> bool:
    """Whether steps of more than one precision were measured."""
    return len({trial.precision for trial in trials if trial.status == "ok" and trial.step_seconds}) > 1


def worded_rows(rows: Sequence[PrecisionRow], trials: Sequence[TrialRow]) -> list[PrecisionRow]:
    """The rows with words for their figures; explanations are clauses, as the reasons of the advice need them."""
    base = rows[0] if rows else PrecisionRow()
    return [_worded(row, base, trials) for row in rows]


def _worded(row: PrecisionRow, base: PrecisionRow, trials: Sequence[TrialRow]) -> PrecisionRow:
    own, theirs = (trials_of(each, trials) for each in (row, base))
    unseeded = min(row.quality.seeds, base.quality.seeds) > 1
    row = replace(
        row,
        speed_ratio=_ratio(row.speed_ratio, "speed_ratio"),
        memory_ratio=_ratio(row.memory_ratio, "memory_ratio"),
        energy_ratio=_ratio(row.energy_ratio, "energy_ratio"),
        loss=None if row.loss is None else _figure(row.loss, unseeded),
        logged={name: _figure(figure, unseeded) for name, figure in row.logged.items()},
        why_no_faster=_explained(row.why_no_faster, no_faster_words, row, own, theirs),
        why_memory=_explained(row.why_memory, no_smaller_words, row, own, theirs),
        warnings=(*row.warnings, *warnings.of_row(row, base, [trial for _, trial in own])),
    )
    return replace(row, quality=replace(row.quality, words=quality_words(row, base)))


def trials_of(row: PrecisionRow, trials: Sequence[TrialRow]) -> Trials:
    """The precision's trials that ended well, with their places; all of them if none did."""
    own = [(i, trial) for i, trial in enumerate(trials) if trial.precision == row.precision]
    return [each for each in own if each[1].status == "ok"] or own


def _ratio(ratio: Ratio | None, name: str) -> Ratio | None:
    return None if ratio is None else replace(ratio, words=ratio_words(ratio, name))


def _figure(row: FigureRow, unseeded: bool) -> FigureRow:
    if row.difference is None or row.kind is None:
        return row
    over = row.over_run
    if over is not None and over.difference is not None and over.kind is not None:
        over = replace(over, words=figure_words(over.difference, over.kind, None, unseeded))
    words = figure_words(row.difference, row.kind, row.difference.fall, unseeded)
    return replace(row, words=words, over_run=over)


Said = Callable[[Explanation, PrecisionRow, Trials, Trials], str]


def _explained(
    entries: Sequence[Explanation], said: Said, row: PrecisionRow, own: Trials, base: Trials
) -> tuple[Explanation, ...]:
    return tuple(replace(entry, text=said(entry, row, own, base)) for entry in entries)


def _with_sentences(row: PrecisionRow) -> PrecisionRow:
    """With its explanations as items of a list instead of clauses."""
    return replace(
        row,
        why_no_faster=tuple(map(sentence, row.why_no_faster)),
        why_memory=tuple(map(sentence, row.why_memory)),
    )


def sentence(entry: Explanation) -> Explanation:
    """A clause with a capital letter; a fact also gets a full stop."""
    return replace(entry, text=capitalized(entry.text) + "." * (entry.share is None))
