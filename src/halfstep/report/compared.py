"""A comparison as its readers get it: with its words, as ``comparison.json`` in its folder has it, too."""

from __future__ import annotations

from pathlib import Path

from halfstep import codec
from halfstep.comparison import running
from halfstep.comparison.model import Comparison
from halfstep.comparison.request import Request, Stored
from halfstep.files import json_text, write_whole
from halfstep.report.words.comparison import worded


def compare(request: Request, display: running.Display, resume: Stored | None = None) -> Comparison:
    """Run all trials; ``comparison.json`` in the request's folder is written after every one.

    Args:
        request: what to compare.
        display: shows how it goes on.
        resume: the request as it was begun: its trials that are done are not run again.

    Raises:
        UsageError: it was begun on another machine.
    """

    def write(comparison: Comparison) -> None:
        text = json_text(codec.write(worded(comparison)))
        write_whole(request.folder / "comparison.json", text)

    return worded(running.run_comparison(request, display, write, resume))


def rebuilt(folder: str | Path) -> Comparison:
    """The comparison of a folder, made again from its records; trials that did not end are rows, too.

    Raises:
        UsageError: no comparison was begun there, or no trial has left a record.
    """
    return worded(running.rebuilt(folder))
