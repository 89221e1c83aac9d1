"""The reasons of the advice in words: a clause for each claim."""

from __future__ import annotations

from collections.abc import Callable

from halfstep.comparison.advice.claims import Claim
from halfstep.comparison.advice.evidence import Evidence
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report import units
from halfstep.report.words import warnings
from halfstep.report.words.ratios import OF_RATIO, ends, gained
from halfstep.words.plural import count


def claimed(claim: Claim, evidence: Evidence) -> str:
    """A claim as a clause."""
    row = claim.row[1]
    said = _CLAIMS[claim.kind](row, claim, evidence)
    return said if claim.kind in _WITHOUT_NAME else f"{row.precision}: {said}"


def _failed(row: PrecisionRow, claim: Claim, evidence: Evidence) -> str:
    # The reason of an interrupted trial already says how it ended.
    said = row.reason if row.status == "interrupted" else f"{units.status(row.status)}, {row.reason}"
    return f"{said}; it {went_on(row)}" if row.went_on else said


def _ratio(row: PrecisionRow, claim: Claim, evidence: Evidence) -> str:
    """A measured ratio with its interval: ``1.20× slower (95 % interval 1.10 to 1.31×)``."""
    name = str(claim.evidence.field)
    ratio: Ratio = getattr(row, name)
    tested = ratio.significant or (ratio.low is None and name != "speed_ratio")
    lead = gained(ratio, name) if tested else f"{plain_number(ratio.value)}× the {OF_RATIO[name]}"
    value, low, high = ratio.value, ratio.low, ratio.high
    if low is None or high is None:
        return f"{lead} (no interval)"
    lead += ", not significant" * (not ratio.significant)
    alone = ", within one run: --repeats 3 shows how runs differ" if 1 in (ratio.runs or ()) else ""
    # "1.20× slower" is the other way round, and so are the ends of its interval.
    if ratio.significant and name == "speed_ratio" and ratio.value < 1:
        value, low, high = 1 / value, 1 / high, 1 / low
    return f"{lead} (95 % interval {ends(value, low, high)}{alone})"


def plain_number(ratio: float) -> str:
    """Two decimals, or as many as show three digits of a ratio below a tenth: ``1.43``, ``0.00123``."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3g}"


def fits(precision: str, evidence: Evidence) -> str:
    """``a batch of 248 images fits, 1.94× fp32's 128``."""
    batches, baseline = evidence.batches, evidence.base[1].precision
    own, base, counted = batches.largest(precision), batches.largest(baseline), batches.name
    head = f"a batch of {own:,}{'' if counted == 'batch' else f' {counted}'} fits"
    if not base:
        return f"{head} (in {baseline} not even {batches.row(baseline).fails_at:,})"
    return f"{head}, as in {baseline}" if own == base else f"{head}, {own / base:.2f}× {baseline}'s {base:,}"


def _skipped(row: PrecisionRow) -> str:
    """``3 steps were skipped``: the number of the trial that skipped most."""
    return f"{row.skipped_steps} step{'s were' if row.skipped_steps != 1 else ' was'} skipped"


def _range(row: PrecisionRow, claim: Claim, evidence: Evidence) -> str:
    left_out = f", in which {_skipped(row)}" if row.skipped_steps else ""
    return f"fp32's range, so no loss scale; nearly as good as {row.precision}{left_out}"


def _share(row: PrecisionRow, claim: Claim, evidence: Evidence) -> str:
    """An entry of why it is no faster, or no smaller, without a capital letter."""
    return str(getattr(row, str(claim.evidence.field))[claim.evidence.path[1]].text)


_CLAIMS: dict[str, Callable[[PrecisionRow, Claim, Evidence], str]] = {
    "failed": _failed,
    "diverged": lambda row, claim, evidence: f"{row.precision} itself {row.quality.words}",
    "no_fall": lambda row, claim, evidence: (
        f"the loss did not fall in {count(row.steps or 0, 'step')} of {row.precision}"
    ),
    "quality": lambda row, claim, evidence: row.quality.words,
    "ratio": _ratio,
    "batch": lambda row, claim, evidence: fits(row.precision, evidence),
    "not_measured": lambda row, claim, evidence: str(getattr(row, str(claim.evidence.field))),
    "skipped": lambda row, claim, evidence: f"{_skipped(row)}, as their gradients were not finite",
    "ran": lambda row, claim, evidence: f"ran as {row.ran_as}",
    "went_on": lambda row, claim, evidence: went_on(row),
    "no_units": lambda row, claim, evidence: f"this device has no units for it ({row.ran_as})",
    "emulated": lambda row, claim, evidence: "emulated",
    "speed_bound": lambda row, claim, evidence: f"{row.speed_bound:.1f}× faster at most",
    "range": _range,
    "share": _share,
}
#: claims that name their precision themselves, or follow one that does
_WITHOUT_NAME = ("diverged", "no_fall", "range", "skipped")


def went_on(row: PrecisionRow) -> str:
    """That its trials continued from an earlier trial's files, and what to do; empty if they did not."""
    return f"{warnings.went_on(row.went_on)}; {warnings.cure(row.went_on)}" if row.went_on else ""
