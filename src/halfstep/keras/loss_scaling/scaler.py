"""Keras's own LossScaleOptimizer under the recipe: added by ``compile``, with the recipe's scale, floor and ceiling.

Keras halves a scale without a floor, so that it can reach zero, and divides gradients by the scale whether or not the
loss was multiplied by it. Here the scale stays within the recipe's bounds. Where a model's own ``train_step`` did not
hand its loss to ``scale_loss``, its gradients are not divided.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops
from keras.optimizers import LossScaleOptimizer
from keras.src.legacy.saving import legacy_h5_format
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.trainer import Trainer

from halfstep.keras.loss_scaling.compiled_optimizer import inside, scaled
from halfstep.keras.loss_scaling.statistics import NullStatistics
from halfstep.keras.notices import Notices
from halfstep.keras.runtime import Runtime
from halfstep.keras.step import StepState
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Method, Patches

UNSCALED = (
    "the model's own train_step does not hand its loss to optimizer.scale_loss, and its gradients come from no "
    "jax.grad that was taken from jax after keras was imported: the loss was not scaled"
)


@dataclass(eq=False)
class Scaler:
    """The loss scale of every LossScaleOptimizer, in a step that is traced or run eagerly."""

    _recipe: Recipe
    _runtime: Runtime
    _step: StepState
    _statistics: NullStatistics
    _notices: Notices
    _ours: bool = False
    _unbuilt: tuple[Any, Any] | None = None

    @property
    def _rests(self) -> bool:
        return not (self._recipe.guards or self._recipe.as_is)

    def install(self, patches: Patches) -> None:
        """Put the recipe's scale into force, or, where it has none, let the script's scalers rest."""
        if self._rests:
            patches.set(LossScaleOptimizer, "scale_loss", lambda optimizer, loss: loss)
            patches.set(LossScaleOptimizer, "apply", _resting_apply)
            patches.set(LossScaleOptimizer, "stateless_apply", _resting_stateless_apply)
        for cls in (BaseOptimizer, LossScaleOptimizer):
            patches.wrap(cls, "scale_loss", self._scale_loss)
        patches.wrap(LossScaleOptimizer, "check_finite", self._check_finite)
        patches.wrap(LossScaleOptimizer, "__init__", self._init)
        if not self._recipe.as_is:
            patches.wrap(Trainer, "compile", self._compile)
        if self._recipe.guards:
            patches.wrap(LossScaleOptimizer, "apply", self._apply)
            patches.wrap(LossScaleOptimizer, "stateless_apply", self._stateless_apply)
            patches.wrap(legacy_h5_format, "save_optimizer_weights_to_hdf5_group", _save_inside)

    def scale_of(self, optimizer: Any, state: Sequence[Any] | None = None) -> Any:
        """The scale of ``optimizer``'s next step, or None if it has none.

        Args:
            optimizer: a model's optimizer.
            state: on JAX the values of its variables, which hold none of their own inside a traced step.
        """
        if self._rests or not isinstance(optimizer, LossScaleOptimizer):
            return None
        if not optimizer.built:
            return optimizer.initial_scale if self._unbuilt is None else self._unbuilt[0].value
        return optimizer.dynamic_scale.value if state is None else state[_index(optimizer)]

    def prepare(self) -> None:
        """Make the variables of an optimizer that never steps, now that no graph is being traced."""
        if self._recipe.guards and self._unbuilt is None and not self._runtime.functional:
            scale = self._recipe.loss_scale.value
            self._unbuilt = (
                keras.Variable(scale, dtype="float32", trainable=False, autocast=False),
                keras.Variable(0, dtype="int32", trainable=False),
            )

    def variables_of(self, optimizer: Any) -> tuple[Any, Any] | None:
        """The scale and the count of finite steps of a LossScaleOptimizer, which may itself never step."""
        return (optimizer.dynamic_scale, optimizer.step_counter) if optimizer.built else self._unbuilt

    def _compile(self, original: Method) -> Method:
        signature = inspect.signature(original)

        def compile(model: Any, /, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(model, *args, **kwargs)
            bound.arguments["auto_scale_loss"] = False
            original(*bound.args, **bound.kwargs)
            optimizer = model.optimizer
            plain = optimizer is not None and not isinstance(optimizer, LossScaleOptimizer)
            if plain and self._recipe.guards:
                self._ours = True
                model.optimizer = scaled(optimizer)
                self._ours = False

        return compile

    def _init(self, original: Method) -> Method:
        scale = self._recipe.loss_scale

        def __init__(optimizer: Any, /, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            if not self._ours:
                self._notices.own_amp("LossScaleOptimizer")
            # Numbers that the script chose itself stay, unless the user asked for others.
            chosen = len(args) > 1 or "initial_scale" in kwargs
            if self._recipe.guards and not (chosen and scale == DynamicScale()):
                optimizer.initial_scale = scale.value
                if isinstance(scale, DynamicScale):
                    optimizer.dynamic_growth_steps = scale.interval

        return __init__

    def _scale_loss(self, original: Method) -> Method:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            self._step.loss_known(loss)
            if isinstance(optimizer, LossScaleOptimizer) and not self._rests:
                self._step.scaled(lambda: self.scale_of(optimizer))
            return original(optimizer, loss)

        return scale_loss

    def _check_finite(self, original: Method) -> Method:
        def check_finite(optimizer: Any, grads: Any) -> Any:
            finite = original(optimizer, grads)
            self._step.checked(finite)
            return finite

        return check_finite

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._true_gradients():
                scale = self.scale_of(optimizer)
                grads = [None if g is None else ops.multiply(g, scale) for g in grads]
            original(optimizer, grads, trainable_variables)
            optimizer.dynamic_scale.assign(self._bounded(optimizer, optimizer.dynamic_scale))
            self._statistics.restore(self._step.finite)
            if self._runtime.adjacent_steps and not self._step.training:
                self._statistics.keep()
            self._step.applied()

        return apply

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(
            optimizer: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any
        ) -> Any:
            index = _index(optimizer)
            if self._true_gradients():
                if not self._step.take_pass():
                    self._notices.warn(UNSCALED)
                grads = [None if g is None else ops.multiply(g, optimizer_variables[index]) for g in grads]
            weights, state = original(optimizer, optimizer_variables, grads, trainable_variables)
            state = list(state)
            state[index] = self._bounded(optimizer, state[index])
            self._step.applied()
            return weights, state

        return stateless_apply

    def _true_gradients(self) -> bool:
        """Whether the loss of the train_step under way was not scaled by Keras."""
        return self._step.within.seen is not None and not self._step.loss_scaled

    def _bounded(self, optimizer: Any, scale: Any) -> Any:
        recipe = self._recipe.loss_scale
        if isinstance(recipe, DynamicScale):
            return ops.clip(scale, recipe.floor, recipe.ceiling)
        return ops.ones_like(scale) * optimizer.initial_scale


def _save_inside(original: Method) -> Method:
    """HDF5 knows variables by their paths, of which the scaling optimizer and the one inside share some."""

    def save(group: Any, optimizer: Any) -> None:
        original(group, inside(optimizer))

    return save


def _index(optimizer: Any) -> int:
    """Where the scale stands among the optimizer's variables."""
    return next(i for i, v in enumerate(optimizer.variables) if v is optimizer.dynamic_scale)


def _resting_apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
    """No scale, no test: the wrapped optimizer steps."""
    if not optimizer.built:
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(trainable_variables)
        optimizer.built = True
    optimizer.inner_optimizer.apply(grads, trainable_variables)


def _resting_stateless_apply(
    optimizer: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any
) -> Any:
    inner = optimizer.inner_optimizer
    own = len(optimizer_variables) - len(inner.variables)
    weights, state = inner.stateless_apply(optimizer_variables[own:], grads, trainable_variables)
    return weights, [*optimizer_variables[:own], *state]
