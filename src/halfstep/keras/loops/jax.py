"""JAX loops of the script's own: ``jax.grad`` and ``stateless_apply`` or ``apply`` of an optimizer of Keras's.

A step whose gradients are not finite keeps the old values, by a selection inside the program. What lasts from step to
step stays in Python: compiled programs ask for it, and tell of a step, by an ordered callback, which costs a call into
Python for each.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.loops.jax_gradients import Gradients, all_finite
from halfstep.keras.loops.jax_programs import Programs
from halfstep.keras.recording.recorder import Seen
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

UNSCALED = (
    "a step was made with gradients that no jax.grad or jax.value_and_grad of this program gave after Keras was "
    "imported: its loss was not scaled; import keras first, and take the names from jax after it"
)
UNGUARDED = (
    "ended without a step of an optimizer of Keras's: what else the gradients of jax.grad went into (optax, an update "
    "by hand) is neither guarded nor recorded; use an optimizer of Keras's, or compile and fit"
)


class JaxLoops:
    """Every gradient and every optimizer outside of Keras's own training."""

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._guards = takeover.recipe.guards
        self._scale = takeover.recipe.loss_scale
        self._programs = Programs(takeover, self)
        self._gradients = Gradients(takeover, self._ask, self._saw)
        self._loss: float | None = None
        self._rows: list[Seen] = []
        self._primary: weakref.ref[Any] | None = None

    def install(self, patches: Patches) -> None:
        """Scale, guard and record."""
        self._gradients.install(patches)
        for cls in (BaseOptimizer, LossScaleOptimizer):
            patches.wrap(cls, "stateless_apply", self._stateless_apply)
            patches.wrap(cls, "apply", self._apply)
        self._programs.install(patches)

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are counted: the first that ever stepped."""
        return None if self._primary is None else self._primary()

    @property
    def no_step(self) -> str | None:
        """Why there may be gradients and no step; None where there are none either."""
        return UNGUARDED if self._gradients.passes else None

    def took_pass(self) -> bool:
        """Whether ``jax.grad`` has been seen since the last time that this was asked."""
        return self._gradients.took_pass()

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(optimizer: Any, variables: Any, grads: Any, trainable: Any) -> Any:
            if self._takeover.training or self._gradients.busy:
                return original(optimizer, variables, grads, trainable)
            grads, finite, scale = list(grads), True, self._own_scale_of(optimizer, variables)
            if self._guards and scale is None:
                self._warn_unscaled()
                finite = all_finite(grads)
            with self._gradients.alone():
                self._takeover.scaler.finite = None
                new = original(optimizer, variables, grads, trainable)
            if self._guards and scale is None:
                new = jax.tree.map(
                    lambda a, b: jnp.where(finite, a, b), new, _like(new, trainable, variables)
                )
            elif self._takeover.scaler.finite is not None:
                finite = self._takeover.scaler.finite
            self._step(optimizer, finite, scale)
            return new

        return stateless_apply

    def _apply(self, original: Method) -> Method:
        """A step outside of every compiled program: JAX has the values, so that a bad one is left out."""

        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._takeover.training or self._gradients.busy:
                original(optimizer, grads, trainable_variables)
                return
            grads, finite, scale = list(grads), True, self._own_scale_of(optimizer, None)
            if self._guards and scale is None:
                self._warn_unscaled()
                finite = bool(all_finite(grads))
            with self._gradients.alone():
                self._takeover.scaler.finite = None
                if finite:
                    original(optimizer, grads, trainable_variables)
            if scale is not None and self._takeover.scaler.finite is not None:
                finite = self._takeover.scaler.finite
            self._step(optimizer, finite, scale)

        return apply

    def _own_scale_of(self, optimizer: Any, variables: Any) -> Any:
        """The scale of a LossScaleOptimizer that the script made; None of any other."""
        return self._takeover.scaler.scale_of(optimizer, variables)

    def _warn_unscaled(self) -> None:
        if not self._gradients.took_pass() and self._scale.guards:
            self._takeover.warn(UNSCALED)

    def _step(self, optimizer: Any, finite: Any, scale: Any) -> None:
        if self._primary is None or self._primary() is None:
            self._primary = weakref.ref(optimizer)
        if self.optimizer is not optimizer:
            return
        io_callback(self._stepped, None, jnp.asarray(finite), 0.0 if scale is None else scale, ordered=True)
        self._takeover.loop_begins()
        if not self._programs.traced_step():
            self.read()

    def _ask(self) -> Any:
        return np.float32(self._scale.value)

    def _saw(self, loss: Any) -> None:
        self._loss = (self._loss or 0.0) + float(loss)

    def _stepped(self, finite: Any, own_scale: Any) -> None:
        """Called by the program when it has made a step; ``own_scale`` is 0 where the scale is the recipe's."""
        own = float(own_scale)
        self._rows.append(Seen(self._loss, own or self._scale.value, bool(finite)))
        self._loss = None
        if not own:
            self._scale = self._scale.next(bool(finite))

    @property
    def waiting(self) -> int:
        """How many steps programs have told of that are not yet in the record. Waits for what is on its way."""
        jax.effects_barrier()
        return len(self._rows)

    def read(self) -> None:
        """Hand them to the recorder."""
        if not self.waiting:
            return
        rows, self._rows = self._rows, []
        self._takeover.progress.loop_stepped(rows)


def _like(new: Any, *old: Any) -> Any:
    """``old`` in the containers that ``new`` has."""
    return jax.tree.unflatten(jax.tree.structure(new), jax.tree.leaves(old))
