"""The gallery's rows, from comparison objects, and its tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from gallery_cases import PUBLISHED_QUALITY, Case

from halfstep.comparison.statistics.intervals import Times, ratio_of_medians
from halfstep.report import units

Row = dict[str, Any]
#: format -> FLOP/s of a large matrix product, ``flops_per_second`` with ``low`` and ``high``
Peaks = dict[str, dict[str, float | None]]

ABSENT = "not measured"

HOW = """\
Each cell is a figure with its spread: of step time and rate the 95 % interval of the median, of speed the 95 % interval
of the ratio, of peak memory, joules and final loss the range over the trials. *Speed* is the ratio to fp32; *over
hand-written* to the loop with PyTorch's own autocast and GradScaler (`as-is`), in the same run, trials interleaved.
*Of peak*: FLOPs of the step's matrix products and convolutions over its seconds, as a share of a large matrix
product's rate in the format that most of them ran in, measured here. A convolution may need fewer operations than
are counted (Winograd's algorithm), so that more than 100 % can be right; a format without units has no peak.
"""


def rows(case: Case, comparison: dict[str, Any], peaks: Peaks) -> Iterator[Row]:
    """One row per precision."""
    for verdict in comparison["verdicts"]:
        own = [t for t in comparison["trials"] if t["precision"] == verdict["precision"]]
        trials = [t for t in own if t["status"] == "ok"]
        yield {
            **{name: verdict[name] for name in ("precision", "status", "reason", "ran_as", "trials", "steps")},
            **{name: verdict[name] for name in ("step_time", "speed_ratio", "peak_memory", "memory_ratio")},
            "over_hand_written": over_hand_written(comparison, verdict["precision"]),
            "rate": rate(verdict["step_time"], trials, case.per_sample),
            "unit": f"{case.unit}/s",
            "utilisation": utilisation(verdict, trials, peaks),
            "joules_per_step": verdict["energy"],
            "joules_absent": next((t["joules_per_step_absent"] for t in own if t["joules_per_step_absent"]), None),
            "loss": (verdict["loss"] or {}).get("final"),
            "quality": verdict["quality"],
        }  # fmt: skip


def rate(step_time: Row | None, trials: list[Row], per_sample: int) -> Row | None:
    """Samples (or what they consist of) a second, from the samples of a step and the interval of its time."""
    known = [t for t in trials if t["samples_per_second"] and t["step_seconds"]]
    if step_time is None or not known:
        return None
    count = per_sample * median(t["samples_per_second"] * t["step_seconds"]["median"] for t in known)
    ends = [None if step_time[end] is None else count / step_time[end] for end in ("high", "low")]
    return {"median": count / step_time["median"], "low": ends[0], "high": ends[1]}


def over_hand_written(comparison: dict[str, Any], precision: str) -> Row | None:
    """How many times as fast as the loop written by hand (as-is), the trials interleaved."""
    times = {p: step_times(comparison, p) for p in ("as-is", precision)}
    if precision in ("as-is", "fp32", "tf32") or not times["as-is"] or not times[precision]:
        return None
    ratio = ratio_of_medians(times["as-is"], times[precision])
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def step_times(comparison: dict[str, Any], precision: str) -> list[Times]:
    """The seconds of the steps after the warm-up, of each trial that ended well."""
    trials = [t for t in comparison["trials"] if t["precision"] == precision and t["status"] == "ok"]
    return [Times(times) for t in trials if (times := t["step_times"][t["warmup_steps"] :])]


def utilisation(verdict: Row, trials: list[Row], peaks: Peaks) -> Row | None:
    """The rate of a step's products as a share of the measured peak of the format that most of them ran in."""
    flops = next((t["matmul_flops"] for t in trials if t.get("matmul_flops")), None)
    if not flops or not verdict["step_time"]:
        return None
    format_ = max(flops, key=lambda name: flops[name])
    units_of = "fp32" if "products in fp32 units" in (verdict["ran_as"] or "") else format_
    top = (peaks.get(units_of) or {}).get("flops_per_second")
    if not top:
        return None
    work, time = sum(flops.values()) / top, verdict["step_time"]
    ends = [None if time[end] is None else work / time[end] for end in ("high", "low")]
    return {"value": work / time["median"], "low": ends[0], "high": ends[1], "of": units_of}


def table(case: Case, found: list[Row], advice: str) -> str:
    """A case as a Markdown section."""
    columns: dict[str, Callable[[Row], str]] = {
        "precision": lambda r: f"`{r['precision']}`",
        "step": lambda r: cell(r["step_time"], "s"),
        "speed": lambda r: "baseline" if r is found[0] else cell(r["speed_ratio"], "×"),
        "over hand-written": lambda r: cell(r["over_hand_written"], "×", absent=""),
        f"{case.unit}/s": lambda r: cell(r["rate"], ""),
        "of peak": of_peak,
        "peak memory": lambda r: cell(r["peak_memory"], "B"),
        "J/step": lambda r: cell(r["joules_per_step"], "J"),
        "final loss": lambda r: cell(r["loss"], ""),
        "quality": quality,
    }  # fmt: skip
    cells = {name: [column(row) for row in found] for name, column in columns.items()}
    kept = {name: column for name, column in cells.items() if any(column)}
    lines = [list(kept), ["---"] * len(kept), *([c[i] for c in kept.values()] for i in range(len(found)))]
    body = "\n".join(f"| {' | '.join(escaped(cell_) for cell_ in line)} |" for line in lines)
    notes = [f"halfstep's advice: {advice}", *reasons(found)]
    return section(case, f"{body}\n\n" + "\n".join(f"- {note}" for note in notes))


def section(case: Case, body: str) -> str:
    """The heading, the command and the body, and what others have published."""
    beside = "".join(f"| {what} | {where} | {figure} |\n" for what, where, figure in case.published)
    published = f"\nPublished, one GPU:\n\n| | | |\n| --- | --- | --- |\n{beside}" if beside else ""
    return f"### {case.name}\n\n`{case.command}`\n\n{body}\n{published}"


def missing(case: Case, reason: str) -> str:
    """A case that was not run: the reason in place of its table."""
    return section(case, f"{ABSENT.capitalize()}: {reason}.")


def quality_table() -> str:
    """The published figures of quality."""
    lines = "".join(f"| {name} | {a:g} | {b:g} | {b - a:+.2f} |\n" for name, a, b in PUBLISHED_QUALITY)
    return (
        "### Published: final quality in fp32 and in mixed precision\n\n"
        "Micikevicius et al. 2017, single runs; top-1 % (detectors: mAP %). Multibox SSD with the loss scaled by 8: "
        f"without, it diverges.\n\n| network | fp32 | mixed | difference |\n| --- | --- | --- | --- |\n{lines}"
    )


def of_peak(row: Row) -> str:
    """Its share of the measured peak, in whole percent, with the interval that the step time's gives it."""
    found = row["utilisation"]
    if not found:
        return ABSENT
    ends = "" if found["low"] is None else f" ({found['low']:.0%}–{found['high']:.0%})".replace("%–", "–")
    return f"{found['value']:.0%}{ends} of {found['of']}"


def quality(row: Row) -> str:
    """What is said of the loss and of what was logged; of a precision that did not run its status."""
    if row["status"] not in ("ok", "diverged"):
        return str(row["status"]).replace("_", " ")
    return str(row["quality"]["words"]).removeprefix("loss: ")


def cell(figure: Row | None, unit: str, absent: str = ABSENT) -> str:
    """A figure with its spread."""
    if not figure:
        return absent
    return units.pm(
        figure["value"] if "value" in figure else figure["median"],
        figure.get("low"),
        figure.get("high"),
        unit,
    )


def reasons(found: list[Row]) -> Iterator[str]:
    """Why a precision failed, and why there are no joules."""
    yield from (
        f"`{row['precision']}`: {row['reason']}" for row in found if row["status"] != "ok" and row["reason"]
    )
    absent = dict.fromkeys(
        row["joules_absent"] for row in found if not row["joules_per_step"] and row["joules_absent"]
    )
    yield from (f"J/step: {reason}" for reason in absent)


def escaped(text: str) -> str:
    """Text that cannot end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
