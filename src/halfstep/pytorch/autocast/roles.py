"""The role of a module that a script calls with no other module's call around it: a model, a layer, or neither."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches
from halfstep.takeover.identity import IdentityDict, IdentitySet

_NAMED_AS_A_LOSS = re.compile(r"loss|criterion|objective", re.IGNORECASE)


class Role(enum.Enum):
    """What a module is that is called from outside of every other module's call."""

    #: it has parts and parameters, or is one layer that holds all parameters of an optimizer
    MODEL = "model"
    #: a module without parts, one of several that the script calls by itself
    LAYER = "layer"
    #: no parameters (an activation, a loss, a container for functions), a module used as a loss, or one that computes
    #: the weight of a layer, wherever that is read
    NONE = "none"


class Roles:
    """Tells the role of a module, and which parameters calls have reached so far."""

    def __init__(self) -> None:
        self._known: IdentityDict[nn.Module, Role] = IdentityDict()
        self._optimizers: IdentitySet[Optimizer] = IdentitySet()
        self._reached: set[int] | None = set()
        self._called: IdentitySet[nn.Module] = IdentitySet()
        self._swapped = False
        self._compiled: set[torch.Size] = set()

    def install(self, patches: Patches) -> None:
        """Notice it when optimizers are given their parameters."""
        patches.wrap(Optimizer, "add_param_group", self._noticing)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Take in optimizers that were given their parameters before."""
        self._optimizers.update(optimizers)

    def _noticing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def add_param_group(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            self._optimizers.add(optimizer)
            return original(optimizer, *args, **kwargs)

        return add_param_group

    def of(self, module: nn.Module, args: Iterable[Any]) -> Role:
        """The role of ``module``, which is about to be called with ``args``."""
        known = self._known.get(module)
        role = self._told_by_itself(module) if known is None else known
        if role is Role.LAYER and known is None:
            role = self._layer(module)
        elif known is None and role is not Role.NONE:  # a module may make its parts in its first call
            self._known[module] = role
        if role is not Role.NONE and _is_used_as_a_loss(module, args):
            return Role.NONE
        if role is not Role.NONE and self._reached is not None:
            self._reach(module)
        return role

    def _told_by_itself(self, module: nn.Module) -> Role:
        if next(iter(module.parameters()), None) is None or isinstance(module, _Loss | ParametrizationList):
            return Role.NONE
        return Role.MODEL if module._modules else Role.LAYER

    def _layer(self, module: nn.Module) -> Role:
        """A layer counts as a model where its optimizer has nothing else; decided once an optimizer holds it."""
        own = {id(parameter) for parameter in module.parameters()}
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return Role.MODEL  # frozen: no parameter tells which layers it is trained with
        held = False
        for optimizer in self._optimizers:
            theirs = {id(parameter) for parameter in _parameters(optimizer)}
            if theirs and theirs <= own:
                self._known[module] = Role.MODEL
                return Role.MODEL
            held = held or not theirs.isdisjoint(own)
        if held:
            self._known[module] = Role.LAYER
        return Role.LAYER

    def _reach(self, module: nn.Module) -> None:
        """Remember the parameters of called modules until the first step; ``functional_call`` may have put them in."""
        assert self._reached is not None
        self._called.add(module)
        for parameter in module.parameters():
            self._reached.add(id(parameter))
            self._swapped = self._swapped or not isinstance(parameter, nn.Parameter)
            if torch.compiler.is_compiling():
                self._compiled.add(parameter.shape)

    def reached_most(self, optimizers: Iterable[Optimizer]) -> bool:
        """Whether calls of modules have reached at least half of what is optimized; asked once, after a first step.

        An optimizer may hold copies of the reached parameters (a script's own fp32 weights): then these have gradients
        although no optimizer holds them. A compiler traces one call for all models whose parameters have the same
        shapes.
        """
        reached, self._reached = self._reached or set(), None
        called, self._called = list(self._called), IdentitySet()
        if self._swapped:
            return True
        held = {id(p): p for o in optimizers for p in _parameters(o) if p.requires_grad}
        others = {id(p): p for module in called for p in module.parameters() if id(p) not in held}
        copied = sum(p.numel() for p in others.values() if p.grad is not None)
        found = copied + sum(
            p.numel() for name, p in held.items() if name in reached or p.shape in self._compiled
        )
        return 2 * found >= sum(p.numel() for p in held.values())


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _is_used_as_a_loss(module: nn.Module, args: Iterable[Any]) -> bool:
    """Its name says so, and it is given what a model returned."""
    if not _NAMED_AS_A_LOSS.search(type(module).__name__):
        return False
    return any(tensor.grad_fn is not None for tensor in tensors_of(args))
