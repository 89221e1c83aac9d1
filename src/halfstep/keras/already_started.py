"""Refuses to take over Keras after the program has made layers."""

from __future__ import annotations

from keras.src.backend.common import global_state

from halfstep.errors import UsageError


def refuse_if_late() -> None:
    """Check that the program has made no layer and no optimizer yet, whose dtypes could not be changed any more.

    Raises:
        UsageError: it has made some; the message names the first.
    """
    if first := first_made():
        raise UsageError(
            f"halfstep.enable() came after {first!r} was made; make it the first line of the program."
        )


def first_made() -> str:
    """The kind of the first object that the program has made, as Keras names it; empty if it has made none."""
    # Keras numbers the objects that it names: there is an entry for each kind of object that was made.
    made = global_state.get_global_attribute("object_name_uids") or {}
    return str(next(iter(made), ""))
