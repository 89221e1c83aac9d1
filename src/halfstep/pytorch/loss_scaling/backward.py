"""Backward passes under a loss scale, of which the script sees nothing.

``torch.autograd.backward`` (which ``Tensor.backward`` calls) and ``torch.autograd.grad`` multiply what goes in by
the scale S and divide what comes out by it. S is a power of two, so in fp32 both are exact:

- gradients already in ``.grad`` (accumulation) are multiplied by S first, so that old and new add up in the same
  unit, also where DistributedDataParallel reduces their sum inside the pass; then one fused pass divides all;
- hooks on tensors, parameters and modules are handed true gradients, and what they return is multiplied by S;
- a backward pass inside a backward pass (checkpointing, custom functions) is part of the outer one;
- threads take turns, and are refused where they share gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.gradients import multiply_, multiply_and_test_
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.sharded import Sharded
from halfstep.pytorch.patches import Patches

if TYPE_CHECKING:
    from halfstep.pytorch.loss_scaling.scale import Scaling
    from halfstep.pytorch.takeover import Takeover


_FAKE, _PROXY, _FUNCTIONAL = (
    getattr(torch._C._TorchDispatchModeKey, key) for key in ("FAKE", "PROXY", "FUNCTIONAL")
)


def inside_backward() -> bool:
    """Whether this thread is executing a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def tracing() -> bool:
    """Whether a compiler is tracing: its joint graph must not have a scale baked into it."""
    mode = torch._C._get_dispatch_mode
    return mode(_FAKE) is not None or mode(_PROXY) is not None or mode(_FUNCTIONAL) is not None


def install(takeover: Takeover, patches: Patches) -> None:
    """Put the recipe's backward pass in force."""
    sharded = Sharded(takeover.scaling, patches)
    patches.wrap(torch.autograd, "backward", lambda original: _backward(takeover, sharded, original))
    patches.wrap(torch.autograd, "grad", lambda original: _grad(takeover, original))
    if takeover.recipe.loss_scale.guards:
        _install_hooks(takeover, patches)


