"""``halfstep report``: draw a comparison again from its folder."""

from __future__ import annotations

from pathlib import Path

import click

from halfstep.cli.outputs import json_path_of, write_json


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

    from halfstep.comparison.loading import rebuild
    from halfstep.comparison.tables import write_csv
    from halfstep.report import terminal
    from halfstep.report.page import write

    json_path = json_path_of(json_file)
    comparison = rebuild(folder)
    page = Path(folder) / "report.html"
    write(comparison.data, page)
    if csv_file is not None:
        write_csv(comparison.data, csv_file)
    write_json(comparison.data, json_path)
    Console(stderr=json_file == "-").print(terminal.table(comparison.data, page=page))
