"""Keras's own LossScaleOptimizer under the recipe: added by ``compile``, with the recipe's scale, floor and ceiling.

Keras halves a scale without a floor, so that it can reach zero, and divides gradients by the scale whether or not the
loss was multiplied by it; here the scale stays within the recipe's bounds, and gradients of a loss that a model's own
``train_step`` did not hand to ``scale_loss`` are taken for what they are: true.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.trainer import Trainer

from halfstep.keras.loss_scaling.compiled_optimizer import scaled
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]


UNSCALED = (
    "the model's own train_step does not hand its loss to optimizer.scale_loss, and its gradients come from no "
    "jax.grad that was taken from jax after keras was imported: the loss was not scaled"
)


class Scaler:
    """What of the loss scale is decided while a step is traced, or run eagerly.

    Attributes:
        pending: the loss of the step under way has been scaled by Keras, its gradients not yet been applied.
        finite: what Keras found of the gradients of the step under way; None before it looked.
        further: the same of optimizers that the model was not compiled with; None where there are none.
    """

    def __init__(self, takeover: Takeover) -> None:
        self.pending = False
        self.finite: Any = None
        self.further: Any = None
        self._takeover = takeover
        self._recipe = takeover.recipe
        self._ours = False

    def install(self, patches: Patches) -> None:
        """Put the recipe's scale into force, or, where it has none, let the script's scalers rest."""
        patches.wrap(BaseOptimizer, "scale_loss", self._base_scale_loss)
        patches.wrap(LossScaleOptimizer, "check_finite", self._check_finite)
        if self._recipe.as_is:
            patches.wrap(LossScaleOptimizer, "__init__", self._noted)
            patches.wrap(LossScaleOptimizer, "scale_loss", self._scale_loss)
            return
        patches.wrap(Trainer, "compile", self._compile)
        patches.wrap(LossScaleOptimizer, "__init__", self._init if self._recipe.guards else self._noted)
        if self._recipe.guards:
            patches.wrap(LossScaleOptimizer, "scale_loss", self._scale_loss)
            patches.wrap(LossScaleOptimizer, "apply", self._apply)
            patches.wrap(LossScaleOptimizer, "stateless_apply", self._stateless_apply)
        else:
            patches.wrap(LossScaleOptimizer, "scale_loss", self._resting_scale_loss)
            patches.set(LossScaleOptimizer, "apply", _resting_apply)
            patches.set(LossScaleOptimizer, "stateless_apply", _resting_stateless_apply)

    def scale_of(self, optimizer: Any, state: Sequence[Any] | None = None) -> Any:
        """The scale of ``optimizer``'s next step, or None if it has none.

        Args:
            optimizer: a model's optimizer.
            state: on JAX the values of its variables, which hold none of their own inside a traced step.
        """
        resting = not (self._recipe.guards or self._recipe.as_is)
        if resting or not isinstance(optimizer, LossScaleOptimizer):
            return None
        if not optimizer.built:
            found = self._takeover.further.scale
            return optimizer.initial_scale if found is None else found
        return optimizer.dynamic_scale.value if state is None else state[_index(optimizer)]

    def saw_further(self, finite: Any) -> None:
        """An optimizer that the model was not compiled with has made a step, or skipped it."""
        self.further = finite if self.further is None else ops.logical_and(self.further, finite)

    @property
    def all_finite(self) -> Any:
        """Whether all gradients of the step under way are finite; None where nobody looked."""
        found = [x for x in (self.finite, self.further) if x is not None]
        return None if not found else found[0] if len(found) == 1 else ops.logical_and(*found)

    def _compile(self, original: Method) -> Method:
        signature = inspect.signature(original)

        def compile(model: Any, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(model, *args, **kwargs)
            bound.arguments["auto_scale_loss"] = False
            original(*bound.args, **bound.kwargs)
            optimizer = model.optimizer
            if (
                optimizer is not None
                and self._recipe.guards
                and not isinstance(optimizer, LossScaleOptimizer)
            ):
                self._ours = True
                model.optimizer = scaled(optimizer)
                self._ours = False

        return compile

    def _init(self, original: Method) -> Method:
        scale = self._recipe.loss_scale

        def __init__(optimizer: Any, inner: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, inner, *args, **kwargs)
            if not self._ours:
                self._takeover.note_own_amp("LossScaleOptimizer")
            # Numbers that the script chose itself stay, unless the user asked for others.
            if (args or "initial_scale" in kwargs) and scale == DynamicScale():
                return
            optimizer.initial_scale = scale.value
            if isinstance(scale, DynamicScale):
                optimizer.dynamic_growth_steps = scale.interval

        return __init__

    def _noted(self, original: Method) -> Method:
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self._takeover.note_own_amp("LossScaleOptimizer")

        return __init__

    def _base_scale_loss(self, original: Method) -> Method:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            self._takeover.saw_loss(loss)
            return original(optimizer, loss)

        return scale_loss

    def _scale_loss(self, original: Method) -> Method:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            self._takeover.saw_loss(loss)
            self.pending = True
            self._takeover.beneath.rests(True)
            return original(optimizer, loss)

        return scale_loss

    def _resting_scale_loss(self, original: Method) -> Method:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            self._takeover.saw_loss(loss)
            return loss

        return scale_loss

    def _check_finite(self, original: Method) -> Method:
        def check_finite(optimizer: Any, gradients: Any) -> Any:
            self.finite = original(optimizer, gradients)
            return self.finite

        return check_finite

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._true_gradients():
                scale = self.scale_of(optimizer)
                grads = [None if g is None else ops.multiply(g, scale) for g in grads]
            original(optimizer, grads, trainable_variables)
            optimizer.dynamic_scale.assign(self._bounded(optimizer, optimizer.dynamic_scale))
            self._takeover.statistics.restore(self.finite)
            self._takeover.loop_goes_on()
            self._done()

        return apply

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(optimizer: Any, variables: Any, grads: Any, trainable_variables: Any) -> Any:
            index = _index(optimizer)
            if self._true_gradients():
                if not self._takeover.took_pass():
                    self._takeover.warn(UNSCALED)
                grads = [None if g is None else ops.multiply(g, variables[index]) for g in grads]
            weights, state = original(optimizer, variables, grads, trainable_variables)
            state = list(state)
            state[index] = self._bounded(optimizer, state[index])
            self._done()
            return weights, state

        return stateless_apply

    def _true_gradients(self) -> bool:
        """Whether the loss of the train_step under way was not scaled by Keras."""
        return self._takeover.in_train_step and not self.pending

    def _bounded(self, optimizer: Any, scale: Any) -> Any:
        recipe = self._recipe.loss_scale
        if isinstance(recipe, DynamicScale):
            return ops.clip(scale, recipe.floor, recipe.ceiling)
        return ops.ones_like(scale) * optimizer.initial_scale

    def _done(self) -> None:
        self.pending = False
        self._takeover.beneath.rests(False)


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


def _resting_stateless_apply(optimizer: Any, variables: Any, grads: Any, trainable_variables: Any) -> Any:
    own = len(variables) - len(optimizer.inner_optimizer.variables)
    weights, inner = optimizer.inner_optimizer.stateless_apply(variables[own:], grads, trainable_variables)
    return weights, [*variables[:own], *inner]
