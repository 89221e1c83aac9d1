"""``halfstep diagnose``: which layer under- or overflows, where a NaN began, and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from halfstep import codec
from halfstep.cli.outputs import diagnosis_folder, held, json_path_of, page_or_none, write_json
from halfstep.cli.run import (
    SECONDS,
    SETTINGS,
    STEPS,
    check_launcher,
    check_program,
    program_options,
    run_options,
)
from halfstep.diagnosis.loading import NAME, holds_comparison, stored
from halfstep.diagnosis.run import Question, run_diagnosis
from halfstep.files import json_text, write_whole
from halfstep.options import RunOptions
from halfstep.precisions.recipes import parse
from halfstep.program import Target
from halfstep.trials import Job


@click.command(context_settings=SETTINGS, short_help="Find the layer whose numbers go wrong in a precision.")
@click.option("--precision", default="fp16", show_default=True, metavar="P",
    help="The precision to look into, with options; as-is and fp32 are allowed, and with --emulate fp8, mxfp8 and "
    "the others that `halfstep run` emulates.")  # fmt: skip
@click.option("--steps", type=STEPS, default=20, show_default=True, metavar="N",
    help="How many optimizer steps to watch.")  # fmt: skip
@click.option(
    "--json", "json_file", metavar="FILE", help="Also write the diagnosis as JSON to FILE; - for stdout."
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for records, logs and the page. Default: a new one in halfstep-out. In a "
    "comparison's folder the diagnosis becomes a section of its page.",
)
@click.option("--try-remedies", is_flag=True,
    help="Run the program again with the remedies that are found, and say which work.")  # fmt: skip
@click.option("--time-limit", type=SECONDS, metavar="T",
    help="End a trial that runs longer than T seconds.")  # fmt: skip
@click.option("--launch", default="", metavar="CMD", help='Launcher, e.g. "torchrun --nproc-per-node 2".')
@run_options
@program_options
def diagnose(
    precision: str,
    steps: int,
    json_file: str | None,
    out: str | None,
    try_remedies: bool,
    time_limit: float | None,
    launch: str,
    module: bool,
    program: str,
    arguments: tuple[str, ...],
    **options: Any,
) -> int:
    """Train PROGRAM for some steps in a precision, look at every number, and name what goes wrong.

    The program runs twice, watched: in the precision and, to know the numbers before they are rounded, in fp32.
    With --emulate each operand of a product is looked at as it is rounded, at the scale that it really has.
    """
    from rich.console import Console

    from halfstep.report import diagnosis as report
    from halfstep.report import diagnosis_page as page
    from halfstep.report import terminal
    from halfstep.report.loading import rebuild
    from halfstep.report.page import write as write_page

    recipe = str(parse(precision))
    check_program(Target.parse(program, arguments, module=module))
    check_launcher(launch)
    folder, json_path = diagnosis_folder(out, program, recipe), json_path_of(json_file)
    job = Job(
        program, arguments, module, folder, RunOptions(steps, **options), time_limit, launch, watch=True,
    )  # fmt: skip
    err, console = Console(stderr=True), Console(stderr=json_file == "-")
    with held(folder):
        with terminal.Progress(err) as progress:
            found = codec.write(run_diagnosis(Question(job, recipe, steps, try_remedies), progress))
        write_whole(folder / NAME, json_text(found))
        written = page_or_none(lambda: page.write(found, folder / "diagnosis.html"))
    if out is not None and holds_comparison(Path(out)):
        whole = Path(out)
        written = page_or_none(
            lambda: write_page(rebuild(whole).data, whole.absolute() / "report.html", stored(whole))
        )
    write_json(found, json_path)
    console.print(report.view(found, page=written), crop=False)
    return 0
