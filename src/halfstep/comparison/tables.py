"""A comparison's JSON as flat tables (lists of dicts), and as CSV files that a spreadsheet opens safely."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfstep.comparison.statistics.curves import Curve, final, final_loss
from halfstep.errors import UsageError

#: a value of a table: a number, a text, a truth, or None where it is absent
Cell = str | float | bool | None

Row = dict[str, Cell]

#: a spreadsheet takes a text that begins with one of these for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def precisions(comparison: Mapping[str, Any]) -> list[Row]:
    """One flat row per precision; the columns ``_low`` and ``_high`` are the ends of an interval."""
    return _even(
        {
            **{name: v.get(name) for name in ("precision", "baseline", "status", "ran_as", "trials")},
            **_interval("step_seconds", v.get("step_time"), "median"),
            **_interval("speed_ratio", v.get("speed_ratio")),
            **_interval("peak_memory_bytes", v.get("peak_memory"), "median"),
            **_interval("memory_ratio", v.get("memory_ratio")),
            **_interval("energy_ratio", v.get("energy_ratio")),
            **_interval("final_loss", (v.get("loss") or {}).get("final"), "median"),
            **_interval("loss_difference", (v.get("loss") or {}).get("difference")),
            "quality": (v.get("quality") or {}).get("kind"),
            "quality_words": (v.get("quality") or {}).get("words"),
            "skipped_steps": v.get("skipped_steps"),
        }
        for v in comparison["verdicts"]
    )


def _interval(name: str, figure: Mapping[str, Any] | None, middle: str = "value") -> Row:
    figure = figure or {}
    return {name: figure.get(middle), f"{name}_low": figure.get("low"), f"{name}_high": figure.get("high")}


#: fields of a trial that are one value as they are
_PLAIN = (
    "precision", "ran_as", "emulated", "seed", "repeat", "status", "reason", "steps", "skipped_steps", "device",
    "framework", "steps_per_second", "samples_per_second", "peak_memory_bytes", "energy_joules", "joules_per_step",
    "joules_per_sample", "exit_code", "seconds", "log",
)  # fmt: skip


def trials(comparison: Mapping[str, Any]) -> list[Row]:
    """One flat row per trial; the parts of memory, shares of products and final logged figures are columns."""
    return _even(
        {
            **{name: t.get(name) for name in _PLAIN},
            "final_loss": final_loss(t.get("losses") or []),
            **_interval("step_seconds", t.get("step_seconds"), "median"),
            **{f"memory_{part}": size for part, size in (t.get("memory") or {}).items()},
            **{f"matmul_share_{name}": share for name, share in (t.get("matmul_share") or {}).items()},
            **{
                f"stored_{part}_{name}": size
                for part, held in (t.get("stored") or {}).items()
                for name, size in (held or {}).items()
            },
            **{
                f"logged_{name}": final(
                    name, Curve.of((step, math.nan if x is None else x) for step, x in points)
                )
                for name, points in (t.get("logged") or {}).items()
            },
        }
        for t in comparison["trials"]
    )


def steps(comparison: Mapping[str, Any]) -> list[Row]:
    """Long format: one row per step and figure (``loss``, ``seconds`` and what was logged) of each trial."""
    return [
        {
            **{k: t.get(k) for k in ("precision", "seed", "repeat")},
            "step": step,
            "figure": figure,
            "value": value,
        }
        for t in comparison["trials"]
        for figure, step, value in _points(t)
    ]


def _points(trial: Mapping[str, Any]) -> Iterator[tuple[str, int, float | None]]:
    losses, times = trial.get("losses") or [], trial.get("step_times") or []
    yield from (("loss", step, loss) for step, loss in enumerate(losses))
    # The first step has no time: there is no step before it.
    first = len(losses) - len(times)
    yield from (("seconds", first + i, seconds) for i, seconds in enumerate(times))
    for name, points in (trial.get("logged") or {}).items():
        yield from ((name, int(step), value) for step, value in points)


def _even(rows: Iterator[Row]) -> list[Row]:
    """The rows, each with all columns, in the order in which the columns first appear."""
    found = list(rows)
    columns = list(dict.fromkeys(name for row in found for name in row))
    return [{name: row.get(name) for name in columns} for row in found]


def write_csv(comparison: Mapping[str, Any], path: str | Path) -> tuple[Path, Path]:
    """Write one row per trial to ``path``, and the steps beside it (``NAME-steps.csv``); returns both paths.

    Raises:
        UsageError: a file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise UsageError(f"Cannot write {str(path)!r} (it is a folder); give --csv a file.")
    beside = path.with_name(f"{path.stem}-steps{path.suffix}")
    columns = ["precision", "seed", "repeat", "step", "figure", "value"]
    _write(path, trials(comparison), [])
    _write(beside, steps(comparison), columns)
    return path, beside


def _write(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(_cell, rows[0] if rows else columns))
            writer.writerows(map(_cell, row.values()) for row in rows)
    except OSError as error:
        raise UsageError(
            f"Cannot write {str(path)!r} ({error.strerror}); give --csv a file in a folder you may write."
        ) from None


def _cell(value: Cell) -> Cell:
    """Numbers exactly as they are; a text that a spreadsheet would compute gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
