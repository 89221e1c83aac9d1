"""Hooks of the script in a backward pass under a loss scale get true gradients.

What they return is multiplied by the scale and goes back into the pass. The same holds for what the script's own
``autograd.Function`` classes return in a pass that may be repeated. A hook that clips gradients clips true ones, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from halfstep.passed_on import StateDict
from halfstep.pytorch.already_made import AlreadyMade, replace_hooks
from halfstep.pytorch.autocast import gradient_hooks
from halfstep.pytorch.autocast.custom_functions import is_scripts
from halfstep.pytorch.autocast.gradient_hooks import InItsDtype, in_its_dtype
from halfstep.pytorch.devices import has_ranks
from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.loss_scaling.gradients import multiply_
from halfstep.pytorch.patches import Patches

if TYPE_CHECKING:
    from halfstep.pytorch.loss_scaling.scale import Scaling

#: the attribute of a wrapped hook that holds the program's own
_ACCUMULATED = "_halfstep_hook"


def install(scaling: Scaling, patches: Patches) -> None:
    """Wrap the ways to register hooks."""
    through = functools.partial(_Through, scaling)

    def registering_global(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return original(through(hook), *args, **kwargs)

        return register

    def registering_accumulated(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(self: Any, hook: Callable[[Tensor], None]) -> Any:
            return original(self, _accumulated(scaling, hook))

        return register

    gradient_hooks.install(patches, through)
    patches.wrap(torch.Tensor, "register_post_accumulate_grad_hook", registering_accumulated)
    patches.wrap(torch.Tensor, "retain_grad", scaling.pass_gradients.retaining)
    scaling.finite_cache.install(patches)
    for home in (torch.nn.utils, torch.nn.utils.clip_grad):
        patches.wrap(home, "clip_grad_norm_", lambda original: _clipping(scaling, original))
    patches.wrap(BackwardCFunction, "apply", lambda original: _applying(scaling, original))
    patches.wrap(torch.nn.Module, "__setstate__", lambda original: _unpickling(original, through))
    module = torch.nn.modules.module
    for name in (
        "register_module_full_backward_hook",
        "register_module_full_backward_pre_hook",
        "register_module_backward_hook",
    ):
        patches.wrap(module, name, registering_global)


def adopt(scaling: Scaling, made: AlreadyMade) -> None:
    """Wrap hooks that were registered before."""
    gradient_hooks.adopt(made.hooks, functools.partial(_Through, scaling))
    replace_hooks(made.accumulated_hooks, functools.partial(_accumulated, scaling))


def remove(made: AlreadyMade) -> None:
    """Give the program its own hooks back."""
    gradient_hooks.remove(made.hooks)
    replace_hooks(made.accumulated_hooks, lambda hook: getattr(hook, _ACCUMULATED, hook))


class _Through(InItsDtype):
    """A hook that gets true gradients; a copy of it does, too."""

    def __init__(self, scaling: Scaling, hook: Callable[..., Any]) -> None:
        super().__init__(hook)
        self._scaling = scaling

    def __call__(self, *args: Any) -> Any:
        scale = self._scaling.last_value if self._scaling.active else 1.0
        if (answers := self._scaling.answers) is not None:
            return answers.ask(self, args, scale, lambda: self._answer(args, scale), _map)
        return in_its_dtype(self.script_hook(*args), args) if scale == 1.0 else self._answer(args, scale)

    def _answer(self, args: tuple[Any, ...], scale: float) -> Any:
        returned = self.script_hook(*(_map(arg, 1.0 / scale) for arg in args))
        return in_its_dtype(_map(returned, scale), args)

    def _of(self, hook: Callable[..., Any]) -> _Through:
        return _Through(self._scaling, hook)


def _clipping(scaling: Scaling, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap ``clip_grad_norm_``, so that clipped gradients need not be read again.

    The norm, which is computed anyway, is finite only if every gradient is (for a positive ``norm_type``; a norm of
    order 0 counts a NaN as 1), and then the coefficient lies between 0 and 1. It does not synchronise.
    """

    def clip_grad_norm_(
        parameters: Any,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if torch.compiler.is_compiling():
            return original(parameters, max_norm, norm_type, error_if_nonfinite, *args, **kwargs)
        tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        given = tensors or parameters  # PyTorch warns about an empty generator
        # A scale that is too high is no error of the script: the step is skipped, and the next scale is lower.
        error = error_if_nonfinite and scaling.stuck
        known = scaling.finite_cache.unchanged
        if scaling.active:
            with scaling.pass_gradients.in_true_unit(tensors):
                return original(given, max_norm, norm_type, error, *args, **kwargs)
        norm = original(given, max_norm, norm_type, error, *args, **kwargs)
        if max_norm >= 0 and float(norm_type) > 0:
            scaling.finite_cache.clipped(tensors, norm, known)
        return norm

    return clip_grad_norm_


def _applying(scaling: Scaling, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the node of an ``autograd.Function``: in a pass that may be repeated the script's own ones run once."""

    def apply(node: Any, *gradients: Any) -> Any:
        answers = scaling.answers
        if answers is None or not inside_backward():
            return original(node, *gradients)
        if answers.muted:
            return (None,) * len(node.needs_input_grad)
        if not answers.of_functions or not is_scripts(node._forward_cls):
            return original(node, *gradients)
        scale = scaling.last_value
        return answers.ask(node, gradients, scale, lambda: original(node, *gradients), _map)

    return apply


def _unpickling(original: Callable[..., None], through: Callable[..., _Through]) -> Callable[..., None]:
    """Wrap ``Module.__setstate__``: hooks from a pickle were not registered."""

    def __setstate__(module: Any, state: StateDict) -> None:
        original(module, state)
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            hooks.update(
                (key, through(hook)) for key, hook in hooks.items() if not isinstance(hook, _Through)
            )

    return __setstate__


def _accumulated(scaling: Scaling, hook: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """Wrap a hook that runs after accumulation: it reads ``.grad`` itself, and may step an optimizer.

    The gradient stays true afterwards: hooks of other parameters may read it, too, as where the last of a layer's
    parameters steps the layer's optimizer. Where ranks are to reduce it, it gets the unit of the pass back.
    """

    @functools.wraps(hook)
    def unscaled(parameter: Tensor) -> None:
        scale = scaling.last_value if scaling.active else 1.0
        if scale == 1.0 or parameter.grad is None or scaling.pass_gradients.was_left(parameter):
            hook(parameter)
            return
        multiply_([parameter.grad], 1.0 / scale)
        if not has_ranks():
            scaling.pass_gradients.leave(parameter)
            hook(parameter)
            return
        hook(parameter)
        if parameter.grad is not None and not scaling.pass_gradients.was_left(parameter):
            multiply_([parameter.grad], scale)

    setattr(unscaled, _ACCUMULATED, hook)
    return unscaled


def _map(value: Any, factor: float) -> Any:
    """Multiply every floating-point tensor in a tensor or tuple; other things (modules, None) pass through."""
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value * factor
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return tuple(_map(item, factor) for item in value)
    return value
