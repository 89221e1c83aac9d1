"""The comparison as one self-contained HTML file: it fetches nothing, and runs no text of the program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from halfstep import codec
from halfstep.codec import JsonObject, clean, finite
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.diagnosis.model import Diagnosis
from halfstep.errors import UsageError
from halfstep.files import write_whole
from halfstep.report import bars, plots, stored, units
from halfstep.report.columns import COLUMNS
from halfstep.report.diagnosis_page import figures as heat_maps
from halfstep.report.diagnosis_page import templates
from halfstep.report.document import EMPTY_STYLE, asset, plotly_script, policy
from halfstep.report.reading import NOT_RECORDED, command_line, loss_words, read, run_command, unfinished
from halfstep.report.secret_values import masked

#: reasons that a list further down shows
_LISTED_BELOW = ("why_no_faster", "why_memory")
#: the titles of the environment's parts, and functions that write those that are numbers
_ENVIRONMENT = {
    "started": "Started",
    "seconds": "Took",
    "cpu": "Processor",
    "cpu_flags": "Its number formats",
    "cores": "Cores",
    "threads": "Threads",
    "memory_bytes": "Memory",
    "devices": "Devices",
    "frameworks": "Frameworks",
    "python": "Python",
    "platform": "System",
    "halfstep": "halfstep",
}
_WRITTEN: dict[str, Callable[[float], str]] = {"seconds": units.duration, "memory_bytes": units.bytes_}

#: with more figures of single steps, of some 20 bytes each, the page's JSON leaves them out
MOST_OF_STEPS = 20_000
_OF_STEPS = ("losses", "step_times", "logged")


Diagnoses = Sequence[Mapping[str, Any]]


def write(comparison: Mapping[str, Any], path: str | Path, diagnoses: Diagnoses = ()) -> Path:
    """Draw a comparison, the object of `halfstep compare --json`, into one HTML file; returns its path.

    Each of ``diagnoses``, objects of `halfstep diagnose --json`, becomes a section of the page.

    Raises:
        UsageError: the file cannot be written.
    """
    path = Path(path)
    page = render(comparison, diagnoses)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    except OSError as error:
        raise UsageError(
            f"Cannot write the page {str(path)!r} ({error.strerror}); give a file in a folder you may write.",
            see=path.parent,
        ) from None
    return path


def render(comparison: Mapping[str, Any], diagnoses: Diagnoses = ()) -> str:
    """The page as text."""
    comparison = masked(comparison)
    read_ = read(comparison)
    diagnosed = [codec.read(Diagnosis, masked(raw)) for raw in diagnoses]
    fitted = [row.precision for row in read_.fit_batch.rows] if read_.fit_batch else []
    colours = plots.slots([*read_.precisions, *_formats(read_), *fitted])
    scripts = [plotly_script(), asset("page.js")]
    style = asset("page.css") + (asset("diagnosis.css") if diagnoses else "")
    figures = plots.figures(read_, colours)
    whole = figures_of_steps(read_) <= MOST_OF_STEPS
    maps = {
        name: figure
        for n, found in enumerate(diagnosed)
        for name, figure in heat_maps(found, f"d{n}-").items()
    }
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            c=read_,
            advice=read_.recommendation,
            command_line=command_line(read_.program),
            run_command=run_command(read_),
            unfinished=unfinished(read_.missing),
            loss_words=loss_words,
            leading=[r for r in read_.recommendation.reasons if r.evidence.field not in _LISTED_BELOW],
            colours=colours,
            columns=COLUMNS,
            figures=figures | maps,
            names={name: plots.names(figure, read_) for name, figure in figures.items()},
            diagnoses=diagnosed,
            logged=plots.logged_names(read_),
            memory=bars.drawn(bars.memory(read_), read_),
            shares=bars.drawn(bars.shares(read_, colours), read_),
            time=bars.drawn(bars.time(read_), read_),
            energy=bars.drawn(bars.energy(read_, colours), read_),
            fit=bars.fit(read_, colours),
            stored=stored.words,
            metered=any(row.energy for row in read_.verdicts)
            or any(trial.energy_joules is not None for trial in read_.trials),
            idle=read_.environment.idle_watts,
            idle_absent=read_.environment.idle_watts_absent or NOT_RECORDED,
            no_energy=no_energy(read_),
            seeds=len({trial.seed for trial in read_.trials}),
            baseline=read_.baseline,
            tolerated=bool(read_.options.get("tolerance")),
            scale=ratio_scale(read_.verdicts),
            absent=absences(read_),
            environment=list(environment(codec.write(read_.environment))),
            options=list(options(read_.options)),
            evidence=evidence(read_),
            raw=comparison if whole else without_steps(comparison),
            whole=whole,
            policy=policy(scripts, [style, EMPTY_STYLE]),
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
        )
    )


def figures_of_steps(comparison: Comparison) -> int:
    """How many figures of single steps the trials have."""
    return sum(
        len(trial.losses) + len(trial.step_times) + sum(map(len, trial.logged.values()))
        for trial in comparison.trials
    )


def without_steps(comparison: Mapping[str, Any]) -> JsonObject:
    """The object without the figures of single steps."""
    kept = [
        {name: part for name, part in trial.items() if name not in _OF_STEPS}
        for trial in comparison["trials"]
    ]
    return {**comparison, "left_out": [f"trials[].{name}" for name in _OF_STEPS], "trials": kept}


def ratio_scale(rows: Sequence[PrecisionRow]) -> Callable[[float], float]:
    """The place of a speed ratio on the table's logarithmic axis, in percent; 1 is always in view."""
    speeds = [row.speed_ratio for row in rows if row.speed_ratio]
    ends = [x for speed in speeds for x in (speed.value, speed.low, speed.high) if x is not None and x > 0]
    low, high = math.log(min([1.0, *ends])), math.log(max([1.0, *ends]))
    reach = max(high - low, 0.1)
    return lambda x: 4 + 92 * min(max((math.log(x) - low) / reach, 0.0), 1.0) if x > 0 else 4.0


