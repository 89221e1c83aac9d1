"""In every recorded run, the module in which a loss or a gradient first was not finite.

It costs nothing while all numbers are finite: on a CPU it looks once at each loss, which is read for the record anyway.
On a bad step it reads the autograd graph, which still exists, from the first operation to the last. The tensors that
the graph has saved for the backward pass show which operation first had an infinity or a NaN, and its place between the
parameters shows the module. A tensor that was not saved cannot be seen, so the operation may be the next one;
``halfstep diagnose`` sees all of them.

On a GPU a look at the loss would wait for the device, so nothing is looked at before the first bad step is known. What
happened earlier is found when it happens again.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.keep import WRAPPERS
from halfstep.pytorch.loss_scaling.gradients import all_finite
from halfstep.pytorch.unseen import unseen_look
from halfstep.takeover.looks import Looks
from halfstep.words.module_names import shown

#: how many bad steps are looked at, and on a GPU how many losses after the first are waited for
LOOKS, WAITS = 3, 20
_NAME = "where what is not finite began"
#: a compiled graph's node: torch.compile has one for all of its operations
_COMPILED = "CompiledFunction"
_RESULTS = ("_saved_result", "_saved_output", "_saved_out")
Node = Any


@dataclass(frozen=True)
class Origin:
    """Where values first were not finite."""

    module: str  #: the module's path; empty for code outside of modules
    operation: str  #: PyTorch's name of the operation, as far as it is known
    direction: str  #: ``forward`` or ``backward``
    words: str  #: what is known, for people: ``in blocks.3.attn (softmax, forward)``


class NullNanOrigin:
    """Does nothing: no record is written."""

    def before_backward(self, outputs: Sequence[Tensor]) -> None:
        """A backward pass is about to start, and its graph exists."""

    def after_step(self, optimizer: Optimizer, finite: bool) -> None:
        """A step was made or skipped, and its gradients exist."""


class NanOrigin(NullNanOrigin):
    """Writes a ``nonfinite`` event with the module in which values first were not finite."""

    def __init__(self, write: Callable[..., None], step: Callable[[], int], looks: Looks) -> None:
        self._write, self._step, self._looks = write, step, looks
        self._left, self._waits = LOOKS, 0
        self._told: set[str] = set()

    @unseen_look(_NAME)
    def before_backward(self, outputs: Sequence[Tensor]) -> None:
        for output in outputs:
            if not self._left or "loss" in self._told or output.numel() != 1 or output.is_complex():
                continue
            if not self._may_wait(output):
                continue
            value = output.item()
            if not math.isfinite(value):
                self._tell("loss", value, self._step(), forward(output))

    def _may_wait(self, output: Tensor) -> bool:
        if output.is_cpu:
            return True
        self._waits -= 1
        return self._waits >= 0

    @unseen_look(_NAME)
    def after_step(self, optimizer: Optimizer, finite: bool) -> None:
        if finite or not self._left or self._told:
            return
        self._waits = WAITS
        self._tell("gradients", math.nan, self._step(), backward(optimizer))

    def _tell(self, what: str, value: float, step: int, origin: Origin | None) -> None:
        self._left -= 1
        self._told.add(what)
        found = {} if origin is None else vars(origin)
        self._write("nonfinite", step=step, what=what, value=value, **found)


@torch.no_grad()
def forward(output: Tensor) -> Origin | None:
    """Where the forward pass of ``output`` first had an infinity or a NaN; None without a graph."""
    names = parameter_names()
    nodes = graph(output)
    used = [(number, names[id(p)]) for number, p in parameters_in(nodes) if id(p) in names]
    poisoned = [name for _, p in parameters_in(nodes) if not _finite(p) and (name := names.get(id(p)))]
    if poisoned:
        module = poisoned[0].rpartition(".")[0]
        return Origin(
            module, "", "forward", f"in {poisoned[0]}, a weight that was not finite before the step"
        )
    if not nodes:
        return None
    bad = first_bad(nodes)
    if bad is None:
        module = used[-1][1].rpartition(".")[0] if used else ""
        return Origin("", "", "forward", f"after {shown(module, 'the last layer')}, in the loss")
    module = module_at(bad._sequence_nr(), used)
    operation = operation_of(bad)
    if _COMPILED in bad.name():
        layers, place = _in_graph(bad, nodes, names)
        shared = ".".join(_shared([layer.split(".") for layer in layers])) if layers else module
        return Origin(shared, operation, "forward", f"in {place} (forward)")
    last = bool(used) and int(bad._sequence_nr()) > used[-1][0]
    where = f"after {shown(module, 'the last layer')}" if last else f"in {shown(module)}"
    return Origin(module, operation, "forward", f"{where} (forward, {operation})")


def _in_graph(bad: Node, nodes: Sequence[Node], names: dict[int, str]) -> tuple[list[str], str]:
    """The layers whose parameters a compiled graph uses; and words for them and for its place in its pass."""
    compiled = [node for node in nodes if _COMPILED in node.name()]
    given = (names[id(p)].rpartition(".")[0] for _, p in parameters_in([bad]) if id(p) in names)
    layers = list(dict.fromkeys(given))
    of = f", which holds {shown(layers[0])}" if layers else ""
    to = f" to {shown(layers[-1])}" if len(layers) > 1 else ""
    return layers, f"compiled graph {compiled.index(bad) + 1} of {len(compiled)}{of}{to}"


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """The common beginning of paths."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]


