"""Gradients of parameters of which each rank holds a part: FSDP2 (``fully_shard``), tensor-parallel DTensors.

FSDP2's graph ends in whole parameters that it gathers for each pass. Inside the backward pass it reduces their
gradients into the sharded parameters, which are not in the graph; without a reduction
(``set_requires_gradient_sync(False)``) it may put them aside in another dtype. Both happen in ``post_backward`` of its
parameter groups, which is wrapped here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.devices import has_ranks
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.patches import Patches

_FSDP = "torch.distributed.fsdp._fully_shard._fsdp_param_group"


class Sharded:
    """Tells a scaling about the gradients that FSDP2 accumulates into."""

    def __init__(self, scaling: Scaling, patches: Patches) -> None:
        self._scaling = scaling
        self._patches = patches
        self._following = False

    def follow(self) -> None:
        """Follow FSDP2's reductions as soon as the program uses it; importing it would take half a second."""
        if not self._following and _FSDP in sys.modules:
            self._following = True
            self._patches.wrap(sys.modules[_FSDP].FSDPParamGroup, "post_backward", self._post_backward)

    def _post_backward(self, original: Callable[..., None]) -> Callable[..., None]:
        def post_backward(group: Any, *unused: Any) -> None:
            if self._scaling.active:
                self._scaling.pass_gradients.reach(_targets(group))
            original(group, *unused)

        return post_backward


class _PutAside:
    """A gradient that FSDP2 accumulates without reducing it, as the ``grad`` of an object."""

    def __init__(self, fsdp_parameter: Any) -> None:
        self._of = fsdp_parameter

    @property
    def grad(self) -> Tensor | None:
        return self._of.unsharded_accumulated_grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        self._of.unsharded_accumulated_grad = gradient


def _targets(group: Any) -> Iterator[Any]:
    for parameter in group.fsdp_params:
        yield parameter.sharded_param
        if not hasattr(parameter, "_halfstep_put_aside"):
            parameter._halfstep_put_aside = _PutAside(parameter)
        yield parameter._halfstep_put_aside


def agreed(finite: bool, optimizer: Optimizer) -> bool:
    """Whether the gradients are finite on every rank that holds a part of the optimizer's parameters.

    It takes one small reduction per mesh dimension, and a synchronisation. For whole parameters nothing is done: their
    gradients are equal on all ranks by the time of the step (DistributedDataParallel).
    """
    if not has_ranks():
        return finite
    for mesh in _meshes(optimizer):
        flag = torch.tensor(float(finite), device=mesh.device_type)
        for dimension in range(mesh.ndim):
            torch.distributed.all_reduce(
                flag, torch.distributed.ReduceOp.MIN, group=mesh.get_group(dimension)
            )
        finite = bool(flag)
    return finite


def _meshes(optimizer: Optimizer) -> list[Any]:
    """The device meshes of the optimizer's parameters, in the same order on every rank."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return list(dict.fromkeys(p.device_mesh for p in parameters if hasattr(p, "_local_tensor")))
