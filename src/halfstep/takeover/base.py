"""What a session asks of a takeover, whichever framework it is for, and what a takeover asks of a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from halfstep.errors import HalfstepError
from halfstep.options import DEFAULTS, RunOptions
from halfstep.precisions.loss_scale import scale_words
from halfstep.precisions.recipes import Recipe
from halfstep.record import NullWriter, Writer

#: the step, counted from 0, that is looked at closely: the optimizer's state exists by then
SAMPLED_STEP = 1
#: the step, counted from 0, whose time is divided among the kinds of work; the sampled step is too slow for that
PROFILED_STEP = SAMPLED_STEP + 1

#: A dynamic scale that overflows this many steps in a row at its floor will not recover.
HOPELESS = 20


class EnoughSteps(SystemExit):
    """Ends the program after ``--steps`` steps: exit code 0, ``finally`` and ``atexit`` run."""

    def __init__(self) -> None:
        super().__init__(0)


class GradientsOverflow(HalfstepError):
    """Gradients are not finite although the loss scale can fall no further."""

    exit_code = 1


@dataclass(frozen=True)
class Options:
    """How a recipe is put into force."""

    recipe: Recipe
    run: RunOptions = DEFAULTS
    #: the record, or a :class:`~halfstep.record.NullWriter`
    writer: Writer | NullWriter = field(default_factory=NullWriter)
    #: called once, when the steps that are looked at are over and meters should start
    warm: Callable[[], None] = field(default=lambda: None)
    tick: Callable[[], None] = field(default=lambda: None)  #: called at the end of every step after that
    #: called with an error that ends the program, before it is raised; may end it in its own way
    halt: Callable[[HalfstepError], None] = field(default=lambda error: None)
    watch: bool = False  #: look at every operation, for a diagnosis
    graphs: bool = False  #: compare each compiled graph with the same graph run eagerly
    #: shows the user a sentence while the program runs
    say: Callable[[str], None] = field(default=lambda text: None)

    def stop(self, error: HalfstepError) -> NoReturn:
        """End the program with this error, in the session's way or by raising it."""
        self.halt(error)
        raise error


class Takeover(ABC):
    """A recipe in force in one framework of this process.

    Attributes:
        framework: the record's name for it: ``pytorch``, ``keras`` or ``tensorflow``.
    """

    framework: str

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps so far, skipped ones included."""

    @property
    @abstractmethod
    def skipped(self) -> int:
        """How many were skipped because gradients were not finite, those before a resumed checkpoint included."""

    @property
    def skipped_before(self) -> int:
        """How many of the skipped ones the checkpoint tells of from which this process resumed."""
        return 0

    @property
    def skipped_here(self) -> int:
        """How many of this process's own steps were skipped."""
        return self.skipped - self.skipped_before

    @property
    def skipped_beside(self) -> int:
        """How many steps of other optimizers than the one whose steps count were skipped here."""
        return 0

    @property
    def in_use(self) -> bool:
        """Whether the program was seen to use the framework, beyond importing it."""
        return True

    @property
    def no_step(self) -> str:
        """Why the program may have ended without a step, in words that follow "the program"."""
        return "ended without an optimizer step"

    @abstractmethod
    def announce(self) -> None:
        """Write the record's ``takeover`` event: what was put into force, in which framework."""

    @abstractmethod
    def write(self, event: str, **fields: Any) -> None:
        """Write an event to the record, after the steps that came before it."""

    def adopt(self) -> None:  # noqa: B027
        """The framework was imported before: what the program has made with it since then goes by the recipe, too."""

    def disown(self) -> None:  # noqa: B027
        """After :meth:`remove`: what the program has made goes on as if there had been no recipe."""

    @property
    def cannot_be_undone(self) -> str:
        """Why :meth:`remove` cannot put the framework back as it was, and what to do; empty if it can."""
        return ""

    @property
    def scale_state(self) -> dict[str, float | int] | None:
        """The loss scale, as a checkpoint has it; None where there is none."""
        return None

    def restore_scale(self, state: dict[str, float | int]) -> None:  # noqa: B027
        """Go on from a loss scale; nothing where there is none."""

    @abstractmethod
    def remove(self) -> None:
        """Put the framework back as it was."""

    @abstractmethod
    def close(self) -> None:
        """The program is over: write what is still on its way from a device."""


def asked_of(recipe: Recipe) -> dict[str, object]:
    """What a recipe asks for, as fields of a record's ``takeover`` event; ``as-is`` asks for nothing.

    An emulated precision's products are counted under its own name.
    """
    if recipe.as_is:
        return {}
    return {
        "asked": recipe.name if recipe.only_emulated else recipe.compute,
        "asked_weights": recipe.weights,
        "described": recipe.described,
    }


def overflow_sentence(compute: str, scale: float, started_at: float) -> str:
    """Why training was ended: ``scale`` could fall no further from ``started_at``."""
    smallest = "the smallest scale" if started_at != scale else "the loss scale"
    return (
        f"Gradients were not finite in {HOPELESS} steps in a row at {smallest} {scale_words(scale)}: "
        f"{compute} cannot hold this training's numbers; try bf16, or fp32 to see whether it is "
        "the precision's fault."
    )
