"""Optimizers that a model's own train_step steps beside the one that it was compiled with, as a GAN's has.

They know nothing of a loss scale, so that the test for finite gradients, the skip, and the scale's next value are
made here. Where one of them counts towards growth, it is the first that ever stepped.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.backends import base as backend
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

FIXED = (
    "the model's own train_step steps optimizers that it was not compiled with: on JAX a step of theirs with gradients "
    "that are not finite is skipped, but the loss scale does not follow"
)


class NullFurther:
    """No step is ever skipped."""

    @property
    def scale(self) -> Any:
        """The scale of a compiled optimizer that itself never steps."""
        return None

    def prepare(self) -> None:
        """A train function is made."""

    def install(self, patches: Patches) -> None:
        """Nothing to guard."""


class Further(NullFurther):
    """Every optimizer that is not the compiled one, inside of a train_step."""

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._recipe = takeover.recipe.loss_scale
        self._within = False
        self._first: weakref.ref[Any] | None = None
        self._own: tuple[Any, Any] | None = None

    def prepare(self) -> None:
        """Outside of every graph: the scale, and its count, of a compiled optimizer that itself never steps."""
        if self._own is None and backend.name() != "jax":
            scale = keras.Variable(self._recipe.value, dtype="float32", trainable=False, autocast=False)
            self._own = scale, keras.Variable(0, dtype="int32", trainable=False)

    @property
    def scale(self) -> Any:
        """That scale; None before :meth:`prepare`."""
        return None if self._own is None else self._own[0].value

    def install(self, patches: Patches) -> None:
        """Guard them."""
        patches.wrap(BaseOptimizer, "apply", self._apply)
        patches.wrap(BaseOptimizer, "stateless_apply", self._stateless_apply)
        for name in ("apply", "stateless_apply"):
            patches.wrap(LossScaleOptimizer, name, self._by_itself)

    def _by_itself(self, original: Method) -> Method:
        """A LossScaleOptimizer skips by itself, and what it wraps is part of it."""

        def by_itself(*args: Any, **kwargs: Any) -> Any:
            before, self._within = self._within, True
            try:
                return original(*args, **kwargs)
            finally:
                self._within = before

        return by_itself

    def _concerned(self, optimizer: Any) -> bool:
        compiled = self._takeover.compiled_optimizer()
        return compiled is not None and not self._within and optimizer is not compiled

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if not self._concerned(optimizer):
                original(optimizer, grads, trainable_variables)
                return
            grads = list(grads)
            if not optimizer.built and trainable_variables is not None:
                backend.outside_of_graphs(lambda: optimizer.build(trainable_variables))
            finite = _all_finite(grads)
            ops.cond(finite, lambda: original(optimizer, grads, trainable_variables), lambda: None)
            self._move(optimizer, finite)
            self._takeover.statistics.restore(finite)
            self._takeover.scaler.saw_further(finite)

        return apply

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(optimizer: Any, variables: Any, grads: Any, trainable: Any) -> Any:
            if not self._concerned(optimizer):
                return original(optimizer, variables, grads, trainable)
            self._takeover.warn(FIXED)
            finite = _all_finite(grads)
            weights, state = original(optimizer, variables, grads, trainable)
            self._takeover.scaler.saw_further(finite)
            pairs = [zip(weights, trainable, strict=True), zip(state, variables, strict=True)]
            kept = [[ops.where(finite, new, old) for new, old in pair] for pair in pairs]
            return kept[0], kept[1]

        return stateless_apply

    def _move(self, optimizer: Any, finite: Any) -> None:
        """The scale of the compiled optimizer for the next step, as :meth:`DynamicScale.next` has it."""
        recipe, scaler = self._recipe, self._takeover.compiled_optimizer()
        if not isinstance(recipe, DynamicScale) or self._own is None:
            return
        if self._first is None or self._first() is None:
            self._first = weakref.ref(optimizer)
        scale, count = (scaler.dynamic_scale, scaler.step_counter) if scaler.built else self._own
        rule = replace(recipe, interval=scaler.dynamic_growth_steps)
        first = self._first() is optimizer
        value, counted = rule.next_of(ops, scale.value, count.value, finite, counts=first)
        scale.assign(value)
        count.assign(counted)


def _all_finite(grads: Any) -> Any:
    return ops.all(ops.stack([ops.all(ops.isfinite(g)) for g in grads if g is not None]))
