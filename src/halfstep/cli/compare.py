"""``halfstep compare``: the program in several precisions, side by side."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from halfstep import codec
from halfstep.cli.options import (
    SETTINGS,
    check_launcher,
    check_program,
    command_options,
    given_options,
    program_options,
)
from halfstep.cli.outputs import (
    Done,
    check_current_folder,
    held,
    json_path_of,
    new_folder,
    page_or_none,
    page_or_reason,
    print_required,
    print_tracked,
    text_or_reason,
)
from halfstep.cli.project import required_by_project
from halfstep.comparison.budgeted import parse_budget
from halfstep.comparison.cluster.connection import check as check_cluster
from halfstep.comparison.cluster.resources import parse_on, parse_resources
from halfstep.comparison.fit import FitOption, parse_fit, parse_size
from halfstep.comparison.options import ComparisonOptions
from halfstep.comparison.request import Request, Stored, check_owner, resumed, stored
from halfstep.comparison.requirements import Term, parse_requirements
from halfstep.comparison.slots import parse_parallel
from halfstep.comparison.statistics.tolerance import parse_tolerance
from halfstep.comparison.work import Display
from halfstep.diagnosis.loading import stored as diagnoses
from halfstep.errors import UsageError
from halfstep.files import json_text
from halfstep.passed_on import Keywords
from halfstep.precisions.recipes import parse_list
from halfstep.processes import join_words, split_words
from halfstep.program.target import Target as Program
from halfstep.report.tracking import Target, check, parse_targets
from halfstep.trials.fresh import check_size
from halfstep.words.safe_text import clean
from halfstep.words.stderr import console_file


@click.command(context_settings=SETTINGS, short_help="Run a program in several precisions, side by side.")
@command_options(ComparisonOptions)
@functools.partial(program_options, required=False)
def compare(**options: Any) -> int:
    """Run PROGRAM in several precisions, one process each, and compare speed, memory and loss.

    The program runs several times, in the folder you are in: files that it writes are written several times. Each run
    finds HALFSTEP_TRIAL (precision, seed and repeat, as JSON) in its environment.
    """
    from rich.console import Console

    from halfstep.report import terminal

    task = prepare(ComparisonOptions(**options), given_options(), required_by_project())
    err, console = Console(file=console_file()), Console(stderr="-" in (options["json"], options["markdown"]))
    with held(task.request.folder):
        if task.old is not None:
            command = join_words([*split_words(task.request.launch), *task.request.command])
            err.print(clean(f"halfstep: resuming {command}"), markup=False, highlight=False, soft_wrap=True)
        with terminal.Progress(err) as progress:
            done = perform(task, progress)
    page = page_or_none(done.page)
    console.print(terminal.table(done.found, page=page), crop=False)
    print_tracked(task.targets, done.found, task.request.folder, page)
    done.check()
    print_required(done.found, task.required, console)
    return 0 if any(trial["status"] == "ok" for trial in done.found["trials"]) else 1


@dataclass(frozen=True)
class Task:
    """A comparison whose options were checked; ``old`` is the one that it resumes."""

    request: Request
    old: Stored | None
    json: Path | None
    markdown: Path | None
    required: tuple[Term, ...]
    targets: tuple[Target, ...] = ()


def prepare(options: ComparisonOptions, given: Collection[str], project: Sequence[Term] = ()) -> Task:
    """Read the options, and find everything that can be wrong before a trial is run.

    Args:
        options: as the command line has them: a list is a text with commas.
        given: the names of those that were given.
        project: what pyproject.toml requires.

    Raises:
        UsageError: an option cannot be read, or the folder cannot be written.
    """
    check_current_folder()
    program = "" if options.program is None else os.fspath(options.program)
    arguments, resume, launch = tuple(options.args), options.resume, str(options.launch)
    if options.program is not None:
        check_program(Program.parse(program, arguments, module=options.module))
    elif resume is None:
        raise UsageError(
            "halfstep compare was given no program; name one, or --resume DIR to go on with a comparison."
        )
    if resume == "":
        raise UsageError("--resume was given no folder; name one.")
    on, resources = _cluster(options, given)
    check_launcher(launch, there=bool(on))
    targets = parse_targets(_texts(options.track))
    margins = parse_tolerance(_texts(options.tolerance))
    parallel = parse_parallel(str(options.parallel))
    budget = _budget(options.budget, given)
    fit, limit = _fit(options.fit_batch, options.memory_limit)
    request = Request(
        program=program,
        arguments=arguments,
        module=options.module,
        recipes=None if options.precisions is None else tuple(map(str, parse_list(str(options.precisions)))),
        options=options.of_run,
        repeats=options.repeats,
        seeds=options.seeds,
        time_limit=options.time_limit,
        launch=launch,
        folder=new_folder(options.out, program) if resume is None else Path(resume),
        tolerance=margins,
        prefer=options.prefer,
        fit=fit,
        memory_limit=limit,
        fresh=options.fresh,
        parallel=parallel,
        on=on,
        resources=resources,
        budget=budget,
    )
    old: Stored | None = None
    if resume is not None:
        check_owner(Path(resume))
        old = stored(Path(resume))
        request = resumed(old, _given_again(request, given))
    check_launcher(request.launch, there=bool(request.on))
    if old is not None and request.on:
        check_cluster(request.on, "" if request.module else request.program)
    if request.fresh:
        check_size(request.folder)
    required = parse_requirements(_texts(options.require))
    _check_compared(required, "--require", request)
    _check_compared(project, "[tool.halfstep] in pyproject.toml", request)
    json, markdown = json_path_of(options.json), json_path_of(options.markdown, "--markdown")
    for target in targets:
        check(target, request.folder)
    return Task(request, old, json, markdown, (*project, *required), targets)


def _check_compared(required: Sequence[Term], where: str, request: Request) -> None:
    """Raise UsageError if ``required``, which stands in ``where``, names a precision that is not compared."""
    recipes = request.recipes
    if recipes is None:
        return
    for term in required:
        if term.precision not in recipes:
            raise UsageError(
                f"{where} names {term.precision}, which is not compared; --precisions has {', '.join(recipes)}."
            )


def perform(task: Task, display: Display) -> Done:
    """Run the trials, and write the page, JSON and Markdown; the folder has to be :func:`held`."""
    from halfstep.report.compared import compare as compared
    from halfstep.report.markdown import markdown
    from halfstep.report.page import write as write_page

    comparison = codec.write(compared(task.request, display, task.old))
    target = task.request.folder / "report.html"
    page = page_or_reason(lambda: write_page(comparison, target, diagnoses(task.request.folder)))
    texts = (
        (task.json, lambda: json_text(comparison, indent=1)),
        (task.markdown, lambda: markdown(comparison)),
    )
    unwritten = [text_or_reason(text, path, "the comparison", target.parent) for path, text in texts]
    return Done(comparison, page, next(filter(None, unwritten), None))


def _given_again(request: Request, given: Collection[str]) -> Keywords:
    """The fields of the request that were given again on resuming it. Raises UsageError if --out was given, too."""
    if "out" in given:
        raise UsageError("--resume DIR goes on in DIR itself; leave --out out.")
    names = {"precisions": "recipes", "fit_batch": "fit"}
    no_fields = {"json", "markdown", "require", "track", "resume", "program", "args", "module"}
    fields_given = {names.get(name, name) for name in set(given) - no_fields}
    if request.program:
        fields_given |= {"program", "arguments", "module"}
    return {name: request.option(name) for name in fields_given}


def _texts(given: float | str | Sequence[str]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | float | int) else tuple(given)


def _budget(text: float | str | None, given: Collection[str]) -> float | None:
    """The seconds to spend; None without --budget.

    Raises:
        UsageError: they cannot be read, or --seeds or --repeats was given, too.
    """
    fixed = [name for name in ("seeds", "repeats") if name in given]
    if text is not None and fixed:
        raise UsageError(
            f"--budget {text} was given with --{fixed[0]}, and decides on seeds and repeats itself; leave one of the "
            "two out."
        )
    return None if text is None else parse_budget(str(text))


def _cluster(options: ComparisonOptions, given: Collection[str]) -> tuple[str, str]:
    """--on and --resources, checked.

    Raises:
        UsageError: either cannot be read, --resources was given alone, or with an option that is for one machine.
    """
    on, resources = parse_on(options.on), parse_resources(options.resources)
    if resources and not on and options.resume is None:
        raise UsageError(
            f"--resources {resources} was given without --on, and is only for that; give --on ray, too."
        )
    cannot = [name for name in ("parallel", "fit_batch") if name in given]
    if on and cannot:
        option = cannot[0].replace("_", "-")
        raise UsageError(
            f"--on {on} was given with --{option}, which is for one machine; leave one of the two out."
        )
    if on:
        check_cluster(on, "" if options.module else os.fspath(options.program or ""))
    return on, resources


def _fit(fit_batch: str | None, memory_limit: int | str | None) -> tuple[FitOption | None, int | None]:
    """--fit-batch and --memory-limit, read.

    Raises:
        UsageError: either cannot be read, or --memory-limit was given alone.
    """
    if memory_limit is not None and fit_batch is None:
        raise UsageError(
            f"--memory-limit {memory_limit} was given without --fit-batch, and is only for that; "
            "give --fit-batch NAME=ARG too, or leave it out."
        )
    return (
        None if fit_batch is None else parse_fit(fit_batch),
        None if memory_limit is None else parse_size(str(memory_limit)),
    )
