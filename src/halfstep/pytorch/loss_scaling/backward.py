"""Backward passes under a loss scale that the script does not see.

``torch.autograd.backward`` (which ``Tensor.backward`` calls) and ``torch.autograd.grad`` multiply what goes in by
the scale S and divide what comes out by it. S is a power of two, so in fp32 both are exact:

- gradients already in ``.grad`` (accumulation) are multiplied by S first, so that old and new ones add up in the same
  unit, also where DistributedDataParallel reduces their sum inside the pass; then one fused pass divides all of them;
- hooks on tensors, parameters and modules get true gradients (hooks.py);
- a backward pass inside a backward pass (checkpointing, custom functions) is part of the outer one;
- threads take turns; threads that share gradients are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling import anomaly, hooks
from halfstep.pytorch.loss_scaling.backward_pass import BackwardPass, Unrepeatable
from halfstep.pytorch.loss_scaling.data_parallel import DataParallel
from halfstep.pytorch.loss_scaling.engine import inside_backward, tracing
from halfstep.pytorch.loss_scaling.gradient_pass import GradientPass
from halfstep.pytorch.loss_scaling.handed_out import HandedOut
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.script_scale import ScriptScale
from halfstep.pytorch.loss_scaling.seeds import (
    as_tuple,
    ceiling_of,
    given_seeds,
    scaled_seeds,
)
from halfstep.pytorch.loss_scaling.sharded import Sharded
from halfstep.pytorch.patches import Patches, never_traced

if TYPE_CHECKING:
    from halfstep.precisions.recipes import Recipe
    from halfstep.pytorch.autocast.no_regions import NoRegions
    from halfstep.pytorch.loss_scaling.manual_updates import ManualUpdates
    from halfstep.pytorch.loss_scaling.pass_gradients import PassGradients
    from halfstep.pytorch.loss_scaling.scale import Scaling
    from halfstep.pytorch.loss_scaling.statistics import Statistics
    from halfstep.pytorch.moments import Moments


@dataclass(frozen=True)
class Parts:
    """The parts that a backward pass uses."""

    recipe: Recipe
    scaling: Scaling
    statistics: Statistics
    regions: NoRegions
    manual_updates: ManualUpdates
    moments: Moments


def install(parts: Parts, patches: Patches) -> None:
    """Put the recipe's backward pass in force."""
    sharded, parallel = Sharded(parts.scaling, patches), DataParallel(parts.scaling)
    grad = torch.autograd.grad
    patches.wrap(
        torch.autograd, "backward", lambda original: _backward(parts, sharded, parallel, original, grad)
    )
    patches.wrap(torch.autograd, "grad", lambda original: _grad(parts, original))
    if parts.recipe.loss_scale.guards:
        parallel.install(patches)
        hooks.install(parts.scaling, patches)
        parts.scaling.selective_checkpoints.install(patches)


