"""``jax.grad`` and ``jax.value_and_grad`` of the script's under a loss scale.

Under a loss scale S the function that is differentiated is multiplied by S, and the gradients divided by it (a power
of two, so exact in fp32). Running statistics that the function gives beside its loss are those from before where the
gradients are not finite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras
from jax.experimental import io_callback

from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

#: the largest power of two in fp16, for losses that the script computes in it
_LARGEST_FP16 = 2.0**15

_SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


class Gradients:
    """Every gradient that is not Keras's own.

    Args:
        takeover: Keras's.
        ask: gives the scale of a pass, when the program makes it.
        saw: told of the loss of a pass, likewise.

    Attributes:
        busy: something has begun of which gradients and steps that are met now are part.
        passes: how many were met, or traced.
    """

    def __init__(self, takeover: Takeover, ask: Callable[[], Any], saw: Callable[[Any], None]) -> None:
        self.busy = False
        self.passes = 0
        self._takeover = takeover
        self._guards = takeover.recipe.guards
        self._ask = ask
        self._saw = saw
        self._passed = False
        self._own_scale = False
        self._statistics: list[tuple[Any, Any]] = []

    def install(self, patches: Patches) -> None:
        """Scale, and keep running statistics."""
        patches.wrap(jax, "value_and_grad", self._value_and_grad)
        patches.wrap(jax, "grad", self._grad)
        patches.wrap(keras.Layer, "stateless_call", self._stateless_call)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What is called inside (an optimizer within another, a gradient of a gradient) is part of what has begun."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

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
                training = self._takeover.training
                scale = None if self.busy or holomorphic else self._scale_here(training)
                if self.busy or holomorphic or (training and scale is None):
                    result = plain(*args, **kwargs)
                    if training and not self.busy and not holomorphic:
                        self._takeover.saw_pass([result[0][0] if has_aux else result[0]])
                    return result
                with self.alone():
                    value = self._scaled(fun, has_aux, scale)
                    _, (loss, aux, olds, factor), found = _flat(
                        original(value, argnums, True, False, allow_int)(*args, **kwargs)
                    )
                    if factor is not None:
                        found = jax.tree.map(lambda g: _times(g, 1 / factor), found)
                    self._passed = True
                    if training:
                        self._takeover.saw_pass([loss])
                    else:
                        aux = self._kept(aux, olds, found)
                        self._pass(loss)
                return ((loss, aux) if has_aux else loss), found

            return gradient

        return value_and_grad

    def _scale_here(self, training: bool) -> Any:
        """The scale of a pass that begins; in a model's train_step the optimizer's own, a value of the program's."""
        if not self._guards:
            return None
        if training:
            return self._takeover.model_scale()
        return io_callback(self._ask, _SCALAR, ordered=True)

    def took_pass(self) -> bool:
        """Whether a pass has been seen since the last time that this was asked."""
        passed, self._passed = self._passed, False
        return passed

    def _scaled(self, fun: Method, has_aux: bool, scale: Any) -> Method:
        """``fun`` times the scale; beside it what it gave, the statistics from before, and the factor."""

        def scaled(*args: Any, **kwargs: Any) -> Any:
            scaler = self._takeover.scaler
            scaler.pending, self._statistics = False, []
            value, aux = fun(*args, **kwargs) if has_aux else (fun(*args, **kwargs), None)
            olds = [self._old(leaf) for leaf in jax.tree.leaves(aux)]
            self._statistics = []  # they belong to this trace
            self._own_scale = scaler.pending
            if scale is None or scaler.pending:
                return value, (value, aux, olds, None)
            factor = jnp.minimum(scale, _LARGEST_FP16) if value.dtype == jnp.float16 else scale
            return value * factor.astype(value.dtype), (value, aux, olds, factor)

        return scaled

    def _stateless_call(self, original: Method) -> Method:
        def stateless_call(layer: Any, trained: Any, others: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(layer, trained, others, *args, **kwargs)
            if self.busy and self._guards and not self._takeover.training:
                self._statistics += zip(result[1], others, strict=True)
            return result

        return stateless_call

    def _old(self, leaf: Any) -> Any:
        """The value from before the pass of a running statistic that ``stateless_call`` gave; None of all else."""
        return next((old for new, old in self._statistics if new is leaf), None)

    def _kept(self, aux: Any, olds: list[Any], found: Any) -> Any:
        """``aux`` with running statistics as they were before a pass whose gradients are not finite."""
        leaves, tree = jax.tree.flatten(aux)
        if all(old is None for old in olds):
            return aux
        finite = all_finite(found)
        kept = [
            new if old is None else jnp.where(finite, new, old) for new, old in zip(leaves, olds, strict=True)
        ]
        return jax.tree.unflatten(tree, kept)

    def _pass(self, loss: Any) -> None:
        self.passes += 1
        if not self._own_scale:  # a loss that the script has scaled is not the one to show
            io_callback(self._saw, None, jax.lax.stop_gradient(loss), ordered=True)


def _flat(result: Any) -> tuple[Any, Any, Any]:
    (value, aux), found = result
    return value, aux, found


def _times(gradient: Any, factor: Any) -> Any:
    floating = jnp.issubdtype(gradient.dtype, jnp.floating)
    return gradient * factor.astype(gradient.dtype) if floating else gradient


def all_finite(grads: Any) -> Any:
    """Whether every gradient is, one flag for all: one pass over them."""
    leaves = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(g.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, [jnp.isfinite(g).all() for g in leaves], jnp.bool_(True))
