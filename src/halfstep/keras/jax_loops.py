"""JAX loops of the script's own: ``jax.grad`` and ``stateless_apply`` or ``apply`` of an optimizer of Keras's.

Under a loss scale S the function that is differentiated is multiplied by S, and the gradients divided by it (a power
of two, so exact in fp32); a step whose gradients are not finite keeps the old values, by a selection inside the
program. What lasts from step to step stays in Python: compiled programs ask for it, and tell of a step, by an ordered
callback, which costs a call into Python for each.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import io_callback
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.jax_programs import Programs
from halfstep.keras.recorder import Seen
from halfstep.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

#: the largest power of two in fp16, for losses that the script computes in it
_LARGEST_FP16 = 2.0**15

_SCALAR = jax.ShapeDtypeStruct((), jnp.float32)

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
        self._passes = 0
        self._takeover = takeover
        self._guards = takeover.recipe.guards
        self._scale = takeover.recipe.loss_scale
        self._programs = Programs(takeover, self)
        self._busy = False
        self._passed = False
        self._own_scale = False
        self._statistics: list[tuple[Any, Any]] = []
        self._loss: float | None = None
        self._rows: list[Seen] = []
        self._primary: weakref.ref[Any] | None = None

    def install(self, patches: Patches) -> None:
        """Scale, guard and record."""
        patches.wrap(jax, "value_and_grad", self._value_and_grad)
        patches.wrap(jax, "grad", self._grad)
        patches.wrap(keras.Layer, "stateless_call", self._stateless_call)
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
        return UNGUARDED if self._passes else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What is called inside (an optimizer within another, a gradient of a gradient) is part of what has begun."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

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
                scale = None if self._busy or holomorphic else self._scale_here(training)
                if self._busy or holomorphic or (training and scale is None):
                    return plain(*args, **kwargs)
                with self._alone():
                    value = self._scaled(fun, has_aux, scale)
                    _, (loss, aux, olds, factor), found = _flat(
                        original(value, argnums, True, False, allow_int)(*args, **kwargs)
                    )
                    if factor is not None:
                        found = jax.tree.map(lambda g: _times(g, 1 / factor), found)
                    self._passed = True
                    if not training:
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
            self._own_scale = scaler.pending
            if scale is None or scaler.pending:
                return value, (value, aux, olds, None)
            factor = jnp.minimum(scale, _LARGEST_FP16) if value.dtype == jnp.float16 else scale
            return value * factor.astype(value.dtype), (value, aux, olds, factor)

        return scaled

    def _stateless_call(self, original: Method) -> Method:
        def stateless_call(layer: Any, trained: Any, others: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(layer, trained, others, *args, **kwargs)
            if self._busy and self._guards:
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
        finite = _all_finite(found)
        kept = [
            new if old is None else jnp.where(finite, new, old) for new, old in zip(leaves, olds, strict=True)
        ]
        return jax.tree.unflatten(tree, kept)

    def _pass(self, loss: Any) -> None:
        self._passes += 1
        if not self._own_scale:  # a loss that the script has scaled is not the one to show
            io_callback(self._saw, None, jax.lax.stop_gradient(loss), ordered=True)

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(optimizer: Any, variables: Any, grads: Any, trainable: Any) -> Any:
            if self._takeover.training or self._busy:
                return original(optimizer, variables, grads, trainable)
            grads, finite, scale = list(grads), True, self._own_scale_of(optimizer, variables)
            if self._guards and scale is None:
                self._warn_unscaled()
                finite = _all_finite(grads)
            with self._alone():
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
            if self._takeover.training or self._busy:
                original(optimizer, grads, trainable_variables)
                return
            grads, finite, scale = list(grads), True, self._own_scale_of(optimizer, None)
            if self._guards and scale is None:
                self._warn_unscaled()
                finite = bool(_all_finite(grads))
            with self._alone():
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
        if not self.took_pass() and self._scale.guards:
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


def _flat(result: Any) -> tuple[Any, Any, Any]:
    (value, aux), found = result
    return value, aux, found


def _like(new: Any, *old: Any) -> Any:
    """``old`` in the containers that ``new`` has."""
    return jax.tree.unflatten(jax.tree.structure(new), jax.tree.leaves(old))


def _times(gradient: Any, factor: Any) -> Any:
    floating = jnp.issubdtype(gradient.dtype, jnp.floating)
    return gradient * factor.astype(gradient.dtype) if floating else gradient


def _all_finite(grads: Any) -> Any:
    """Whether every gradient is, one flag for all: one pass over them."""
    leaves = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(g.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, [jnp.isfinite(g).all() for g in leaves], jnp.bool_(True))