def _backward(
    parts: Parts,
    sharded: Sharded,
    parallel: DataParallel,
    original: Callable[..., None],
    grad: Callable[..., Any],
) -> Callable[..., None]:
    may_scale = parts.recipe.guards
    script_scale = ScriptScale(parts.moments.scaled_by_hand)
    handed_out = HandedOut(parts.manual_updates.optimizers, parts.scaling.pass_gradients)

    def repeats(outputs: tuple[Any, ...], inputs: Any, create_graph: bool, checked: bool) -> bool:
        handed_out.begin_pass()
        if create_graph or checked or capturing():
            return False
        return parts.manual_updates.active or handed_out.here(lambda: _targets(outputs, inputs)[0])

    def repeated(outputs: tuple[Any, ...], seeds: Any, retain_graph: bool | None, inputs: Any) -> bool:
        """Whether the pass was made here, and repeated until it was finite."""
        leaves, inside = _targets(outputs, inputs)
        targets = [*leaves, *inside]
        if not BackwardPass.serves(outputs, targets):
            return False
        named = None if inputs is None else as_tuple(inputs)
        asked = (outputs, given_seeds(outputs, seeds), bool(retain_graph), named, targets)
        made = BackwardPass(parts.scaling, original, grad, *asked).made()
        if made and parts.statistics.kept:
            parts.statistics.came_by(leaves)
        return made

    def once(
        outputs: tuple[Any, ...],
        seeds: Any,
        retain_graph: bool | None,
        create_graph: bool,
        inputs: Any,
        by_script: bool,
        checked: bool,
    ) -> None:
        """Make the pass under the loss scale."""
        sharded.follow()
        scaling, given = parts.scaling, given_seeds(outputs, seeds)
        pass_gradients = scaling.pass_gradients
        own = scaling.beside(by_script)
        with scaling.running(lambda: _targets(outputs, inputs)[0], ceiling_of(outputs), own) as scale:
            _reach(pass_gradients, parallel, outputs, inputs, create_graph)
            try:
                scaled = scaled_seeds(outputs, given, scale)
                if checked:
                    keeps = create_graph if retain_graph is None else retain_graph
                    unchecked = anomaly.Unchecked(scaling, grad, outputs, given, keeps)
                    with unchecked:
                        original(outputs, scaled, True, create_graph, None, inputs)
                else:
                    original(outputs, scaled, retain_graph, create_graph, None, inputs)
                pass_gradients.began()
            finally:
                _unscale(pass_gradients, 1.0 / scale, create_graph)
                parts.moments.passed_by(pass_gradients)
                handed_out.overflowed(pass_gradients.leaves(wanted=False))
        if checked:
            unchecked.look()

    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        outputs = as_tuple(tensors)
        if inputs is not None and isinstance(inputs, Iterator):
            inputs = tuple(inputs)
        if tracing():
            original(outputs, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
            return
        if inside_backward():
            # Checkpointing recomputes, and runs backward through what it recomputed: a part of the pass under way.
            if parts.scaling.active:
                leaves, inside = _targets(outputs, inputs)
                if parts.scaling.answers is not None and not parts.scaling.answers.knows(leaves):
                    raise Unrepeatable
                parts.scaling.pass_gradients.reach(leaves, create_graph)
                parts.scaling.pass_gradients.reach_inside(inside)
            original(outputs, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
            return
        seeds = grad_variables if grad_tensors is None else grad_tensors
        above = parts.scaling.factor_above is not None
        by_script, factor = (False, 1.0) if above else script_scale.of(outputs, seeds)
        parts.moments.before_backward(outputs, factor)
        with parts.regions.paused():
            checked = may_scale and anomaly.checks()
            if not may_scale or (parts.scaling.value == 1.0 and not checked):
                original(outputs, seeds, retain_graph, create_graph, None, inputs)
            elif not (
                repeats(outputs, inputs, create_graph, checked)
                and repeated(outputs, seeds, retain_graph, inputs)
            ):
                again = parts.scaling.selective_checkpoints.repeatable() if checked else nullcontext()
                with again:
                    once(outputs, seeds, retain_graph, create_graph, inputs, by_script, checked)
        parts.moments.after_backward()

    return never_traced(backward)


def _reach(
    pass_gradients: PassGradients, parallel: DataParallel, outputs: tuple[Any, ...], inputs: Any, create: bool
) -> None:
    """Find out which tensors a pass from ``outputs`` accumulates into, before it does.

    The engine tells at the pass's first node, without a walk over the graph. If there are several outputs, on several
    devices, they start at the same time.
    """
    if retained := pass_gradients.retained():
        pass_gradients.reach_inside(retained)
    unused = parallel.unused if parallel.expects_more else None
    if inputs is None and not create and len(outputs) == 1 and pass_gradients.expect(outputs[0], unused):
        return
    leaves, inside = _targets(outputs, inputs)
    pass_gradients.reach([*leaves, *parallel.unused(leaves)], create)
    pass_gradients.reach_inside(inside)


def _unscale(pass_gradients: PassGradients, inverse: float, create: bool) -> None:
    pass_gradients.pass_by()
    if create:
        pass_gradients.unscale_in_graph(inverse)
        return
    pass_gradients.unscale(inverse)
    pass_gradients.put_back()


def _targets(outputs: tuple[Any, ...], inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Leaves, and tensors inside the graph, that a backward pass accumulates gradients into."""
    if inputs is None:
        return leaves_of(outputs), []
    edges = leaves_of(target for target in as_tuple(inputs) if isinstance(target, GradientEdge))
    tensors = [target for target in as_tuple(inputs) if isinstance(target, Tensor)]
    return [*edges, *(t for t in tensors if t.is_leaf)], [t for t in tensors if not t.is_leaf]


def _grad(parts: Parts, original: Callable[..., Any]) -> Callable[..., Any]:
    scales = parts.recipe.loss_scale.guards

    def grad(
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        only_inputs: bool = True,
        allow_unused: bool | None = None,
        is_grads_batched: bool = False,
        materialize_grads: bool = False,
    ) -> Any:
        rest = {
            "only_inputs": only_inputs,
            "allow_unused": allow_unused,
            "is_grads_batched": is_grads_batched,
            "materialize_grads": materialize_grads,
        }
        outputs = as_tuple(outputs) if isinstance(outputs, Iterator) else outputs
        if inside_backward() or tracing() or (grad_outputs is not None and capturing()):
            # Such a graph (make_graphed_callables) is a part of backward passes to come, and they are scaled.
            return original(outputs, inputs, grad_outputs, retain_graph, create_graph, **rest)
        parts.regions.begin_pass()
        parts.moments.begin_pass()
        parts.manual_updates.about_to_pass(as_tuple(outputs))
        with parts.regions.paused():
            if scales:
                graph = (retain_graph, create_graph)
                asked = (as_tuple(outputs), inputs, grad_outputs, *graph, rest)
                results = GradientPass(parts.scaling, original, *asked).results()
            else:
                results = original(outputs, inputs, grad_outputs, retain_graph, create_graph, **rest)
        gradients = tuple(results.values()) if isinstance(results, dict) else results
        parts.manual_updates.passed_grad(as_tuple(outputs), gradients, create_graph)
        if create_graph:
            parts.regions.after_pass_within()
        return results

    return never_traced(grad)
