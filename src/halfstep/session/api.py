"""What a script may say to halfstep by itself; each is a name of the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from halfstep.errors import HalfstepError, UsageError
from halfstep.options import RunOptions
from halfstep.passed_on import Keywords
from halfstep.session.session import Session
from halfstep.session.settings import AUTO, Settings


def enable(precision: str = AUTO, **options: Any) -> None:
    """Put a precision into force in this program, from here on.

    In a script it is the first line. In a notebook it may be run again, between two steps: with the same precision and
    options it does nothing, with others these take the place of the first. Models, optimizers and hooks that exist go
    by it, too, and what is compiled is compiled anew.

    Where `halfstep run` or a comparison runs the program, the precision of the command wins, and one line on stderr
    says so; under ``as-is`` this one is what the script does.

    Args:
        precision: as on the command line, e.g. ``"bf16"`` or ``"fp16:loss_scale=1024"``; ``"auto"`` chooses.
        **options: those of :class:`~halfstep.options.RunOptions`, ``seed`` and ``record``, as the options of
            ``halfstep run``.

    Raises:
        UsageError: an unknown precision; Keras has made layers already; or the precision before cannot be taken off.
        Unsupported: this machine cannot run it (raised when torch is imported, if it is not yet).

    Example:
        >>> import halfstep
        >>> halfstep.enable("bf16")  # doctest: +SKIP
    """
    settings = _settings(precision, options)
    current = Session.current
    if current is not None and current.of_command:
        current.own_wish.enabled(settings)
        return
    if current is not None and current.settings == settings:
        return
    session = Session(settings, end_program=False)  # a wrong name is refused before anything changes
    if current is None:
        _begin(session)
        return
    current.end()
    try:
        _begin(session)
    except HalfstepError:
        _begin(Session(replace(current.settings, record=None), end_program=False))
        raise


def disable() -> None:
    """Take the precision off again: PyTorch is what it was, bit for bit, and without cost.

    Models, optimizers and hooks stay, and are PyTorch's own again. Does nothing where no precision is in force. Where
    `halfstep run` or a comparison runs the program, its precision stays, and one line on stderr says so.

    Raises:
        UsageError: it cannot be done: 16-bit weights (``bf16-true``, ``fp16-true``) cannot become fp32 again, Keras has
            settled the dtypes of the layers that were made, or this is no moment between two steps.

    Example:
        >>> import halfstep
        >>> halfstep.enable("bf16")  # doctest: +SKIP
        >>> halfstep.disable()  # doctest: +SKIP
    """
    current = Session.current
    if current is not None and current.of_command:
        if not current.as_is:
            current.own_wish.changed("halfstep.disable()")
    elif current is not None:
        current.end()


@contextmanager
def precision(precision: str, **options: Any) -> Iterator[None]:
    """A precision for some lines, or (as a decorator) for a function; after that, what was in force before.

    Args:
        precision: as that of :func:`enable`.
        **options: as those of :func:`enable`.

    Raises:
        UsageError: as :func:`enable` and :func:`disable`; or a record is being written, which is of one precision.

    Example:
        >>> import halfstep
        >>> with halfstep.precision("fp16"):  # doctest: +SKIP
        ...     train()
    """
    before = Session.current
    if before is not None and before.of_command:
        _settings(precision, options)
        before.own_wish.changed(f"halfstep.precision({precision!r})")
        yield
        return
    if before is not None and before.settings.record is not None:
        raise UsageError(
            "halfstep.precision() was called while halfstep.enable() writes a record, which is of one precision; "
            "call halfstep.disable() first."
        )
    scale = None if before is None else before.scale_state
    enable(precision, **options)
    try:
        yield
    finally:
        if Session.current is not before:
            disable()
            if before is not None:
                _begin(Session(before.settings, end_program=False))
                before_again = Session.current
                if before_again is not None and scale is not None:
                    before_again.restore_scale(scale)


def _settings(precision: str, options: Keywords) -> Settings:
    """What the script asks for.

    Raises:
        UsageError: an option that is unknown.
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
    return Settings(precision, run, command=tuple(sys.argv), **given)


def _begin(session: Session) -> None:
    """Begin a session; where that fails none is in force."""
    if "keras" in sys.modules:
        from halfstep.keras import already_started

        already_started.refuse_if_late()
    try:
        session.begin()
    except HalfstepError:
        session.end()
        raise


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
