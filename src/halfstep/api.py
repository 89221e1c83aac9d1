"""What a script may say to halfstep by itself; each is a name of the package."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from halfstep.errors import UsageError
from halfstep.options import RunOptions
from halfstep.session import AUTO, Session, Settings, refuse_if_late


def enable(precision: str = AUTO, **options: Any) -> None:
    """Put a precision into force in this program: the first line of a script, before any training.

    Where `halfstep run` or a comparison runs the program, the precision of the command wins, and one line on stderr
    says so; under ``as-is`` this one is what the script does.

    Args:
        precision: as on the command line, e.g. ``"bf16"`` or ``"fp16:loss_scale=1024"``; ``"auto"`` chooses.
        **options: those of :class:`~halfstep.options.RunOptions`, ``seed`` and ``record``, as the options of
            ``halfstep run``.

    Raises:
        UsageError: called twice, after a backward pass or after an optimizer was made, or an unknown precision.
        Unsupported: this machine cannot run it (raised when torch is imported, if it is not yet).

    Example:
        >>> import halfstep
        >>> halfstep.enable("bf16")  # doctest: +SKIP
    """
    own = ("seed", "record")
    allowed = (*(f.name for f in fields(RunOptions)), *own)
    unknown = set(options) - set(allowed)
    if unknown:
        raise UsageError(
            f"halfstep.enable() was given {', '.join(sorted(unknown))}; allowed are {', '.join(allowed)}."
        )
    run = RunOptions(**{name: value for name, value in options.items() if name not in own})
    given = {name: options[name] for name in own if name in options}
    settings = Settings(precision, run, command=tuple(sys.argv), **given)
    if Session.current is not None and Session.current.yielded_to(settings):
        return
    refuse_if_late()
    Session(settings, end_program=False).begin()


def log(**figures: float) -> None:
    """Add figures of the script's own, such as ``accuracy=0.98``, to the record, at the current step.

    Does nothing when the program does not run under halfstep, so the line can stay in the script.

    Raises:
        TypeError: a value that is not a number.
    """
    values = {name: float(value) for name, value in figures.items()}
    session = Session.current
    if session is None or session.takeover is None:
        return
    takeover = session.takeover
    for name, value in values.items():
        takeover.write("logged", name=name, value=value, step=takeover.steps)


def skipped_steps() -> int:
    """How many optimizer steps halfstep has skipped so far because gradients were not finite."""
    session = Session.current
    return 0 if session is None or session.takeover is None else session.takeover.skipped
