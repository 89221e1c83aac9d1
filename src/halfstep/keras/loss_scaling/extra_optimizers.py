"""Optimizers that a model's own train_step steps beside the one that it was compiled with, as a GAN's has.

These optimizers know nothing of a loss scale. So the test for finite gradients, the skip, and the next value of the
scale are made here. Only the steps of the first of them that stepped count towards the growth of the scale.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from keras import ops
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.loss_scaling.scaler import Scaler
from halfstep.keras.loss_scaling.statistics import NullStatistics
from halfstep.keras.notices import Notices
from halfstep.keras.runtime import Runtime
from halfstep.keras.step import StepState
from halfstep.precisions.loss_scale import DynamicScale, LossScale
from halfstep.takeover.patches import Method, Patches

FIXED = (
    "the model's own train_step steps optimizers that it was not compiled with: on JAX a step of theirs with gradients "
    "that are not finite is skipped, but the loss scale does not follow"
)


@dataclass(eq=False)
class ExtraOptimizers:
    """Every optimizer that is not the compiled one, inside of a train_step."""

    _recipe: LossScale
    _runtime: Runtime
    _step: StepState
    _scaler: Scaler
    _statistics: NullStatistics
    _notices: Notices
    _first: weakref.ref[Any] | None = None

    def install(self, patches: Patches) -> None:
        """Guard them."""
        patches.wrap(BaseOptimizer, "apply", self._apply)
        patches.wrap(BaseOptimizer, "stateless_apply", self._stateless_apply)
        for name in ("apply", "stateless_apply"):
            patches.wrap(LossScaleOptimizer, name, self._by_itself)

    def _by_itself(self, original: Method) -> Method:
        """A LossScaleOptimizer skips steps by itself, and the optimizer inside of it is a part of it."""

        def by_itself(*args: Any, **kwargs: Any) -> Any:
            with self._step.part_of_loop() if self._step.training else nullcontext():
                return original(*args, **kwargs)

        return by_itself

    def _concerned(self, optimizer: Any) -> bool:
        compiled = self._step.within.optimizer
        return compiled is not None and not self._step.busy and optimizer is not compiled

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if not self._concerned(optimizer):
                original(optimizer, grads, trainable_variables)
                return
            grads = list(grads)
            if not optimizer.built and trainable_variables is not None:
                self._runtime.outside_of_graphs(lambda: optimizer.build(trainable_variables))
            finite = self._runtime.all_finite(grads)
            ops.cond(finite, lambda: original(optimizer, grads, trainable_variables), lambda: None)
            self._move(optimizer, finite)
            self._statistics.restore(finite)
            self._step.checked_extra(finite)

        return apply

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(
            optimizer: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any
        ) -> Any:
            if not self._concerned(optimizer):
                return original(optimizer, optimizer_variables, grads, trainable_variables)
            self._notices.warn(FIXED)
            finite = self._runtime.all_finite(grads)
            new = original(optimizer, optimizer_variables, grads, trainable_variables)
            self._step.checked_extra(finite)
            old = trainable_variables, optimizer_variables
            pairs = [zip(a, b, strict=True) for a, b in zip(new, old, strict=True)]
            weights, state = ([ops.where(finite, a, b) for a, b in pair] for pair in pairs)
            return weights, state

        return stateless_apply

    def _move(self, optimizer: Any, finite: Any) -> None:
        """Set the scale of the compiled optimizer for the next step by the rule of :meth:`DynamicScale.next`."""
        compiled = self._step.within.optimizer
        variables = self._scaler.variables_of(compiled)
        if not isinstance(self._recipe, DynamicScale) or variables is None:
            return
        if self._first is None or self._first() is None:
            self._first = weakref.ref(optimizer)
        scale, count = variables
        rule = replace(self._recipe, interval=compiled.dynamic_growth_steps)
        first = self._first() is optimizer
        value, counted = rule.next_of(ops, scale.value, count.value, finite, counts=first)
        scale.assign(value)
        count.assign(counted)
