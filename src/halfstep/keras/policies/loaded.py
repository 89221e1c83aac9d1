"""Models and optimizers that are loaded from a file that was written in another precision.

Keras writes every layer's policy into the file, so a model that was saved in float32 would stay in float32. And Keras
drops the slots of an optimizer if either the saved or the loaded one scales the loss, but not both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import saving_api

from halfstep.keras.policies.policy import Policies, policy_of, wrap_everywhere
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Method, Patches


class Loaded:
    """What ``load_model`` gives the program."""

    def __init__(self, recipe: Recipe, policies: Policies, warn: Callable[[str], None]) -> None:
        self._mixed = recipe.mixed
        self._warn = warn
        self._policies = policies
        self._policy = policy_of(recipe)
        self._filled: set[int] = set()

    def install(self, patches: Patches) -> None:
        """Replace the file's policy by the recipe's, and give an optimizer the slots in the file."""
        wrap_everywhere(saving_api.load_model, self._load_model, patches)
        patches.wrap(BaseOptimizer, "load_own_variables", self._load_own_variables)

    def _load_model(self, original: Method) -> Method:
        def load_model(*args: Any, **kwargs: Any) -> Any:
            before = self._policies.asked
            model = original(*args, **kwargs)
            if self._policies.asked == before:
                self._adopt(model)
            return model

        return load_model

    def _adopt(self, model: Any) -> None:
        """Give the recipe's policy to the float32 layers of a file that names no 16 bits.

        In a file that does name 16 bits, the author has asked for a float32 layer.
        """
        layers = [
            layer
            for layer in model._flatten_layers()
            if type(layer.dtype_policy) is keras.DTypePolicy and layer.dtype_policy.name == "float32"
        ]
        for layer in layers:
            if not isinstance(layer, keras.layers.InputLayer):
                layer.dtype_policy = self._policy
        if not self._mixed and any(v.dtype != self._policy for v in model.trainable_variables):
            self._warn(
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