def absences(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(figure, trials, reason) for what was not measured; trials with the same reason are together.

    Left out are figures that are absent because a trial did not end well: its own row says so.
    """
    kinds: dict[str, Callable[[TrialRow], str | None]] = {
        "Step time": lambda t: None if t.step_seconds else t.step_seconds_absent,
        "Peak memory": lambda t: None if t.peak_memory_bytes is not None else t.peak_memory_absent,
        "Memory by part": lambda t: None if t.memory else t.memory_absent,
        "Workspace": lambda t: t.workspace_absent,
        "Activations": lambda t: t.memory_parts_absent.get("activations"),
        "Energy": lambda t: None if t.energy_joules is not None else t.energy_absent,
        "Where time goes": lambda t: None if t.time_shares else t.time_shares_absent,
        "Matrix products by format": lambda t: None if t.matmul_share else t.matmul_share_absent,
        "Formats stored": lambda t: stored.why_not(t.held),
    }
    without: dict[tuple[str, str], list[str]] = {}
    for kind, reason in kinds.items():
        for trial in comparison.trials:
            why = reason(trial)
            if why and why != trial.reason:
                without.setdefault((kind, why), []).append(trial.label)
    everyone = len(comparison.trials)
    return [
        (kind, "every trial" if len(labels) == everyone else "; ".join(labels), why)
        for (kind, why), labels in without.items()
    ]


def no_energy(comparison: Comparison) -> str:
    """Why no energy was measured: the reason of the first trial that ended well."""
    trials = [trial for trial in comparison.trials if trial.status == "ok"] or list(comparison.trials)
    return next(
        (t.energy_absent for t in trials if t.energy_joules is None and t.energy_absent), NOT_RECORDED
    )


def environment(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of the parts of the machine in words: those with titles first, in order."""
    first = [key for key in _ENVIRONMENT if key in raw]
    # The idle machine's power stands with the energy.
    for key in [
        *first,
        *(key for key in raw if key not in _ENVIRONMENT and not key.startswith("idle_watts")),
    ]:
        name = _ENVIRONMENT.get(key, clean(key).replace("_", " ").capitalize())
        yield name, _words(raw[key], key) or ("none" if raw[key] == [] else "not recorded")


def options(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of the comparison's options in words."""
    for key, value in raw.items():
        yield clean(key).replace("_", " "), _words(value) or "none"


def evidence(comparison: Comparison) -> Callable[[EvidenceRef], str]:
    """A function that gives the anchor of a reason's evidence on the page; empty if the page does not show it."""
    known = {"verdicts": len(comparison.verdicts), "trials": len(comparison.trials)}

    def anchor(where: EvidenceRef) -> str:
        if where.table == "fit_batch.rows":
            return "fit" if comparison.fit_batch else ""
        return f"{where.table}-{where.row}" if where.row < known.get(where.table or "", 0) else ""

    return anchor


def _formats(comparison: Comparison) -> Iterator[str]:
    for trial in comparison.trials:
        yield from trial.matmul_share or ()


def _words(value: object, key: str = "") -> str:
    number = finite(value)
    if number is not None and key in _WRITTEN:
        return _WRITTEN[key](number)
    if isinstance(value, Mapping):
        if "kind" in value:  # what a device can do with a format; its reason stands where it matters
            return clean(value["kind"]).replace("_", " ")
        said = ((clean(name), _words(item, name)) for name, item in value.items())
        return ", ".join(f"{name} {words}" for name, words in said if words)
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(v, Mapping) for v in value) else ", ").join(map(_words, value))
    return ("yes" if value else "no") if isinstance(value, bool) else clean(value)
