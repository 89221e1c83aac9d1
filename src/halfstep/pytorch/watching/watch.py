"""The watch of ``halfstep diagnose``: records the numbers of a training, and where they go wrong.

It writes everything into the record at once, as events ``watch`` with a field ``what``:

- ``origin``: an operation whose inputs were finite and whose result was not; ``arrived``: the first operation that was
  given such numbers although no operation was seen to make them; ``input``: the model was called with them
- ``epsilon``: a constant that is zero in the format it is added in; ``optimizer``: likewise an optimizer's ``eps``
- ``sum``: a 16-bit sum that stops growing
- ``numbers``: the exponents of one module's weights, activations, gradients, weight gradients or updates, and of
  of the operands of its emulated products (``inputs``); ``rounded``: what the emulated format did to these operands
- ``update``: how many 16-bit weights did not move although they had a gradient
- ``state``: whether gradients and weights were finite at a step; ``eager``: a compiled model ran eagerly
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.precisions.formats import get_scalar
from halfstep.pytorch.callers import Caller
from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name
from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.loss_scaling.gradients import all_finite
from halfstep.pytorch.patches import Patches, before_swap
from halfstep.pytorch.unseen import unseen_look
from halfstep.pytorch.watching.modules import Call, Modules, Part, tensors_in
from halfstep.pytorch.watching.numbers import Tally
from halfstep.pytorch.watching.operations import Operations
from halfstep.pytorch.watching.rounding import Rounded
from halfstep.pytorch.watching.tensors import batched, innermost, plain, summable
from halfstep.record import NullWriter, Writer
from halfstep.takeover.looks import Looks

#: numbers are counted in the first two steps, and then in one of this many
FIRST, EVERY = 2, 16
#: after this many failures a look is given up
TRIES = 16


#: PyTorch's modules that compile what they are given, without which they compute no gradients
_HIGHER_ORDER = ("torch._higher_order_ops.", "torch.nn.attention.")


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``function`` be compiled where compilers were told not to compile."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("default"):
            return function(*args, **kwargs)

    return call


class NullWatch:
    """Does nothing: no diagnosis was asked for."""

    def install(self, patches: Patches) -> None:
        """Nothing."""

    def remove(self) -> None:
        """Nothing."""

    def name_parts(self, parts_of: Callable[[nn.Module], Iterable[Part]]) -> None:
        """A framework on top of PyTorch has its own names for the parts of a model."""

    def backward_pass(self, running: bool) -> None:
        """A backward pass of the script's begins, or is over."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""

    def after_step(self, optimizer: Optimizer, finite: bool, primary: bool) -> None:
        """An optimizer has stepped, or was kept from it; ``primary``: its steps are those of the record."""


