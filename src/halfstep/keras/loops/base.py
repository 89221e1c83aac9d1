"""What Keras's own loop and the loops of a script without ``fit`` have in common: they guard and record steps."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halfstep.keras.loss_scaling.scaler import Scaler
from halfstep.keras.loss_scaling.statistics import NullStatistics
from halfstep.keras.notices import Notices
from halfstep.keras.recording.progress import Progress
from halfstep.keras.runtime import Runtime
from halfstep.keras.step import StepState
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Method, Patches


@dataclass(frozen=True)
class Parts:
    """What a loop works with."""

    recipe: Recipe
    runtime: Runtime
    step: StepState
    scaler: Scaler
    statistics: NullStatistics
    progress: Progress
    notices: Notices


class Loop:
    """A loop that trains."""

    def __init__(self, parts: Parts) -> None:
        self._guards = parts.recipe.guards
        self._runtime = parts.runtime
        self._step = parts.step
        self._scaler = parts.scaler
        self._statistics = parts.statistics
        self._progress = parts.progress
        self._notices = parts.notices

    def install(self, patches: Patches) -> None:
        """Scale, guard and record its steps."""
        raise NotImplementedError


class OwnLoop(Loop):
    """Every backward pass and every step of an optimizer of Keras's, outside of Keras's own training.

    Attributes:
        framework: the record's name for what drives such a loop.
        stepped: whether a step has been made, or traced.
    """

    framework = "keras"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.stepped = False
        self._primary: weakref.ref[Any] | None = None

    @property
    def no_step(self) -> str:
        """Why there may be gradients but no step, in words that follow "the program"; empty where unknown."""
        return ""

    def close(self) -> None:
        """The program is over: record the steps that are not in the record yet."""

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are counted: the first that stepped, of those that are still there."""
        return None if self._primary is None else self._primary()

    def _is_primary(self, optimizer: Any) -> bool:
        """Whether the steps of ``optimizer``, which has just stepped, are counted."""
        if self.optimizer is None:
            self._primary = weakref.ref(optimizer)
        return self.optimizer is optimizer

    def _outermost(self, make_step: Callable[..., None]) -> Callable[[Method], Method]:
        """Wrap ``Optimizer.apply``: for a step of a script's own loop ``make_step`` is called in its place.

        An optimizer that another optimizer calls is a part of that one.

        Args:
            make_step: given the optimizer, a function that applies the gradients, the gradients, and the variables or
                None.
        """

        def wrap(original: Method) -> Method:
            def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
                if self._step.training or self._step.busy:
                    original(optimizer, grads, trainable_variables)
                    return
                grads = list(grads)
                variables = None if trainable_variables is None else list(trainable_variables)
                call = functools.partial(original, optimizer, grads, variables)
                with self._step.part_of_loop():
                    make_step(optimizer, call, grads, variables)

            return apply

        return wrap
