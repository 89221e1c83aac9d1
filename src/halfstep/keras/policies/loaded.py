"""Models and optimizers read back from a file that was written under another precision.

Keras writes every layer's policy into the file, so that a model saved in float32 would stay there, whatever the
recipe; and it drops an optimizer's slots where one of the two optimizers scales the loss and the other does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import saving_api

from halfstep.keras.policies.policy import Policies, policy_of, replace_everywhere
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]


class Loaded:
    """What ``load_model`` gives the program.

    Args:
        takeover: Keras's.
        policies: knows whether a file named 16 bits.
    """

    def __init__(self, takeover: Takeover, policies: Policies) -> None:
        self._takeover = takeover
        self._policies = policies
        self._policy = policy_of(takeover.recipe)
        self._filled: set[int] = set()

    def install(self, patches: Patches) -> None:
        """Let the recipe's policy win over the file's, and slots find their optimizer."""
        original = saving_api.load_model

        @functools.wraps(original)
        def load_model(*args: Any, **kwargs: Any) -> Any:
            before = self._policies.asked
            model = original(*args, **kwargs)
            if self._policies.asked == before:
                self._adopt(model)
            return model

        replace_everywhere(original, load_model, patches)
        patches.wrap(BaseOptimizer, "load_own_variables", self._load_own_variables)

    def _adopt(self, model: Any) -> None:
        """Give the recipe's policy to the layers of a file of float32, which does not tell who was meant to stay there.

        A file that names 16 bits does tell: its layers of 16 bits have the recipe's policy, and those of float32 stay.
        """
        layers = [
            layer
            for layer in model._flatten_layers()
            if type(layer.dtype_policy) is keras.DTypePolicy and layer.dtype_policy.name == "float32"
        ]
        for layer in layers:
            if not isinstance(layer, keras.layers.InputLayer):
                layer.dtype_policy = self._policy
        if not self._takeover.recipe.mixed and any(
            v.dtype != self._policy for v in model.trainable_variables
        ):
            self._takeover.warn(
                f"weights of a model that was loaded stay in {model.trainable_variables[0].dtype}, as they were saved"
            )

    def _load_own_variables(self, original: Method) -> Method:
        def load_own_variables(optimizer: Any, store: Any) -> None:
            if not store.keys() and id(optimizer) in self._filled:
                return
            scales = isinstance(optimizer, LossScaleOptimizer)
            if scales and len(store.keys()) == len(optimizer.inner_optimizer.variables):
                optimizer = optimizer.inner_optimizer
                self._filled.add(id(optimizer))
            original(optimizer, store if scales else _without_scale(store, optimizer.variables))

        return load_own_variables


def _without_scale(store: Any, variables: Sequence[Any]) -> Any:
    """The part of ``store`` that is for ``variables``: a LossScaleOptimizer puts its own, scalars, before them."""
    extra = len(store.keys()) - len(variables)
    stored = [store[str(i)] for i in range(len(store.keys()))]
    scalars = extra > 0 and all(tuple(value.shape) == () for value in stored[:extra])
    fits = all(
        tuple(s.shape) == tuple(v.shape) for s, v in zip(stored[max(extra, 0) :], variables, strict=False)
    )
    return {str(i): value for i, value in enumerate(stored[extra:])} if scalars and fits else store
