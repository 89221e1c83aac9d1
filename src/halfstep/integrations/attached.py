"""What the adapters share: the takeover that they add to, and the ways to speak to the record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfstep.errors import Unsupported, UsageError
from halfstep.machine.frameworks import FRAMEWORKS
from halfstep.precisions.recipes import parse

if TYPE_CHECKING:
    from torch.amp import GradScaler

    from halfstep.pytorch.takeover import Takeover


def resting_scaler(device: str, **options: Any) -> GradScaler:
    """The scaler that a framework makes for fp16. It rests, as any that a program makes under a recipe.

    Args:
        options: what the program has given for it, such as ``init_scale``.
    """
    from torch.amp import GradScaler

    return GradScaler(device, **options)


@dataclass
class Attached:
    """A takeover of PyTorch, as the adapters of the frameworks on top of it see it."""

    takeover: Takeover
    #: how to start the program again under halfstep (an interpreter and our options; the program follows), or None
    #: where the script itself enables halfstep and a copy of it will do the same
    relaunch: Sequence[str] | None = None
    #: whether the program has asked for fp16 in words that its framework makes a scaler of
    scaler_expected: bool = False

    @property
    def as_is(self) -> bool:
        """Whether the script's own precision stays."""
        return self.takeover.recipe.as_is

    def driven_by(self, framework: str) -> None:
        """``framework`` runs the training loop; the last to say so is the outermost. It goes into the record."""
        if framework != self.takeover.framework:
            self.takeover.framework = framework
            self.takeover.announce()

    def region(self) -> AbstractContextManager[None]:
        """What a framework says its forward passes run in: from the first on, model calls elsewhere open no region."""
        return self.takeover.regions.of_framework()

    def logged(self, figures: Mapping[str, Any]) -> None:
        """Put the framework's logged figures into the record, under its names; what is no number is left out."""
        for name, value in figures.items():
            if isinstance(name, str):
                self.takeover.recorder.logged(name, value)

    def asks_for(self, what: str, precision: str) -> None:
        """The script asks its framework for ``precision``: what runs is compared with that."""
        try:
            compute = parse(precision).compute
        except UsageError:  # float64, or the layers of another library
            compute = None
        self.takeover.own_precision.note(what, compute)

    def refuse(self, sentence: str) -> None:
        """End the program: what it asks of its framework cannot be combined with the recipe.

        Raises:
            Unsupported: or SystemExit, where halfstep runs the program.
        """
        error = Unsupported(sentence)
        self.takeover.options.halt(error)
        raise error

    def require(self, name: str, version: str) -> None:
        """Refuse a version that is too old of the package that the module ``name`` is in.

        Raises:
            Unsupported: one sentence with the version that there is and the one that it takes.
        """
        try:
            FRAMEWORKS[name.partition(".")[0]].check(version)
        except Unsupported as error:
            self.refuse(str(error))

    def under_halfstep(self, command: Sequence[str]) -> list[str]:
        """``[python, script, …]`` as the command that runs the script in this recipe."""
        if self.relaunch is None or command[:1] != [sys.executable]:
            return list(command)
        return [*self.relaunch, *command[1:]]
