"""Data parallelism: gradients that arrive from other ranks, for parameters that this rank's graph does not name.

DistributedDataParallel with ``find_unused_parameters`` gives each parameter the average of the ranks that did use it,
inside the backward pass. Programs that reduce gradients by hand write them by collectives, which PyTorch does not count
as writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches
from halfstep.takeover.identity import IdentitySet

#: collectives that write into their arguments; not every version of PyTorch has all of them
_WRITING = (
    "all_gather", "all_gather_into_tensor", "all_gather_single", "all_reduce", "all_reduce_coalesced", "all_to_all",
    "all_to_all_single", "broadcast", "irecv", "recv", "reduce", "reduce_scatter", "reduce_scatter_single",
    "reduce_scatter_tensor", "scatter",
)  # fmt: skip


class DataParallel:
    """Tells a scaling about gradients that come from other ranks."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._partly_used: IdentitySet[DistributedDataParallel] = IdentitySet()

    def install(self, patches: Patches) -> None:
        """Wrap what makes replicas, and collectives."""
        patches.wrap(DistributedDataParallel, "__init__", self._init)
        if torch.distributed.is_available():
            for home in (torch.distributed, torch.distributed.distributed_c10d):
                patches.wrap_each(home, _WRITING, self._collective)

    @property
    def expects_more(self) -> bool:
        """Whether a pass may bring gradients for parameters that are not among its leaves."""
        return bool(self._partly_used)

    def unused(self, leaves: Iterable[Tensor]) -> list[Tensor]:
        """The parameters outside of ``leaves`` for which a pass into ``leaves`` may bring a gradient."""
        if not self._partly_used:
            return []
        reached = set(map(id, leaves))
        models = [[p for p in model.parameters() if p.requires_grad] for model in self._partly_used]
        return [p for parameters in models if not reached.isdisjoint(map(id, parameters)) for p in parameters]

    def _init(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(model: Any, *args: Any, **kwargs: Any) -> None:
            original(model, *args, **kwargs)
            if model.find_unused_parameters or model.static_graph:
                self._partly_used.add(model)

        return __init__

    def _collective(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def collective(*args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                self._scaling.finite_cache.written(tensors_of((*args, *kwargs.values())))
            return original(*args, **kwargs)

        return collective
