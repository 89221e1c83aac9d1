"""``halfstep report``: draw a comparison again from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from halfstep.errors import UsageError


@click.command(short_help="Draw a comparison again, or write it as CSV or JSON.")
@click.argument("folder")
@click.option("--csv", "csv_file", metavar="FILE", help="Write one row a trial to FILE, and the steps beside it "
    "(FILE's name with -steps).")  # fmt: skip
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the comparison as JSON to FILE; - for stdout."
)
def report(folder: str, csv_file: str | None, json_file: str | None) -> None:
    """Draw the table and the page of the comparison in FOLDER again from its records, finished or not."""
    from rich.console import Console

    from halfstep.loading import rebuild
    from halfstep.report import terminal
    from halfstep.report.page import write
    from halfstep.tables import write_csv

    comparison = rebuild(folder)
    page = Path(folder) / "report.html"
    write(comparison.data, page)
    if csv_file is not None:
        write_csv(comparison.data, csv_file)
    _write_json(comparison.data, json_file)
    Console(stderr=json_file == "-").print(terminal.table(comparison.data, page=page))


def _write_json(data: dict[str, object], json_file: str | None) -> None:
    if json_file is None:
        return
    text = json.dumps(data, indent=1, allow_nan=False)
    if json_file == "-":
        print(text)
        return
    try:
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"Cannot write {json_file!r} ({error.strerror}); give --json a file you may write."
        ) from None
