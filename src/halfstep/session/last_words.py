"""How the program ended: the status for its record, and the last lines on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from halfstep.precisions.recipes import Recipe
from halfstep.program import Ending
from halfstep.record.ran import Ran
from halfstep.session.settings import say
from halfstep.words.format_errors import cure_words, format_error
from halfstep.words.plural import count
from halfstep.words.ran import in_force_words, words

if TYPE_CHECKING:
    from halfstep.takeover.base import Takeover


def outcome(ending: Ending, takeover: Takeover | None, steps: int) -> tuple[str, str]:
    """The status of the trial, and the reason in a sentence, where halfstep itself has not ended it."""
    if ending.out_of_memory:
        return "out_of_memory", ending.reason
    if ending.status in ("interrupted", "terminated"):
        return "interrupted", ending.reason
    if ending.status == "ok" and steps == 0:
        return "failed", no_step(takeover)
    return ending.status, ending.reason


def no_step(takeover: Takeover | None) -> str:
    """Why no step was seen, in words that follow "the program"."""
    if takeover is not None:
        return takeover.no_step + _elsewhere()
    for module, name in (("tensorflow", "TensorFlow"), ("jax", "JAX")):
        if module in sys.modules:
            return (
                f"trained with {name} alone, without Keras, whose layers and optimizers are what halfstep takes "
                f"over in {name}"
            )
    return "did not import PyTorch or Keras"


def _elsewhere() -> str:
    """Where other processes may have made steps, as the end of a sentence."""
    if (
        "multiprocessing.popen_spawn_posix" in sys.modules
        or "multiprocessing.popen_forkserver" in sys.modules
    ):
        return " in its first process; those that it spawned are not in the recipe: start them with torchrun"
    if "multiprocessing.popen_fork" in sys.modules:
        return " in its first process; those that it forked are in the recipe, but not in the record"
    return ""


def say_what_ran(asked: str, ran: Ran, takeover: Takeover | None) -> None:
    """Say which precision ran, if halfstep has changed something or could not do what was asked for."""
    if asked == "as-is" or (asked == "fp32" and not ran.otherwise):
        return
    if takeover is None:
        say(f"the program {no_step(takeover)}: precision {asked} was not put into force")
    elif takeover.steps == 0:
        say(f"the program {no_step(takeover)}; precision {asked} was in force")
    else:
        here, beside = takeover.skipped_here, takeover.skipped_beside
        told = [f"{here} of them skipped"] if here else []
        if beside:
            told.append(f"{count(beside, 'step')} of other optimizers skipped")
        skips = f", {' and '.join(told)} (gradients were not finite)" if told else ""
        lead = in_force_words(asked, ran) if ran.unknown else f"ran as {words(ran)}"
        say(f"{lead}: {count(takeover.steps, 'step')}{skips}")


def say_cause(ending: Ending, recipe: Recipe) -> None:
    """If the format caused the error that ended the program, say so, and how to mend it."""
    error = format_error(ending.reason, recipe.compute, ending.raised_at.code)
    if error is not None:
        at, can_keep = ending.raised_at, recipe.compute in ("bf16", "fp16") and not recipe.keep
        say(f"{cure_words(error, str(recipe), at.place, at.modules, can_keep=can_keep)}.")
