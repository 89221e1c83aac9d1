"""The script's own ``jax.grad`` and ``jax.value_and_grad`` under a loss scale.

Under a loss scale S the differentiated function is multiplied by S, and the gradients are divided by S (a power of two,
so exact in fp32). Where the gradients are not finite, running statistics that the function returns beside its loss are
replaced by those from before the pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.experimental import io_callback

from halfstep.keras.dtypes import LARGEST_FP16
from halfstep.keras.runtime import Runtime
from halfstep.keras.step import StepState
from halfstep.takeover.patches import Method, Patches

_SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


@dataclass(eq=False)
class Gradients:
    """Every gradient that Keras does not compute itself."""

    _guards: bool
    _step: StepState
    _runtime: Runtime
    ask: Callable[[], Any]  #: called when the program makes a pass; gives the scale
    add_loss: Callable[[Any], None]  #: called when the program has made a pass, with its loss
    passes: int = 0  #: how many passes of the script's own loops were made eagerly, or traced
    _own_scale: bool = False
    _statistics: list[tuple[Any, Any]] = field(default_factory=list)

    def install(self, patches: Patches) -> None:
        """Scale, and keep running statistics."""
        patches.wrap(jax, "value_and_grad", self._value_and_grad)
        patches.wrap(jax, "grad", self._grad)
        patches.wrap(keras.Layer, "stateless_call", self._stateless_call)

    def _grad(self, original: Method) -> Method:
        def grad(fun: Method, argnums: Any = 0, has_aux: bool = False, *args: Any, **kwargs: Any) -> Method:
            both = jax.value_and_grad(fun, argnums, has_aux, *args, **kwargs)

            @functools.wraps(original(fun, argnums, has_aux, *args, **kwargs))
            def gradient(*inputs: Any, **named: Any) -> Any:
                value, found = both(*inputs, **named)
                return (found, value[1]) if has_aux else found

            return gradient

        return grad

    def _value_and_grad(self, original: Method) -> Method:
        def value_and_grad(
            fun: Method,
            argnums: Any = 0,
            has_aux: bool = False,
            holomorphic: bool = False,
            allow_int: bool = False,
        ) -> Method:
            plain = original(fun, argnums, has_aux, holomorphic, allow_int)

            @functools.wraps(plain)
            def gradient(*args: Any, **kwargs: Any) -> Any:
                training = self._step.training
                if self._step.busy or holomorphic:
                    return plain(*args, **kwargs)
                scale = self._scale_here(training)
                if training and scale is None:
                    result = plain(*args, **kwargs)
                    self._step.pass_begins([result[0][0] if has_aux else result[0]])
                    return result
                with self._step.part_of_loop():
                    value = self._scaled(fun, has_aux, scale)
                    scaled = original(value, argnums, True, False, allow_int)
                    (_, (loss, aux, olds, factor)), found = scaled(*args, **kwargs)
                    if factor is not None:
                        found = jax.tree.map(lambda g: _times(g, 1 / factor), found)
                    self._step.pass_scaled()
                    if training:
                        self._step.pass_begins([loss])
                    else:
                        aux = self._kept(aux, olds, found)
                        self._pass(loss)
                return ((loss, aux) if has_aux else loss), found

            return gradient

        return value_and_grad

    def _scale_here(self, training: bool) -> Any:
        """The scale of a pass that begins; in a model's train_step it is the optimizer's, a value in the program."""
        if not self._guards:
            return None
        if training:
            seen = self._step.within.seen
            return None if seen is None else seen.scale
        return io_callback(self.ask, _SCALAR, ordered=True)

    def _scaled(self, fun: Method, has_aux: bool, scale: Any) -> Method:
        """``fun`` times the scale. Beside it: the loss, the other results, the statistics from before, the factor."""

        def scaled(*args: Any, **kwargs: Any) -> Any:
            self._step.begin_pass()
            self._statistics = []
            value, aux = fun(*args, **kwargs) if has_aux else (fun(*args, **kwargs), None)
            olds = [self._old(leaf) for leaf in jax.tree.leaves(aux)]
            self._statistics = []  # values of this trace must not be used outside of it
            self._own_scale = self._step.loss_scaled
            if scale is None or self._step.loss_scaled:
                return value, (value, aux, olds, None)
            factor = jnp.minimum(scale, LARGEST_FP16) if value.dtype == jnp.float16 else scale
            return value * factor.astype(value.dtype), (value, aux, olds, factor)

        return scaled

    def _stateless_call(self, original: Method) -> Method:
        def stateless_call(
            layer: Any, /, trainable_variables: Any, non_trainable_variables: Any, *args: Any, **kwargs: Any
        ) -> Any:
            result = original(layer, trainable_variables, non_trainable_variables, *args, **kwargs)
            if self._step.busy and self._guards and not self._step.training:
                self._statistics += zip(result[1], non_trainable_variables, strict=True)
            return result

        return stateless_call

    def _old(self, leaf: Any) -> Any:
        """The value before the pass of a running statistic that ``stateless_call`` returned; None for all else."""
        return next((old for new, old in self._statistics if new is leaf), None)

    def _kept(self, aux: Any, olds: list[Any], found: Any) -> Any:
        """``aux`` with running statistics as they were before a pass whose gradients are not finite."""
        leaves, tree = jax.tree.flatten(aux)
        if all(old is None for old in olds):
            return aux
        finite = self._runtime.all_finite(found)
        kept = [
            new if old is None else jnp.where(finite, new, old) for new, old in zip(leaves, olds, strict=True)
        ]
        return jax.tree.unflatten(tree, kept)

    def _pass(self, loss: Any) -> None:
        self.passes += 1
        if not self._own_scale:  # a loss that the script has scaled is not recorded
            io_callback(self.add_loss, None, jax.lax.stop_gradient(loss), ordered=True)


def _times(gradient: Any, factor: Any) -> Any:
    floating = jnp.issubdtype(gradient.dtype, jnp.floating)
    return gradient * factor.astype(gradient.dtype) if floating else gradient
