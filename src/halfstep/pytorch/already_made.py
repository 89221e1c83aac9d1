"""Objects that the program has made before a recipe is put into force, or taken off again, and goes on using."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from halfstep.pytorch.dtypes import KEPT

#: the hooks of one tensor or module, by number, as PyTorch keeps them
Hooks = dict[int, Callable[..., Any]]


@dataclass(frozen=True)
class AlreadyMade:
    """The objects of this process that hold a part of the recipe, or that have to."""

    optimizers: list[Optimizer] = field(default_factory=list)  #: those of ``torch.optim``
    norms: list[_NormBase] = field(default_factory=list)  #: layers with running statistics
    kept: list[nn.Module] = field(default_factory=list)  #: modules that a recipe's ``keep=`` has marked
    scalers: list[torch.amp.GradScaler] = field(default_factory=list)  #: gradient scalers
    #: autocast regions that the program keeps as objects
    autocasts: list[torch.amp.autocast] = field(default_factory=list)
    #: hooks of backward passes, which may return another gradient
    hooks: list[Hooks] = field(default_factory=list)
    #: hooks that are called when a gradient has been accumulated
    accumulated_hooks: list[Hooks] = field(default_factory=list)

    @classmethod
    def now(cls) -> AlreadyMade:
        """One look at all objects of this process: some tenths of a second."""
        found = cls()
        module = torch.nn.modules.module
        found._note_hooks(module._global_backward_hooks, module._global_backward_pre_hooks)
        for thing in gc.get_objects():
            kind = type(thing)  # not isinstance: an object may claim a class that it has to import first
            if issubclass(kind, nn.Module):
                found._note_hooks(*(vars(thing).get(n) for n in ("_backward_hooks", "_backward_pre_hooks")))
                if KEPT in vars(thing):
                    found.kept.append(thing)
                if issubclass(kind, _NormBase):
                    found.norms.append(thing)
            elif issubclass(kind, Tensor):
                found._note_tensor(thing)
            elif issubclass(kind, Optimizer):
                found.optimizers.append(thing)
            elif issubclass(kind, torch.amp.GradScaler):
                found.scalers.append(thing)
            elif issubclass(kind, torch.amp.autocast):
                found.autocasts.append(thing)
        return found

    def _note_tensor(self, tensor: Tensor) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            self._note_hooks(tensor._backward_hooks)
            if accumulated := tensor._post_accumulate_grad_hooks:
                self.accumulated_hooks.append(accumulated)

    def _note_hooks(self, *several: Hooks | None) -> None:
        self.hooks.extend(hooks for hooks in several if hooks)


def replace_hooks(several: Iterable[Hooks], change: Callable[[Any], Callable[..., Any]]) -> None:
    """Replace each hook by ``change(hook)``, in the table from which PyTorch calls it."""
    for hooks in several:
        for number, hook in list(hooks.items()):
            hooks[number] = change(hook)
