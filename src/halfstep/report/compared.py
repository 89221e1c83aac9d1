"""A comparison as its readers get it: with its words, as ``comparison.json`` in its folder has it, too."""

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
        display: shows how it goes on.
        resume: the request as it was begun: its trials that are done are not run again.

    Raises:
        UsageError: it was begun on another machine.
    """

    file = File(request.folder)
    return worded(running.run_comparison(request, display, lambda found: file.write(worded(found)), resume))


class File:
    """``comparison.json`` beside its records: what is new in it is made anew, and the rest kept.

    Args:
        folder: the comparison's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "comparison.json"
        #: of each trial its row, and the same as JSON
        self._known: dict[tuple[object, ...], tuple[TrialRow, str]] = {}

    def write(self, comparison: Comparison) -> None:
        """Write the object, as :func:`codec.write` has it.

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
        UsageError: no comparison was begun there, or no trial has left a record.
    """
    return worded(running.rebuilt(folder))
