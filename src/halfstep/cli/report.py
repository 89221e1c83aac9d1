"""``halfstep report``: draw a comparison or a diagnosis again from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from halfstep.cli.outputs import (
    Done,
    json_path_of,
    page_or_none,
    page_or_reason,
    print_required,
    print_tracked,
    write_text,
)
from halfstep.cli.project import required_by_project
from halfstep.codec import JsonObject
from halfstep.comparison.requirements import parse_requirements
from halfstep.diagnosis.loading import holds_comparison, stored
from halfstep.errors import UsageError
from halfstep.files import json_text
from halfstep.report.tracking import check, parse_targets


@click.command(short_help="Draw a comparison or a diagnosis again, or write it as CSV or JSON.")
@click.argument("folder")
@click.option("--csv", "csv_file", metavar="FILE", help="Write one row per trial to FILE, and the steps beside it "
    "(FILE's name with -steps).")  # fmt: skip
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the comparison or diagnosis as JSON to FILE; - for stdout.",
)
@click.option("--require", "required", metavar="RULE", multiple=True, help="What has to be shown, as for compare: "
    "exit code 1 where it does not hold, 3 where the data cannot tell.")  # fmt: skip
@click.option(
    "--markdown", "markdown_file", metavar="FILE", help="Write the table as Markdown to FILE; - for stdout."
)
@click.option("--track", "trackers", metavar="NAME[=DIR]", multiple=True, help="Write to a tracker, as compare does: "
    "tensorboard, mlflow or wandb, a run per trial.")  # fmt: skip
def report(
    folder: str,
    csv_file: str | None,
    json_file: str | None,
    required: tuple[str, ...],
    markdown_file: str | None,
    trackers: tuple[str, ...],
) -> int:
    """Draw the table and the page of what is in FOLDER again.

    A comparison, finished or not, is read from its records; what `halfstep diagnose --out FOLDER` has found since is a
    section of the page. A diagnosis alone is read from its diagnosis.json.
    """
    from rich.console import Console

    from halfstep.comparison.tables import write_csv
    from halfstep.report import terminal
    from halfstep.report.loading import rebuild
    from halfstep.report.markdown import markdown
    from halfstep.report.page import write

    if folder == "":
        raise UsageError("halfstep report was given no folder; name one.")
    if csv_file == "":
        raise UsageError("--csv was given no file; name one, or leave it out.")
    json_path, markdown_path = json_path_of(json_file), json_path_of(markdown_file, "--markdown")
    terms = (*required_by_project(), *parse_requirements(required))
    targets = parse_targets(trackers)
    diagnoses = stored(Path(folder))
    if diagnoses and not holds_comparison(Path(folder)):
        given = {"--csv": csv_file, "--require": " ".join(required), "--markdown": markdown_file}
        given["--track"] = " ".join(trackers)
        _diagnosis(diagnoses[0], Path(folder), given, json_path)
        return 0
    comparison = rebuild(folder)
    for target in targets:
        check(target, Path(folder))
    done = Done(
        comparison.data,
        page_or_reason(lambda: write(comparison.data, Path(folder) / "report.html", diagnoses)),
    )
    done.check()
    page = page_or_none(done.page)
    if csv_file is not None:
        write_csv(comparison.data, csv_file)
    write_text(lambda: json_text(comparison.data, indent=1), json_path)
    write_text(lambda: markdown(comparison.data), markdown_path)
    console = Console(stderr="-" in (json_file, markdown_file))
    console.print(terminal.table(comparison.data, page=page), crop=False)
    print_tracked(targets, comparison.data, Path(folder), page)
    print_required(comparison.data, terms, console)
    return 0


def _diagnosis(
    found: JsonObject, folder: Path, given: Mapping[str, str | None], json_path: Path | None
) -> None:
    """Draw a folder that holds only a diagnosis.

    Raises:
        UsageError: an option in ``given`` has a value: these are for the table of a comparison.
    """
    from rich.console import Console

    from halfstep.report import diagnosis, diagnosis_page

    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} {value} was given, but {str(folder)!r} holds a diagnosis, which has no table of trials; use "
                "--json."
            )
    done = Done(found, page_or_reason(lambda: diagnosis_page.write(found, folder / "diagnosis.html")))
    done.check()
    write_text(lambda: json_text(found, indent=1), json_path)
    Console(stderr=str(json_path) == "-").print(
        diagnosis.view(found, page=page_or_none(done.page)), crop=False
    )