def _backward(takeover: Takeover, sharded: Sharded, original: Callable[..., None]) -> Callable[..., None]:
    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        outputs = _as_tuple(tensors)
        if tracing():
            original(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
            return
        if inside_backward():
            # Checkpointing recomputes, and goes back through what it recomputed: part of the pass under way.
            if takeover.scaling.active:
                takeover.scaling.reach(_as_tuple(inputs) if inputs is not None else leaves_of(outputs))
            original(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
            return
        takeover.before_backward(outputs)
        seeds = grad_variables if grad_tensors is None else grad_tensors
        scale = takeover.scaling.value
        with takeover.ambient.paused():
            if scale == 1.0:
                original(tensors, seeds, retain_graph, create_graph, None, inputs)
            else:
                sharded.follow()
                run = functools.partial(
                    original, outputs, retain_graph=retain_graph, create_graph=create_graph
                )
                _scaled(takeover, run, outputs, seeds, inputs, create_graph)
        takeover.after_backward()

    return backward


def _scaled(
    takeover: Takeover,
    run: Callable[..., None],
    outputs: tuple[Tensor, ...],
    seeds: Any,
    inputs: Any,
    create: bool,
) -> None:
    scaling = takeover.scaling
    scale = scaling.value
    scaled_seeds = [_times(seed, scale) for seed in _seeds(outputs, seeds)]
    targets = _as_tuple(inputs) if inputs is not None else (*leaves_of(outputs), *scaling.retained())
    with scaling.running(targets):
        try:
            run(grad_tensors=scaled_seeds, inputs=inputs)
        finally:
            _unscale(scaling, create)


def _unscale(scaling: Scaling, create: bool) -> None:
    if create:
        for tensor in scaling.reached.values():  # not in place: these gradients are part of a graph
            if tensor.grad is not None:
                tensor.grad = _times(tensor.grad, scaling.loss_scale.inverse)
        return
    gradients = [grad for tensor in scaling.reached.values() if (grad := tensor.grad) is not None]
    scaling.checked(gradients, multiply_and_test_(gradients, scaling.loss_scale.inverse))


def _grad(takeover: Takeover, original: Callable[..., Any]) -> Callable[..., Any]:
    def grad(
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        arguments = (retain_graph, create_graph, *args)
        if inside_backward() or tracing():
            return original(outputs, inputs, grad_outputs, *arguments, **kwargs)
        takeover.scaling.begin_pass()
        by_hand = takeover.by_hand if not create_graph else None
        if by_hand is not None:
            by_hand.about_to_pass(_as_tuple(outputs))
        scale = takeover.scaling.value
        with takeover.ambient.paused():
            if scale == 1.0:
                results = original(outputs, inputs, grad_outputs, *arguments, **kwargs)
            else:
                tensors = _as_tuple(outputs)
                seeds = [_times(seed, scale) for seed in _seeds(tensors, grad_outputs)]
                with takeover.scaling.running():
                    scaled = original(tensors, inputs, seeds, *arguments, **kwargs)
                # Not in place: two inputs may be given one and the same gradient.
                results = type(scaled)(_times(result, 1.0 / scale) for result in scaled)
        if by_hand is not None:
            by_hand.passed_grad(_as_tuple(outputs), results)
        return results

    return grad


def _as_tuple(tensors: Any) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def _seeds(outputs: Sequence[Tensor], seeds: Any) -> list[Tensor | None]:
    """The gradients that the pass starts from; None where PyTorch is to complain about its absence."""
    given = [None] * len(outputs) if seeds is None else list(_as_tuple(seeds))
    return [
        torch.ones_like(output) if seed is None and output.requires_grad and output.numel() == 1 else seed
        for output, seed in zip(outputs, given, strict=True)
    ]


def _times(tensor: Tensor | None, factor: float) -> Tensor | None:
    return None if tensor is None else tensor * factor


def _install_hooks(takeover: Takeover, patches: Patches) -> None:
    """Hooks see true gradients; what they return goes back into the scaled pass."""
    scaling = takeover.scaling

    def through(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def unscaled(*args: Any) -> Any:
            scale = scaling.value if scaling.active else 1.0
            if scale == 1.0:
                return hook(*args)
            returned = hook(*(_map(arg, 1.0 / scale) for arg in args))
            return _map(returned, scale)

        return unscaled

    def registering(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(self: Any, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return original(self, through(hook), *args, **kwargs)

        return register

    def registering_global(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return original(through(hook), *args, **kwargs)

        return register

    def registering_accumulated(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(self: Any, hook: Callable[[Tensor], None]) -> Any:
            return original(self, _accumulated(scaling, hook))

        return register

    patches.wrap(torch.Tensor, "register_hook", registering)
    patches.wrap(torch.Tensor, "register_post_accumulate_grad_hook", registering_accumulated)
    patches.wrap(torch.Tensor, "retain_grad", scaling.retaining)
    patches.wrap(torch.Tensor, "numpy", scaling.exposing_array)
    patches.set(torch.Tensor, "data", scaling.exposing(torch.Tensor.data))
    for home in (torch.nn.utils, torch.nn.utils.clip_grad):
        patches.wrap(home, "clip_grad_norm_", scaling.clipping)
    for name in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        patches.wrap(torch.nn.Module, name, registering)
    module = torch.nn.modules.module
    for name in ("register_module_full_backward_hook", "register_module_full_backward_pre_hook"):
        patches.wrap(module, name, registering_global)


def _accumulated(scaling: Scaling, hook: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """A hook that runs after accumulation reads ``.grad`` itself (and may step an optimizer there)."""

    @functools.wraps(hook)
    def unscaled(parameter: Tensor) -> None:
        scale = scaling.value if scaling.active else 1.0
        if scale == 1.0 or parameter.grad is None:
            hook(parameter)
            return
        multiply_([parameter.grad], 1.0 / scale)
        hook(parameter)
        if parameter.grad is not None:
            multiply_([parameter.grad], scale)

    return unscaled


def _map(value: Any, factor: float) -> Any:
    """Multiply every floating-point tensor in a tensor or tuple; other things (modules, None) pass through."""
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value * factor
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return tuple(_map(item, factor) for item in value)
    return value
