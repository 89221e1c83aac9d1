"""A diagnosis of Keras on PyTorch: its layers by their own names, and the steps of its optimizers, of ``fit`` too."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from torch import nn

from halfstep.keras.runtime import Runtime
from halfstep.pytorch.watching.modules import Part, named_parts
from halfstep.pytorch.watching.watch import TRIES, Watch
from halfstep.takeover.identity import IdentityDict
from halfstep.takeover.looks import look
from halfstep.takeover.patches import Method, Patches


def named_layers(outermost: nn.Module) -> Iterator[Part]:
    """The parts of a model, with all of Keras's layers, by the names that ``keep=`` uses.

    PyTorch does not know the layers of a functional or sequential model: Keras keeps them in lists.
    """
    for name, part, parameters in named_parts(outermost):
        if isinstance(part, keras.Layer):
            for layer in part._flatten_layers():
                names = {id(v._value): v.name for v in layer._trainable_variables}
                held = getattr(layer, "_torch_params", None) or nn.ParameterDict()  # none before it is built
                own = [(names[id(p)], held, key) for key, p in held._parameters.items() if id(p) in names]
                yield layer.name, layer, own
        else:
            yield name, part, parameters


class _AsTorch:
    """An optimizer of Keras's with the attributes of PyTorch's that the watch reads."""

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        group = {"params": [v._value for v in variables], "lr": float(inner.learning_rate)}
        self.param_groups = [group | {"eps": getattr(inner, "epsilon", None)}]


class WatchedSteps:
    """Every ``apply`` of an optimizer of Keras's is a step for the watch.

    Args:
        watch: the watch.
    """

    def __init__(self, watch: Watch, runtime: Runtime) -> None:
        self._watch, self._runtime, self._looks = watch, runtime, watch.looks
        self._inside = False
        self._first: weakref.ref[Any] | None = None
        self._seen: IdentityDict[Any, Any] = IdentityDict()

    def install(self, patches: Patches) -> None:
        """See the steps of all optimizers."""
        for cls in (BaseOptimizer, LossScaleOptimizer):
            patches.wrap(cls, "apply", self._apply)

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._inside:  # an optimizer inside another one
                original(optimizer, grads, trainable_variables)
                return
            grads = list(grads)
            variables = None if trainable_variables is None else list(trainable_variables)
            read = self._read(optimizer, grads, variables)
            if read is None:
                original(optimizer, grads, variables)
                return
            seen, finite = read
            self._inside = True
            self._watch.before_step(seen)
            try:
                original(optimizer, grads, variables)
            finally:
                self._inside = False
                self._watch.after_step(seen, finite, self._is_first(optimizer))

        return apply

    @look("watching: optimizers", TRIES)
    def _read(self, optimizer: Any, grads: Sequence[Any], variables: Any) -> tuple[Any, bool]:
        """The optimizer as the watch reads it, and whether its gradients are finite."""
        finite = bool(self._runtime.all_finite(grads))
        return self._as_torch(optimizer, variables or optimizer._trainable_variables), finite

    def _as_torch(self, optimizer: Any, variables: Sequence[Any]) -> Any:
        """As the watch reads it, the same for every step; its class has the optimizer's own name, which is shown."""
        if optimizer not in self._seen:
            kind = type(getattr(optimizer, "inner_optimizer", optimizer)).__name__
            self._seen[optimizer] = type(kind, (_AsTorch,), {})(optimizer, variables)
        return self._seen[optimizer]

    def _is_first(self, optimizer: Any) -> bool:
        if self._first is None or self._first() is None:
            self._first = weakref.ref(optimizer)
        return self._first() is optimizer