class Watch(NullWatch):
    """Looks at every operation; counts the numbers of the sampled steps.

    Args:
        in_step: tells whether an optimizer's arithmetic is running.
        scale: gives the factor by which a backward pass multiplies gradients.
        in_grad: gives the factor of gradients in ``.grad``, where a framework on top of PyTorch scales the loss.
    """

    def __init__(
        self,
        writer: Writer | NullWriter,
        in_step: Callable[[], bool],
        scale: Callable[[], float],
        in_grad: Callable[[], float],
        looks: Looks,
    ) -> None:
        self._in_grad, self._stepping = in_grad, False
        self._writer, self._scale, self._looks = writer, scale, looks
        self.step = 0
        self._modules = Modules(self._entered, self._left, looks)
        self._operations = Operations(
            self._modules, self._write, lambda: self._stepping or in_step(), scale, self._rounded, looks
        )
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._roundings: dict[tuple[str, str], Rounded] = {}
        self._before: dict[int, Tensor] = {}
        self._seen: set[int] = set()
        self._poisoned = self._looking = False
        self._eager = False  # whether compilers were told not to compile
        self._register: Callable[..., Any] = Tensor.register_hook

    @property
    def looks(self) -> Looks:
        """Where what looks for the watch asks whether to, and tells of a failure."""
        return self._looks

    @property
    def sampled(self) -> bool:
        """Whether this step's numbers are counted."""
        return self.step < FIRST or self.step % EVERY == 0

    def _write(self, what: str, **fields: Any) -> None:
        self._writer.write("watch", what=what, step=self.step, **fields)

    def install(self, patches: Patches) -> None:
        """Follow modules, operations and compilation; called before hooks are wrapped, to see scaled gradients."""
        self._register = Tensor.register_hook
        self._modules.install(patches)
        patches.wrap(torch, "compile", self._compile)
        self._operations.of_script.install(patches)
        before_swap(self._operations.let_go, patches)
        self._operations.__enter__()  # type: ignore[no-untyped-call]
        self._looking = True

    def remove(self) -> None:
        """Stop looking at operations; again does nothing."""
        if self._eager:
            self._eager = False
            torch.compiler.set_stance("default")
        if self._looking:
            self._looking = False
            self._operations.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compile(*args: Any, **kwargs: Any) -> Any:
            if Caller.of(sys._getframe(1)).module.startswith(_HIGHER_ORDER):
                return _compiled(original(*args, **kwargs))
            self._eager = True
            torch.compiler.set_stance("force_eager")
            self._write("eager")
            return original(*args, **kwargs)

        return compile

    @unseen_look("watching: inputs of the model", TRIES)
    def _entered(self, call: Call, args: tuple[Any, ...]) -> None:
        """An outermost module is called: look whether its inputs are finite."""
        for position, tensor in enumerate(tensors_in(list(args))):
            numbers = innermost(tensor)
            if tensor.requires_grad or not plain(numbers) or not tensor.numel() or not self._operations.clean:
                continue
            bad = int((~torch.isfinite(summable(numbers))).sum())
            if bad:
                fields = {"count": bad, "elements": tensor.numel(), "argument": position}
                self._write("input", module=call.path, type=call.kind, **fields)

    @unseen_look("watching: outputs of modules", TRIES)
    def _left(self, call: Call, output: Tensor) -> None:
        """A module has returned ``output``: count its numbers, and those of its gradient later."""
        if not self.sampled or (not torch.is_grad_enabled() and not inside_backward()):
            return
        again = call.in_pass != -1
        if not again and torch.is_grad_enabled():
            numbers = innermost(output)
            if plain(numbers):
                self._count("activations", call.path, numbers, 1.0)
        if output.requires_grad and not batched(output):
            self._register(output, lambda gradient: self._gradient(call.path, gradient))

    @unseen_look("watching: gradients of modules", TRIES)
    def _gradient(self, path: str, gradient: Tensor) -> None:
        if plain(gradient):
            self._count("gradients", path, gradient, self._scale())

    @unseen_look("watching: rounding of operands", TRIES)
    def _rounded(self, path: str, operand: Tensor, format: str, axis: int, gradient: bool) -> None:
        """Count an operand of an emulated product, in the sampled steps."""
        if not self.sampled or not operand.numel():
            return
        weight = self._modules.weight_in(operand)
        kind = "gradients" if gradient else "inputs" if weight is None else "weights"
        path = path if weight is None else self._modules.path_of(weight)
        if kind == "inputs":
            self._tally(kind, path).add(operand, format_name(operand.dtype))
        with torch._C._AutoDispatchBelowAutograd():
            self._roundings.setdefault((kind, path), Rounded()).add(operand.detach(), format, axis)

    @unseen_look("watching: sizes of numbers", TRIES)
    def _count(self, kind: str, path: str, tensor: Tensor, scale: float) -> None:
        self._tally(kind, path).add(tensor, format_name(tensor.dtype), scale)

    def _tally(self, kind: str, path: str) -> Tally:
        return self._tallies.setdefault((kind, path), Tally())

    def backward_pass(self, running: bool) -> None:
        self._operations.in_pass = running

    def name_parts(self, parts_of: Callable[[nn.Module], Iterable[Part]]) -> None:
        self._modules.parts_of = parts_of

    def before_step(self, optimizer: Optimizer) -> None:
        self._stepping = True
        self._about_to_step(optimizer)

    @unseen_look("watching: optimizers", TRIES)
    @torch.no_grad()
    def _about_to_step(self, optimizer: Optimizer) -> None:
        """Keep a copy of the weights in the sampled steps; it takes their memory once more, for a step."""
        self._optimizer(optimizer)
        if self.sampled:
            self._before = {id(p): p.detach().clone() for p in _parameters(optimizer) if plain(p)}

    def after_step(self, optimizer: Optimizer, finite: bool, primary: bool) -> None:
        self._stepped(optimizer, finite)
        self._before, self._stepping = {}, False
        if primary:
            self._flush()
            self._tallies, self._roundings = {}, {}
            self.step += 1
            self._operations.stepped(self.sampled)

    @unseen_look("watching: steps", TRIES)
    @torch.no_grad()
    def _stepped(self, optimizer: Optimizer, finite: bool) -> None:
        """Look at the gradients that an optimizer's step got, and at what it did to the weights."""
        parameters = [p for p in _parameters(optimizer) if plain(p)]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._state(parameters, finite and all_finite(gradients))
        if self.sampled:
            for parameter in parameters:
                self._parameter(parameter, finite)
            self._updates(optimizer, finite)

    def _state(self, parameters: Sequence[Tensor], finite: bool) -> None:
        """Record it if gradients are not finite, and, once, if weights are no longer finite."""
        if finite or self._poisoned:
            return
        weights = all(math.isfinite(x) for p in parameters for x in torch.aminmax(p.detach()) if p.numel())
        self._poisoned = not weights
        names = [name for p in parameters if (name := self._modules.name_of(p)) and p.grad is not None
                 and not all_finite([p.grad])]  # fmt: skip
        self._write("state", gradients=False, weights=weights, parameters=names[-8:], scale=self._scale())

    def _parameter(self, parameter: Tensor, finite: bool) -> None:
        path = self._modules.path_of(parameter)
        self._tally("weights", path).add(parameter, format_name(parameter.dtype))
        if parameter.grad is not None and parameter.grad.layout is torch.strided and finite:
            self._tally("weight_gradients", path).add(
                parameter.grad, format_name(parameter.grad.dtype), self._in_grad()
            )

    def _updates(self, optimizer: Optimizer, finite: bool) -> None:
        rates = {
            id(p): float(group.get("lr", 1.0)) for group in optimizer.param_groups for p in group["params"]
        }
        for parameter in _parameters(optimizer):
            before = self._before.get(id(parameter))
            if before is None or parameter.grad is None or not finite or rates[id(parameter)] == 0:
                continue
            path = self._modules.path_of(parameter)
            update = parameter.detach() - before
            self._tally("updates", path).add(update, format_name(update.dtype))
            if parameter.dtype in SIXTEEN_BIT and parameter.grad.layout is torch.strided:
                due = parameter.grad != 0
                lost = int(((update == 0) & due).sum())
                self._write(
                    "update", module=path, parameter=self._modules.name_of(parameter), lost=lost,
                    due=int(due.sum()), dtype=format_name(parameter.dtype), optimizer=type(optimizer).__name__,
                    type=self._modules.kinds.get(path, ""), largest=_largest(before),
                )  # fmt: skip

    def _optimizer(self, optimizer: Optimizer) -> None:
        """Record once per optimizer whether ``eps`` is zero in the format of the weights and so of its state."""
        if id(optimizer) in self._seen:
            return
        self._seen.add(id(optimizer))
        for group in optimizer.param_groups:
            eps = group.get("eps")
            low = [p for p in group["params"] if p.dtype in SIXTEEN_BIT]
            if not isinstance(eps, float) or not low or eps == 0:
                continue
            name = format_name(low[0].dtype)
            if eps <= float(get_scalar(name).flush_threshold):
                modules = sorted({self._modules.path_of(p) for p in low})
                fields = {
                    "value": eps,
                    "dtype": name,
                    "type": type(optimizer).__name__,
                    "modules": modules[:8],
                }
                self._write("optimizer", parameters=len(low), **fields)

    @unseen_look("watching: sizes of numbers per step", TRIES)
    def _flush(self) -> None:
        for (kind, path), tally in self._tallies.items():
            if tally.elements:
                self._write(
                    "numbers",
                    kind=kind,
                    module=path,
                    type=self._modules.kinds.get(path, ""),
                    **tally.fields(),
                )
        for (kind, path), rounded in self._roundings.items():
            self._write("rounded", kind=kind, module=path, **rounded.fields())


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
