"""``halfstep compare``: the program in several precisions, side by side."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from halfstep import codec
from halfstep.cli.outputs import held, json_path_of, new_folder, page_or_none, write_json
from halfstep.cli.run import (
    SECONDS,
    SETTINGS,
    STEPS,
    check_launcher,
    check_program,
    program_options,
    run_options,
)
from halfstep.comparison.advice.evidence import PREFER
from halfstep.comparison.fit import FitOption, parse_fit, parse_size
from halfstep.comparison.request import MOST, Request, Stored, check_owner, resumed, stored
from halfstep.comparison.statistics.tolerance import parse_tolerance
from halfstep.diagnosis.loading import stored as diagnoses
from halfstep.errors import UsageError
from halfstep.options import RunOptions
from halfstep.precisions.recipes import parse_list
from halfstep.program import Target
from halfstep.safe_text import clean
from halfstep.trials.fresh import check_size


@click.command(context_settings=SETTINGS, short_help="Run a program in several precisions, side by side.")
@click.option("--precisions", metavar="LIST", help="Separated by commas, e.g. fp32,bf16,fp16:loss_scale=1024. Default: "
    "what this hardware can do, and as-is if the program has mixed precision of its own.")  # fmt: skip
@click.option("--steps", type=STEPS, metavar="N", help="End each trial after N optimizer steps.")
@click.option("--repeats", type=click.IntRange(1, MOST), default=1, show_default=True, metavar="R",
    help="Run each precision R times, interleaved, to see the noise.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, MOST), default=1, show_default=True, metavar="S",
    help="Run each precision with S seeds; every seed that the program sets is shifted by 0, 1, ...")  # fmt: skip
@click.option("--time-limit", type=SECONDS, metavar="T",
    help="End a trial that runs longer than T seconds.")  # fmt: skip
@click.option("--tolerance", multiple=True, metavar="D", help="A difference that does not matter: 0.01 (of the loss), "
    "1% (of every figure), accuracy=0.005. Default: the baseline's own deviation from seed to seed.")  # fmt: skip
@click.option("--prefer", type=click.Choice(PREFER), default="speed", show_default=True, help="What the advice is to "
    "gain, at no loss of quality; accuracy: only what was shown to be as good as the baseline.")  # fmt: skip
@click.option("--fit-batch", metavar="[NAME=]ARG", help="Then find the largest batch that fits each precision; ARG is "
    "the program's own option for it: --fit-batch images=--batch-size.")  # fmt: skip
@click.option("--memory-limit", metavar="SIZE", help="What --fit-batch is to fit into on a CPU, e.g. 8GiB: the largest "
    "resident memory of the program and its children.")  # fmt: skip
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for records, logs and the page. Default: a new one in halfstep-out. What "
    "`halfstep diagnose --out DIR` finds later becomes a section of the page.",
)
@click.option(
    "--json", "json_file", metavar="FILE", help="Also write the comparison as JSON to FILE; - for stdout."
)
@click.option(
    "--launch", default="", metavar="CMD", help='Launcher for each trial, e.g. "torchrun --nproc-per-node 2".'
)
@click.option("--fresh", is_flag=True, help="Run each trial in a copy of this folder, thrown away at its end, so "
    "that none goes on from what another saved.")  # fmt: skip
@click.option("--resume", metavar="DIR", help="Go on with the comparison in DIR: run only what is missing, as it was "
    "asked for. --seeds, --repeats, --time-limit, --tolerance and --prefer may be given anew.")  # fmt: skip
@run_options
@functools.partial(program_options, required=False)
def compare(
    precisions: str | None,
    steps: int | None,
    repeats: int,
    seeds: int,
    time_limit: float | None,
    tolerance: tuple[str, ...],
    prefer: Any,
    fit_batch: str | None,
    memory_limit: str | None,
    out: str | None,
    json_file: str | None,
    launch: str,
    fresh: bool,
    resume: str | None,
    module: bool,
    program: str | None,
    arguments: tuple[str, ...],
    **options: Any,
) -> int:
    """Run PROGRAM in several precisions, one process each, and compare speed, memory and loss.

    The program runs several times, in the folder you are in: files that it writes are written several times. Each run
    finds HALFSTEP_TRIAL (precision, seed and repeat, as JSON) in its environment.
    """
    from rich.console import Console

    from halfstep.report import terminal
    from halfstep.report.compared import compare as compared
    from halfstep.report.page import write as write_page

    if program is not None:
        check_program(Target.parse(program, arguments, module=module))
    elif resume is None:
        raise UsageError(
            "halfstep compare was given no program; name one, or --resume DIR to go on with a comparison."
        )
    if resume == "":
        raise UsageError("--resume was given no folder; name one.")
    check_launcher(launch)
    margins = parse_tolerance(tolerance)
    fit, limit = _fit(fit_batch, memory_limit)
    request = Request(
        program=program or "",
        arguments=arguments,
        module=module,
        recipes=None if precisions is None else tuple(map(str, parse_list(precisions))),
        options=RunOptions(steps, **options),
        repeats=repeats,
        seeds=seeds,
        time_limit=time_limit,
        launch=launch,
        folder=new_folder(out, program or "") if resume is None else Path(resume),
        tolerance=margins,
        prefer=prefer,
        fit=fit,
        memory_limit=limit,
        fresh=fresh,
    )
    err, console = Console(stderr=True), Console(stderr=json_file == "-")
    old = None if resume is None else _begun(Path(resume))
    request = request if old is None else resumed(old, _given(request))
    check_launcher(request.launch)
    if request.fresh:
        check_size(request.folder)
    json_path = json_path_of(json_file)
    target, page = request.folder / "report.html", None
    with held(request.folder):
        if old is not None:
            command = shlex.join([*shlex.split(request.launch), *request.command])
            err.print(
                clean(f"halfstep: goes on with {command}"), markup=False, highlight=False, soft_wrap=True
            )
        with terminal.Progress(err) as progress:
            comparison = codec.write(compared(request, progress, old))
        unwritten = None
        try:
            page = page_or_none(lambda: write_page(comparison, target, diagnoses(request.folder)))
        except UsageError as error:
            unwritten = error
    write_json(comparison, json_path)
    console.print(terminal.table(comparison, page=page), crop=False)
    if unwritten:
        raise unwritten
    return 0 if any(trial["status"] == "ok" for trial in comparison["trials"]) else 1


def _begun(folder: Path) -> Stored:
    """What is to be gone on with.

    Raises:
        UsageError: nothing was begun there, or not by this user.
    """
    check_owner(folder)
    return stored(folder)


def _given(request: Request) -> dict[str, Any]:
    """The fields of the request that were given on the command line, not left to their defaults."""
    context = click.get_current_context()
    names = {"precisions": "recipes", "fit_batch": "fit"}
    given = {
        names.get(name, name)
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if "out" in given:
        raise UsageError("--resume DIR goes on in DIR itself; leave --out out.")
    given -= {"json_file", "resume"}
    if request.program:
        given |= {"program", "arguments", "module"}
    return {name: request.option(name) for name in given}


def _fit(fit_batch: str | None, memory_limit: str | None) -> tuple[FitOption | None, int | None]:
    """The batch's option and the limit.

    Raises:
        UsageError: either cannot be read, or the limit stands alone.
    """
    if memory_limit is not None and fit_batch is None:
        raise UsageError(
            f"--memory-limit {memory_limit} was given without --fit-batch, which alone it is for; "
            "give --fit-batch NAME=ARG too, or leave it out."
        )
    return (
        None if fit_batch is None else parse_fit(fit_batch),
        None if memory_limit is None else parse_size(memory_limit),
    )
