"""Compares each compiled graph with the same graph run eagerly, on the inputs of its first call.

Only the forward pass of a graph is compared, as the program compiles it: its results, and what it writes into its
inputs and weights, as a compiled optimizer does. Both are copied, so nothing changes for the program. A graph that
draws random numbers cannot be compared: compiled code draws other numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches, never_traced
from halfstep.pytorch.unseen import unseen_look
from halfstep.takeover.looks import Looks

_NAME = "compiled graphs beside eager ones"

Graph = Callable[..., Any]
#: tensors of compiled code, each with what eager code gives
Pairs = Sequence[tuple[Tensor, Tensor]]


class Graphs:
    """Writes a ``watch`` event for each graph that the program compiles."""

    def __init__(self, write: Callable[..., None], step: Callable[[], int], looks: Looks) -> None:
        self._write, self._step, self._looks = write, step, looks
        self._count = 0

    def install(self, patches: Patches) -> None:
        """Wrap Dynamo's call of a backend when the program imports Dynamo."""

        def imported(module: Any) -> None:
            patches.wrap(module.OutputGraph, "call_user_compiler", self._compiling)

        patches.when_imported("torch._dynamo.output_graph", imported)

    def _compiling(self, original: Callable[..., Graph]) -> Callable[..., Graph]:
        def call_user_compiler(output: Any, graph: fx.GraphModule, *args: Any, **kwargs: Any) -> Graph:
            eager = self._copied(graph)
            compiled = original(output, graph, *args, **kwargs)
            return compiled if eager is None else self._compared(compiled, eager)

        return call_user_compiler

    @unseen_look(_NAME)
    def _copied(self, graph: fx.GraphModule) -> fx.GraphModule:
        """A copy of the graph with the same parameters: a backend may rewrite the graph that it is given."""
        made = fx.GraphModule(graph, copy.deepcopy(graph.graph))
        made.meta.update(graph.meta)  # it is still a compiled one, and no model of the script's
        return made

    def _compared(self, compiled: Graph, eager: fx.GraphModule) -> Graph:
        first = True

        @never_traced
        def call(*args: Any) -> Any:
            nonlocal first
            if not first:
                return compiled(*args)
            first = False
            expected = self._eagerly(eager, args)
            results = compiled(*args)
            if expected is not None:
                self._tell(eager, results, *expected)
            return results

        return call

    def _eagerly(self, eager: fx.GraphModule, args: Sequence[Any]) -> tuple[list[Tensor], Pairs] | None:
        """The graph's results, and the tensors of the program that it writes, each with what it is to hold.

        None if eager results cannot be expected to be the same.
        """
        return self._looks.run(_NAME, 1, _run, eager, args)

    @unseen_look(_NAME)
    def _tell(self, eager: fx.GraphModule, results: Any, outputs: list[Tensor], written: Pairs) -> None:
        found = [*zip(tensors_of(results), outputs, strict=True), *written]
        errors = [_error(a.detach(), b) for a, b in found if b.is_floating_point()]
        layers = _layers(eager)
        self._count += 1
        self._write(
            "watch",
            what="graph",
            step=self._step(),
            graph=self._count,
            module=layers[0] if layers else "",
            last=layers[-1] if layers else "",
            error=max(errors, default=0.0),
        )


@torch.no_grad()
def _run(eager: fx.GraphModule, args: Sequence[Any]) -> tuple[list[Tensor], Pairs] | None:
    graph = copy.deepcopy(eager)
    copied = [
        a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args
    ]
    given = [(a, c) for a, c in zip(args, copied, strict=True) if isinstance(a, Tensor)]
    pairs = [*given, *zip(_held(eager), _held(graph), strict=True)]
    versions = [c._version for _, c in pairs]
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        results = [result.detach() for result in tensors_of(graph(*copied))]
        if not torch.equal(torch.get_rng_state(), before):
            return None
    written = [
        (a, c.detach()) for (a, c), version in zip(pairs, versions, strict=True) if c._version != version
    ]
    return results, written


def _held(graph: fx.GraphModule) -> list[Tensor]:
    return [*graph.parameters(), *graph.buffers()]


def _error(result: Tensor, expected: Tensor) -> float:
    """The largest difference divided by the largest expected magnitude; infinite where only one number is finite."""
    a, b = result.double(), expected.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    a, b = a[b.isfinite()], b[b.isfinite()]
    largest = float(b.abs().max()) if b.numel() else 0.0
    off = float((a - b).abs().max()) if b.numel() else 0.0
    return off / largest if largest else off


def _layers(graph: fx.GraphModule) -> list[str]:
    """The paths of the innermost modules whose operations are in the graph, in their order."""
    stacks = [node.meta.get("nn_module_stack") for node in graph.graph.nodes]
    paths = [str(list(stack.values())[-1][0]) for stack in stacks if stack]
    return list(dict.fromkeys(_path(path) for path in paths))


def _path(name: str) -> str:
    """``L['self'].blocks.0`` and ``L['net'].blocks.0`` as ``blocks.0``."""
    return name.rpartition("]")[2].lstrip(".").removeprefix("_orig_mod").lstrip(".")
