"""``torch.distributed.checkpoint`` keeps only the parts of an optimizer's state that it knows: the loss scale is added.

It lies beside ``state`` and ``param_groups``, flattened or not, as one tensor: [loss scale, finite steps since it
moved, skipped steps]. A checkpoint written without halfstep has none, and the scale then stays what it is.

To have something to fill, it also lets a new optimizer make a step with gradients of zero: none of the program's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halfstep.integrations.attached import Attached
from halfstep.passed_on import StateDict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfstep.pytorch.takeover import Takeover

KEY = "halfstep"
_FIELDS = ("loss_scale", "finite_steps", "skipped_steps")


def install(module: ModuleType, attached: Attached) -> None:
    """Take over ``torch.distributed.checkpoint``'s ``state_dict`` or ``default_planner``, just imported."""
    takeover = attached.takeover
    wrap, scaled = partial(takeover.patches.wrap, module), takeover.recipe.loss_scale.guards
    if not module.__name__.endswith("default_planner"):
        wrap("_init_optim_state", partial(_initializing, takeover))
        if scaled:
            carrier = _Carrier(attached)
            wrap("_get_optim_state_dict", carrier.getting)
            wrap("_load_optim_state_dict", carrier.loading)
    elif scaled:
        wrap("create_default_local_load_plan", _planning)


class _Carrier:
    """Puts the scale into the state that is saved, and takes it out of what is loaded."""

    def __init__(self, attached: Attached) -> None:
        self._scaling = attached.takeover.scaling
        self._device = attached.takeover.arithmetic.device
        self._loading = False

    def getting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get(*args: Any, **kwargs: Any) -> Any:
            state = original(*args, **kwargs)
            if state and not self._loading:  # nothing is saved by a rank that leaves it to the first
                state[KEY] = self._packed()
            return state

        return get

    def loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(model: Any, optimizers: Any, state_dict: StateDict, info: Any) -> Any:
            found = state_dict.get(KEY)
            with self._inside():
                result = original(model, optimizers, {k: v for k, v in state_dict.items() if k != KEY}, info)
            if info.handle_optim and info.broadcast_from_rank0:
                found = self._broadcast(found)
            if info.handle_optim and found is not None:
                scale, *counts = found.tolist()
                self._scaling.restore(dict(zip(_FIELDS, (scale, *map(int, counts)), strict=True)))
            return result

        return load

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """PyTorch asks for the current state while it loads another, as its pattern: that has to have its keys only."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def _packed(self) -> Tensor:
        state = self._scaling.state()
        return torch.tensor([float(state[field]) for field in _FIELDS], dtype=torch.float64)

    def _broadcast(self, found: Tensor | None) -> Tensor | None:
        """What rank 0 has read, on every rank: ranks with scales of their own would add up unlike gradients."""
        nothing = torch.full((len(_FIELDS),), float("nan"), dtype=torch.float64)
        shared = (nothing if found is None else found).to(self._device)
        torch.distributed.broadcast(shared, src=0)
        return None if shared.isnan().any() else shared


def _initializing(takeover: Takeover, original: Callable[..., None]) -> Callable[..., None]:
    def initialize(optimizer: Any) -> None:
        with takeover.other_steps():
            original(optimizer)

    return initialize


def _planning(original: Callable[..., Any]) -> Callable[..., Any]:
    def plan(state_dict: StateDict, metadata: Any, strict: bool = True) -> Any:
        """Do not miss our key in a checkpoint that was written without us."""
        stored = metadata.state_dict_metadata
        wanted = {k: v for k, v in state_dict.items() if k in stored or k.rpartition(".")[2] != KEY}
        return original(wanted, metadata, strict)

    return plan
