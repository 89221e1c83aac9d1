"""Refuses a takeover of Keras that comes too late to be right."""

from __future__ import annotations

from keras.src.backend.common import global_state

from halfstep.errors import UsageError


def refuse_if_late() -> None:
    """Raise if the program has already made layers, or an optimizer: their dtypes are settled.

    Raises:
        UsageError: it has; the message names the first.
    """
    # Keras numbers what it names by itself: an entry for each kind of object that was made.
    made = global_state.get_global_attribute("object_name_uids") or {}
    if made:
        first = next(iter(made))
        raise UsageError(
            f"halfstep.enable() came after {first!r} was made; make it the first line of the program."
        )
