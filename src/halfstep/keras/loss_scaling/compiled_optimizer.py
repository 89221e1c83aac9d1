"""The optimizer of a compiled model under a loss scale: a LossScaleOptimizer that the script sees as its own optimizer.

A script may read and set hyperparameters of ``model.optimizer`` and ask for its class. These are those of the
optimizer with which it compiled the model.
"""

from __future__ import annotations

from typing import Any

from keras.optimizers import LossScaleOptimizer

from halfstep.codec import JsonObject

#: the attributes of the LossScaleOptimizer itself; every other public name is the inner optimizer's
_OWN = {
    "inner_optimizer", "initial_scale", "dynamic_growth_steps", "dynamic_scale", "step_counter", "built", "name",
}  # fmt: skip

#: attributes of every optimizer, with the values that a LossScaleOptimizer has while it is built, and only then
_SHARED = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


def scaled(optimizer: Any) -> Any:
    """``optimizer`` under a loss scale; ``isinstance`` finds both its class and LossScaleOptimizer."""
    kind = type(optimizer)
    made: Any = type(kind.__name__, (_Scaled,), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    return made(optimizer, name=optimizer.name)


def inside(optimizer: Any) -> Any:
    """The script's own optimizer of what :func:`scaled` made; any other as it is."""
    return optimizer.inner_optimizer if isinstance(optimizer, _Scaled) else optimizer


class _Scaled(LossScaleOptimizer):  # type: ignore[misc]
    """Works as a LossScaleOptimizer, looks like the optimizer inside."""

    def __init__(self, optimizer: Any, name: str) -> None:
        super().__init__(optimizer, name=name)
        self._forget_shared()

    def _forget_shared(self) -> None:
        for name in _SHARED:
            self.__dict__.pop(name, None)

    def build(self, variables: Any) -> None:
        """Make the scale's variables, and the inner optimizer's."""
        self.__dict__.update(_SHARED)
        try:
            super().build(variables)
        finally:
            self._forget_shared()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.inner_optimizer) if "inner_optimizer" in self.__dict__ else type(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "inner_optimizer" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in _OWN or name.startswith("_") or "inner_optimizer" not in self.__dict__
        if own:
            super().__setattr__(name, value)
        else:
            setattr(self.inner_optimizer, name, value)

    def get_config(self) -> JsonObject:
        """The inner optimizer's: what the script saves is what it made."""
        config: JsonObject = self.inner_optimizer.get_config()
        return config

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        """The inner optimizer's."""
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)
