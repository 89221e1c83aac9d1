"""``halfstep diagnose``: which layer under- or overflows, where a NaN began, and the cure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from halfstep import codec
from halfstep.cli.options import SETTINGS, check_launcher, check_program, command_options, program_options
from halfstep.cli.outputs import (
    Done,
    check_current_folder,
    diagnosis_folder,
    held,
    json_path_of,
    page_or_none,
    page_or_reason,
    text_or_reason,
)
from halfstep.codec import JsonObject
from halfstep.comparison.work import Display
from halfstep.diagnosis.loading import NAME, holds_comparison, stored
from halfstep.diagnosis.options import DiagnosisOptions
from halfstep.diagnosis.run import Question, run_diagnosis
from halfstep.errors import UsageError
from halfstep.files import json_text, write_whole
from halfstep.precisions.recipes import parse
from halfstep.program.target import Target
from halfstep.trials import Job
from halfstep.words.stderr import console_file


@click.command(context_settings=SETTINGS, short_help="Find the layer whose numbers go wrong in a precision.")
@command_options(DiagnosisOptions)
@program_options
def diagnose(**options: Any) -> int:
    """Train PROGRAM for some steps in a precision, look at every number, and name what goes wrong.

    The program runs twice, watched: in the precision and, to know the numbers before they are rounded, in fp32.
    With --emulate each operand of a product is looked at as it is rounded, at the scale that it really has.
    """
    from rich.console import Console

    from halfstep.report import diagnosis as report
    from halfstep.report import terminal

    task = prepare(DiagnosisOptions(**options))
    err, console = Console(file=console_file()), Console(stderr=options["json"] == "-")
    with held(task.question.job.folder), terminal.Progress(err) as progress:
        done = perform(task, progress)
    console.print(report.view(done.found, page=page_or_none(done.page)), crop=False)
    done.check()
    return 0


@dataclass(frozen=True)
class Task:
    """A diagnosis whose options were checked; ``comparison`` is the comparison's folder whose page gets it, too."""

    question: Question
    comparison: Path | None
    json: Path | None


def prepare(options: DiagnosisOptions) -> Task:
    """Read the options, and find everything that can be wrong before the program is run.

    Raises:
        UsageError: an option cannot be read, or the folder cannot be written.
    """
    check_current_folder()
    recipe, program, launch = str(parse(options.precision)), os.fspath(options.program), str(options.launch)
    arguments = tuple(options.args)
    check_program(Target.parse(program, arguments, module=options.module))
    check_launcher(launch)
    folder, json_path = diagnosis_folder(options.out, program, recipe), json_path_of(options.json)
    job = Job(
        program, arguments, options.module, folder, options.of_run, options.time_limit, launch, watch=True
    )
    out = None if options.out is None else Path(options.out)
    within = out.absolute() if out is not None and holds_comparison(out) else None
    return Task(Question(job, recipe, options.steps, options.try_remedies), within, json_path)


def perform(task: Task, display: Display) -> Done:
    """Run the program, and write the page and the JSON; the folder has to be :func:`held`."""
    from halfstep.report import diagnosis_page as page
    from halfstep.report.loading import rebuild
    from halfstep.report.page import write as write_page
    from halfstep.report.words.diagnosis import worded

    folder = task.question.job.folder
    found = codec.write(worded(run_diagnosis(task.question, display)))
    unwritten = _write(found, folder / NAME)
    written = page_or_reason(lambda: page.write(found, folder / "diagnosis.html"))
    if (whole := task.comparison) is not None:
        target = whole / "report.html"
        written = page_or_reason(lambda: write_page(rebuild(whole).data, target, stored(whole)))
    also = text_or_reason(lambda: json_text(found, indent=1), task.json, "the diagnosis", folder)
    return Done(found, written, unwritten or also)


def _write(found: JsonObject, path: Path) -> UsageError | None:
    """Write a diagnosis into its folder; returns why that failed: the folder is gone, or the disk full."""
    try:
        write_whole(path, json_text(found))
    except OSError as error:
        return UsageError(f"Cannot write {str(path)!r} ({error.strerror}); give --out a folder with room.")
    return None
