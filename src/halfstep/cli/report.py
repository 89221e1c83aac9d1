"""``halfstep report``: draw a comparison again from its folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder")
def report(folder: str) -> None:
    """Draw the table and the page of the comparison in FOLDER again, finished or not."""
    from rich.console import Console

    from halfstep.loading import load
    from halfstep.report import terminal
    from halfstep.report.page import write

    comparison = load(folder)
    page = Path(folder) / "report.html"
    write(comparison.data, page)
    Console().print(terminal.table(comparison.data, page=page))
