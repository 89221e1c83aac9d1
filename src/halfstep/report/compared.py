"""Runs or rebuilds a comparison, and adds its words; writes ``comparison.json`` into its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from halfstep import codec
from halfstep.comparison import running
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.request import Request, Stored
from halfstep.comparison.work import Display
from halfstep.files import json_text, write_whole
from halfstep.report.words.comparison import worded


def compare(request: Request, display: Display, resume: Stored | None = None) -> Comparison:
    """Run all trials; ``comparison.json`` in the request's folder is written after every one.

    Args:
        request: what to compare.
        display: shows the progress.
        resume: the stored request, if the comparison is resumed: trials that are done are not run again.

    Raises:
        UsageError: it was started on another machine.
    """
    file = File(request.folder)
    return worded(running.run_comparison(request, display, lambda found: file.write(worded(found)), resume))


class File:
    """Writes ``comparison.json`` again and again; keeps the JSON of trials that have not changed.

    Args:
        folder: the comparison's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "comparison.json"
        #: (precision, seed, repeat) -> the trial's row, and its JSON
        self._known: dict[tuple[object, ...], tuple[TrialRow, str]] = {}

    def write(self, comparison: Comparison) -> None:
        """Write the comparison's JSON.

        Raises:
            OSError: the folder is gone, full or not ours to write.
        """
        texts = {n: json_text(part) for n, part in codec.write(replace(comparison, trials=())).items()}
        texts["trials"] = f"[{', '.join(map(self._text, comparison.trials))}]"
        write_whole(self._path, f"{{{', '.join(f'{json_text(n)}: {text}' for n, text in texts.items())}}}")

    def _text(self, row: TrialRow) -> str:
        trial = (row.precision, row.seed, row.repeat)
        if trial not in self._known or self._known[trial][0] is not row:
            self._known[trial] = row, json_text(codec.write(row))
        return self._known[trial][1]


def rebuilt(folder: str | Path) -> Comparison:
    """The comparison of a folder, made again from its records; trials that did not end are rows, too.

    Raises:
        UsageError: no comparison was started there, or no trial has left a record.
    """
    return worded(running.rebuilt(folder))
