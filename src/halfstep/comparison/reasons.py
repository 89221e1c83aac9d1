"""The reasons of a recommendation: what was seen, in words, and the figure that it rests on."""

from __future__ import annotations

from typing import Any

from halfstep.comparison import going_on
from halfstep.comparison.evidence import RATIOS, Evidence, Prefer, Row, ran_of, ratio_name

_NAMES = {"speed_ratio": "speed", "memory_ratio": "memory", "energy_ratio": "energy"}


def reason(text: str, index: int, figure: str) -> dict[str, str]:
    """A reason that rests on a figure of the verdict at ``index``."""
    return {"text": text, "evidence": f"verdicts[{index}].{figure}"}


def failure(row: Row) -> dict[str, str]:
    """Why a precision did not run to its end."""
    index, verdict = row
    status, why = verdict["status"].replace("_", " "), verdict["reason"]
    words = why if why.startswith(status) else f"{status}, {why}"
    if verdict.get("went_on"):
        words += f"; it {going_on.words(verdict['went_on'])}"
    return reason(f"{verdict['precision']}: {words}", index, "reason")


def quality(row: Row) -> dict[str, str]:
    """What is said of its quality."""
    index, verdict = row
    return reason(f"{verdict['precision']}: {verdict['quality']['words']}", index, "quality.words")


def ratios(row: Row, first: Prefer = "speed") -> list[dict[str, str]]:
    """The measured ratios of a row, that of the objective first."""
    index, verdict = row
    figures = sorted(RATIOS.values(), key=lambda figure: figure != ratio_name(first))
    return [
        reason(f"{verdict['precision']}: {_range(ratio, figure)}", index, figure)
        for figure in figures
        if (ratio := verdict.get(figure)) is not None
    ]


def _range(ratio: dict[str, Any], figure: str) -> str:
    plain = ratio["words"] in ("not significant", "no interval")
    # What is significant has its size in its words.
    lead = f"{plain_number(ratio['value'])}× the {_NAMES[figure]}" if plain else ratio["words"]
    if ratio["low"] is None:
        return f"{lead} (no interval)"
    lead += ", not significant" * plain
    alone = ", within one run: --repeats 3 tells how runs differ" if 1 in ratio.get("runs", ()) else ""
    low, high = ratio["low"], ratio["high"]
    # "1.20× slower" is the other way round, and so are the ends of its interval.
    if lead.endswith("slower"):
        low, high = 1 / high, 1 / low
    places = next((n for n in (2, 3) if f"{low:.{n}f}" != f"{high:.{n}f}"), 4)
    return f"{lead} (95 % interval {low:.{places}f} to {high:.{places}f}×{alone})"


def plain_number(ratio: float) -> str:
    """Two decimals, or as many as show three digits of a ratio below a tenth: ``1.43``, ``0.00123``."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3g}"


def fitted(row: Row, evidence: Evidence) -> list[dict[str, str]]:
    """The largest batch that fits a row beside the baseline's, where memory is what counts and they were looked for."""
    own, base = row[1]["precision"], evidence.base[1]["precision"]
    if evidence.prefer != "memory" or not evidence.batches.known(own, base):
        return []
    words = evidence.batches.words(own, base)
    return [{"text": f"{own}: {words}", "evidence": evidence.batches.evidence(own)}]


_ABSENT = {"speed": "step_time_absent", "memory": "peak_memory_absent", "energy": "energy_absent"}


def unmeasured(row: Row, prefer: Prefer) -> list[dict[str, str]]:
    """Why the objective's figure was not measured; nothing where it was."""
    index, verdict = row
    figure = _ABSENT[prefer]
    why = verdict.get(figure)
    return [] if why is None else [reason(f"{verdict['precision']}: {why}", index, figure)]


def skipped(row: Row) -> list[dict[str, str]]:
    """How many steps were skipped, if any."""
    index, verdict = row
    text = f"{steps_skipped(verdict)}, as their gradients were not finite"
    return [reason(text, index, "skipped_steps")] if verdict["skipped_steps"] else []


def steps_skipped(verdict: dict[str, Any]) -> str:
    """``3 steps were skipped``; of several trials the one that skipped most."""
    number = verdict["skipped_steps"]
    return f"{number} step{'s were' if number != 1 else ' was'} skipped"


def ran(row: Row) -> dict[str, str]:
    """What a precision ran as."""
    index, verdict = row
    return reason(f"{verdict['precision']}: ran as {verdict['ran_as']}", index, "ran_as")


def went_on(row: Row) -> dict[str, str]:
    """From what a precision's trials went on."""
    index, verdict = row
    return reason(
        f"{verdict['precision']}: {going_on.words(verdict['went_on'])}; {going_on.CURE}", index, "went_on"
    )


def left_over(evidence: Evidence) -> list[dict[str, str]]:
    """What to know of the precisions that were not judged, and of a baseline that ran as something else."""
    odd = [evidence.baseline] if evidence.baseline and ran_of(evidence.baseline[1]).computed_otherwise else []
    return [
        *map(ran, (*odd, *evidence.same)),
        *map(went_on, evidence.continued),
        *map(failure, evidence.failed),
    ]


def units(row: Row) -> list[dict[str, str]]:
    """Whether the hardware computes it in units of another format, from what ran."""
    index, verdict = row
    if not ran_of(verdict).in_fp32_units:
        return []
    text = f"{verdict['precision']}: this device has no units for it ({verdict['ran_as']})"
    return [reason(text, index, "ran_as")]


_WHY = {"speed": "why_no_faster", "memory": "why_memory"}


def explained(row: Row, prefer: Prefer) -> list[dict[str, str]]:
    """Why it gains nothing by the objective: the largest share of its step or its peak, and the first fact beside.

    Left to the whole list are its units, which :func:`units` tells, and what the baseline's products would allow.
    """
    index, verdict = row
    figure = _WHY.get(prefer, "")
    told = list(enumerate(verdict.get(figure) or []))
    shares = [(i, entry) for i, entry in told if entry["share"] is not None]
    elsewhere = (".ran_as", ".products")
    facts = [(i, e) for i, e in told if e["share"] is None and not e["evidence"].endswith(elsewhere)]
    return [
        reason(f"{verdict['precision']}: {_inside(entry['text'])}", index, f"{figure}[{i}]")
        for i, entry in (*sorted(shares, key=lambda each: -each[1]["share"])[:1], *facts[:1])
    ]


def _inside(sentence: str) -> str:
    """A sentence as it stands after a colon."""
    return sentence[:1].lower() + sentence[1:].removesuffix(".")