@torch.no_grad()
def backward(optimizer: Optimizer) -> Origin | None:
    """The module nearest to the loss whose gradient is not finite: the backward pass reached it first."""
    names = parameter_names()
    held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    order = {key: n for n, key in enumerate(names)}
    held = sorted((p for p in held if id(p) in names), key=lambda p: order[id(p)])
    bad = [not all_finite([p.grad]) for p in held]
    if not any(bad):
        return None
    last = max(n for n, is_bad in enumerate(bad) if is_bad)
    module = names[id(held[last])].rpartition(".")[0]
    if last == len(held) - 1:
        return Origin(
            module,
            "",
            "backward",
            f"at or after {shown(module, 'the only layer')}, the last layer (backward)",
        )
    return Origin(module, "", "backward", f"in {shown(module)} (backward)")


def parameter_names() -> dict[int, str]:
    """id -> name in the outermost module, for all parameters; it searches memory, which takes some 50 ms."""
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    inner = {id(child) for module in modules for child in module._modules.values()}
    names: dict[int, str] = {}
    for module in modules:
        if id(module) not in inner:
            for name, parameter in module.named_parameters():
                names.setdefault(id(parameter), WRAPPERS.sub("", name))
    return names


def graph(output: Tensor) -> list[Node]:
    """The nodes of a graph in the order in which the forward pass made them."""
    found: set[Node] = set()
    stack = [output.grad_fn] if output.grad_fn is not None else []
    while stack:
        node: Node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += [next_ for next_, _ in node.next_functions]
    return sorted(
        (node for node in found if not hasattr(node, "variable")), key=lambda node: int(node._sequence_nr())
    )


def parameters_in(nodes: Sequence[Node]) -> Iterator[tuple[int, Tensor]]:
    """(place among the nodes, parameter) for every use of a parameter."""
    for node in nodes:
        for next_, _ in node.next_functions:
            variable = getattr(next_, "variable", None)
            if isinstance(variable, Tensor):
                yield int(node._sequence_nr()), variable


def first_bad(nodes: Sequence[Node]) -> Node | None:
    """The first operation that made, or was given, a NaN or +inf; -inf does not count, since masks consist of it."""
    for node in nodes:
        for name, tensor in _saved(node):
            if not _finite(tensor) and bool((tensor.isnan() | (tensor == math.inf)).any()):
                before = [n for n, _ in node.next_functions if n is not None and not _only_a_weight(n)]
                made_here = name in _RESULTS or not before
                return node if made_here else max(before, key=lambda n: int(n._sequence_nr()))
    return None


def _only_a_weight(node: Node) -> bool:
    """Whether a node is a parameter, possibly cast or transposed."""
    while not hasattr(node, "variable"):
        if len(node.next_functions) != 1 or node.next_functions[0][0] is None:
            return False
        ((node, _),) = node.next_functions
    return True


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite. It keeps the tensor's version: the backward pass has yet to use the graph."""
    return bool(torch.isfinite(tensor).all())


def _saved(node: Node) -> Iterator[tuple[str, Tensor]]:
    if _COMPILED in node.name():
        # It is not known which of them is a result: a compiled graph keeps tensors that it made or was given.
        kept = getattr(node, "_raw_saved_tensors", ())
        values = [(_RESULTS[0], getattr(saved, "data", None)) for saved in kept]
    else:
        values = [(name, _value(node, name)) for name in dir(node) if name.startswith("_saved_")]
    for name, value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            yield name, value.detach()


def _value(node: Node, name: str) -> Any:
    try:
        return getattr(node, name)
    except RuntimeError:  # it was freed, or changed in place
        return None


def module_at(number: int, used: Sequence[tuple[int, str]]) -> str:
    """The module at a place in the forward pass: the common part of the paths of the parameters used around it."""
    before = [name for place, name in used if place <= number]
    after = [name for place, name in used if place > number]
    if not before or not after:
        return (before[-1] if before else after[0] if after else "").rpartition(".")[0]
    own, following = before[-1].split(".")[:-1], after[0].split(".")[:-1]
    return ".".join(_shared([own, following]) or own)


def operation_of(node: Node) -> str:
    """``SoftmaxBackward0`` -> ``softmax``."""
    plain = re.sub(r"Backward\d*$", "", str(node.name()).rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
