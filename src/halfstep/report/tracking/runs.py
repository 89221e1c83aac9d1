"""What a tracker gets: a run per trial, with its parameters, its figures and its values by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfstep.comparison.model.trials import TrialRow
from halfstep.processes import join_words
from halfstep.report.markdown import markdown
from halfstep.report.reading import command_line, read
from halfstep.report.secret_values import masked
from halfstep.trials.job import Trial

#: [step from 0, value]
Series = tuple[tuple[int, float], ...]

#: figures of a trial that are one number -> their names in a tracker, which end with the unit
_FIGURES = {
    "steps": "steps",
    "skipped_steps": "skipped_steps",
    "steps_per_second": "steps_per_second",
    "samples_per_second": "samples_per_second",
    "peak_memory_bytes": "peak_memory_bytes",
    "energy_joules": "energy_joules",
    "joules_per_step": "joules_per_step",
    "seconds": "trial_seconds",
}


@dataclass(frozen=True)
class Run:
    """A trial, as a tracker's run."""

    name: str  #: the trial's name, e.g. ``bf16-seed0-repeat1``
    id: str  #: equal for the same trial of the same comparison with the same values; a file's name
    status: str  #: how it ended: ``ok``, ``diverged``, ``failed`` …
    parameters: Mapping[str, str]  #: what was asked and what ran
    figures: Mapping[str, float]  #: by name, with the unit at its end
    #: by name: the loss, the seconds of each step, the loss scale, and what the program logged
    series: Mapping[str, Series]

    def by_step(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The values of each step, in order."""
        steps: dict[int, dict[str, float]] = {}
        for name, points in self.series.items():
            for step, value in points:
                steps.setdefault(step, {})[name] = value
        yield from sorted(steps.items())


@dataclass(frozen=True)
class Tracked:
    """A comparison, as a tracker gets it."""

    name: str  #: the folder's name
    id: str  #: the same each time the comparison is sent
    started: str  #: when it began, in ISO 8601
    parameters: Mapping[str, str]  #: the program and the machine
    table: str = field(metadata={"lines": True})  #: as Markdown
    page: str = ""  #: the file of the page; empty where there is none
    runs: tuple[Run, ...] = ()  #: one per trial


def tracked(comparison: Mapping[str, Any], folder: Path, page: Path | None) -> Tracked:
    """What a tracker gets of the object that ``--json`` writes; secrets in commands are masked, as in the page."""
    found = read(masked(comparison))
    environment = {
        name: getattr(found.environment, name) for name in ("started", "cpu", "python", "halfstep")
    }
    name, program, launch = folder.absolute().name, command_line(found.program), found.program.launch
    id = _digest(environment["started"], program, found.program.cwd)
    machine = {name: str(value) for name, value in environment.items() if value is not None}
    return Tracked(
        name=name,
        id=id,
        started=machine.get("started", ""),
        parameters={"program": program} | ({"launch": launch} if launch else {}) | machine,
        table=markdown(comparison),
        page="" if page is None else str(page.absolute()),
        runs=tuple(_run(row, id, program) for row in found.trials),
    )


def _run(row: TrialRow, comparison: str, program: str) -> Run:
    parameters = {
        "precision": row.precision,
        "seed": row.seed,
        "repeat": row.repeat,
        "status": row.status,
        "reason": row.reason,
        "ran_as": row.ran_as,
        "device": row.device,
        "framework": row.framework,
        "program": program,
        "command": join_words(row.command),
    }
    figures, series = dict(_figures(row)), {name: points for name, points in _series(row) if points}
    name = Trial(row.precision, row.seed or 0, row.repeat or 0).label
    return Run(
        name=name,
        id=f"{comparison[:8]}{_digest(name, row.status, figures, series)[:16]}",
        status=row.status,
        parameters={name: str(value) for name, value in parameters.items() if value not in (None, "")},
        figures=figures,
        series=series,
    )


def _figures(row: TrialRow) -> Iterator[tuple[str, float]]:
    for name, called in _FIGURES.items():
        value = getattr(row, name)
        if value is not None:
            yield called, float(value)
    if row.step_seconds is not None:
        yield "median_step_seconds", row.step_seconds.median
    yield from ((f"memory/{part}_bytes", float(size)) for part, size in (row.memory or {}).items())
    yield from ((f"matmul_share/{name}", share) for name, share in (row.matmul_share or {}).items())


def _series(row: TrialRow) -> Iterator[tuple[str, Series]]:
    yield "loss", tuple((step, loss) for step, loss in enumerate(row.losses) if loss is not None)
    # The first step has no time, as there is no step before it; a damaged record may lack more times.
    first = len(row.losses) - len(row.step_times)
    yield "step_seconds", tuple((first + i, seconds) for i, seconds in enumerate(row.step_times))
    yield "loss_scale", tuple((int(step), scale) for step, scale in row.loss_scale)
    for name, points in row.logged.items():
        yield f"logged/{name}", tuple((int(step), value) for step, value in points if value is not None)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
