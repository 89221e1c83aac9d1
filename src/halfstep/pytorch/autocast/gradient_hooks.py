"""Hooks on gradients inside a region may return fp32: the gradient keeps the dtype that it has there.

``x.register_hook(lambda gradient: gradient * mask)`` works in fp32. Where ``x`` is a layer's result in a region, its
gradient is 16-bit, its product with the script's own mask is fp32, and autograd refuses an fp32 gradient there.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.already_made import Hooks, replace_hooks
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches

Hook = Callable[..., Any]

_ON_MODULES = ("register_full_backward_hook", "register_full_backward_pre_hook", "register_backward_hook")


class InItsDtype:
    """A hook that returns a gradient in the dtype of the one that it is given. It is pickled as the script's own hook.

    Attributes:
        script_hook: as the script has it; not named ``hook``, since PyTorch's own wrapper copies that attribute.
    """

    def __init__(self, hook: Hook) -> None:
        self.script_hook = hook
        functools.update_wrapper(self, hook)

    def __call__(self, *args: Any) -> Any:
        return in_its_dtype(self.script_hook(*args), args)

    def __deepcopy__(self, memo: dict[int, Any]) -> InItsDtype:
        return self._of(copy.deepcopy(self.script_hook, memo))

    def _of(self, hook: Hook) -> InItsDtype:
        """The same wrapper around another hook."""
        return InItsDtype(hook)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (self.script_hook,)


def adopt(hooks: Iterable[Hooks], wrapped: Callable[[Hook], Hook] = InItsDtype) -> None:
    """Wrap hooks that were registered before."""
    replace_hooks(hooks, lambda hook: hook if isinstance(hook, InItsDtype) else wrapped(hook))


def remove(hooks: Iterable[Hooks]) -> None:
    """Put the program's own hooks back in the place of wrapped ones."""
    replace_hooks(hooks, lambda hook: hook.script_hook if isinstance(hook, InItsDtype) else hook)


def install(patches: Patches, wrapped: Callable[[Hook], Hook] = InItsDtype) -> None:
    """Wrap the ways to register a hook that may return another gradient.

    Args:
        wrapped: makes of a hook what is called in its place.
    """

    def registering(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(self: Any, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return original(self, wrapped(hook), *args, **kwargs)

        return register

    patches.wrap(Tensor, "register_hook", registering)
    for name in _ON_MODULES:
        patches.wrap(torch.nn.Module, name, registering)


def in_its_dtype(answer: Any, given: tuple[Any, ...]) -> Any:
    """What a hook has returned, cast to the dtypes of the gradients that it was given.

    Args:
        answer: a gradient, several, or None.
        given: ``(gradient,)``, ``(module, of the outputs)`` or ``(module, of the inputs, of the outputs)``.
    """
    return _like(answer, given[min(1, len(given) - 1)])


def _like(answer: Any, gradient: Any) -> Any:
    if isinstance(answer, tuple | list) and isinstance(gradient, tuple):
        return tuple(_like(a, g) for a, g in zip(answer, gradient, strict=False))
    if isinstance(answer, Tensor) and isinstance(gradient, Tensor) and gradient.dtype in SIXTEEN_BIT:
        return answer.to(gradient.dtype)
    return answer
