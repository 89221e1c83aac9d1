"""The loss scale rides in ``optimizer.state_dict()``, so that a checkpoint of any program restores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from halfstep.passed_on import StateDict
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.patches import Patches

_KEY = "halfstep"


def save_scale(scaling: Scaling, patches: Patches) -> None:
    """Let every optimizer save the state of ``scaling`` with its own, and restore it where the loaded state has one."""

    def saving(original: Callable[..., Any]) -> Callable[..., Any]:
        def state_dict(optimizer: Optimizer) -> StateDict:
            state: StateDict = original(optimizer)
            state[_KEY] = scaling.state()
            return state

        return state_dict

    def loading(original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(optimizer: Optimizer, state_dict: StateDict) -> None:
            original(optimizer, state_dict)
            if _KEY in state_dict:
                scaling.restore(state_dict[_KEY])

        return load_state_dict

    patches.wrap(Optimizer, "state_dict", saving)
    patches.wrap(Optimizer, "load_state_dict", loading)
