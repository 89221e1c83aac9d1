"""What a scaled backward pass accumulates gradients into, brought to the unit of the pass, and back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.finite_cache import Tested
from halfstep.pytorch.loss_scaling.gradients import gradients_at, multiply_
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.scaled_pass import NoScaledPass


class Reached:
    """The tensors of one pass at a time, leaves and tensors inside the graph whose ``.grad`` is asked for.

    Args:
        in_cpp: follows leaves on a CPU.
        tested: remembers what unscaling found.
    """

    def __init__(self, in_cpp: NoScaledPass, tested: Tested) -> None:
        self._in_cpp = in_cpp
        self._tested = tested
        self._scale = 1.0
        self._known: dict[int, Tensor] = {}
        self._left: set[int] = set()
        self._aside: list[tuple[Tensor, Tensor]] = []
        self._inside: list[tuple[Tensor, Tensor, Tensor]] = []
        self._retained: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def begin(self, scale: float) -> None:
        """A pass begins, in which gradients are ``scale`` times what they are."""
        self._scale = scale

    def end(self) -> None:
        """It is over."""
        self._known, self._left = {}, set()
        self._in_cpp.end()

    def tensors(self) -> dict[int, Tensor]:
        """What the pass under way accumulates gradients into, by id."""
        leaves = {id(leaf): leaf for leaf in self._in_cpp.leaves()}  # first: they may be taken meanwhile
        return self._known | leaves

    def expect(self, output: Any, unused: Callable[[Iterable[Tensor]], list[Tensor]] | None) -> bool:
        """As :meth:`reach`, when the pass begins, of all leaves that PyTorch's engine then knows of.

        No Python object is made of them before somebody asks for one: nobody does, in most passes.

        Args:
            output: what the pass starts from, and nothing else.
            unused: tells which further leaves to reach with some; None where there are none.

        Returns:
            Whether it will be so.
        """
        if not isinstance(output, Tensor):
            return False

        def rest(brought: bool | None) -> None:
            if brought is None:
                self.reach(leaves_of((output,)))
            elif not brought:
                self._bring(self._take())
            if unused is not None:
                self.reach(unused(self.tensors().values()))

        return self._in_cpp.expect(output, self._scale, rest, always=unused is not None)

    def began(self) -> None:
        """The pass has begun, and is over: raise what went wrong at its beginning."""
        self._in_cpp.check()

    def _take(self) -> list[Tensor]:
        """The leaves that were followed in C++, and are followed here from now on."""
        if leaves := self._in_cpp.leaves():
            # Before they are no more listed there: another thread may be asking.
            self._known.update((id(leaf), leaf) for leaf in leaves)
            self._in_cpp.leave()
        return leaves

    def leave(self, tensor: Tensor) -> None:
        """A hook inside the pass takes the gradient of ``tensor``, in its true unit: it is left alone from now on."""
        self._take()
        self._known.pop(id(tensor), None)
        self._left.add(id(tensor))

    def was_left(self, tensor: Tensor) -> bool:
        """Whether the gradient of ``tensor`` was taken away in the pass under way."""
        return id(tensor) in self._left

    def unscale(self, inverse: float) -> None:
        """The pass is over: multiply the gradients of what it reached, and test them."""
        if self._known or not self._in_cpp.unscale(inverse):
            self._tested.multiply_(gradients_at(self.tensors().values()), inverse)

    def leaves(self, wanted: bool) -> Iterable[Tensor]:
        """The leaves of the pass under way, if they are ``wanted`` or may have a gradient that is not finite."""
        return self.tensors().values() if wanted or self._known or not self._in_cpp.unchanged() else ()

    def unscale_in_graph(self, inverse: float) -> None:
        """As :meth:`unscale`, but not in place: these gradients are part of a graph, or of somebody's results."""
        for tensor in self.tensors().values():
            if tensor.grad is not None:
                tensor.grad = tensor.grad * inverse

    def reach(self, tensors: Iterable[Tensor], create: bool = False) -> None:
        """The pass will accumulate into ``tensors``: bring the gradients that they have already to its unit.

        Args:
            tensors: leaves.
            create: the pass creates a graph: then PyTorch accumulates out of place.
        """
        new = self._new(tensors)
        if not create:
            self._bring(new)
            return
        for tensor in new:
            if tensor.grad is not None:
                tensor.grad = tensor.grad * self._scale

    def _new(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those that are not reached yet, each once; they are from now on."""
        asked = list(tensors)
        if not asked:
            return asked
        self._take()
        new = {id(tensor): tensor for tensor in asked if id(tensor) not in self._known}
        self._known |= new
        self._left -= new.keys()
        return list(new.values())

    def _bring(self, tensors: list[Tensor]) -> None:
        """Bring the gradients that ``tensors`` have to the unit of the pass."""
        self._set_aside(tensors)
        if gradients := gradients_at(tensors):
            multiply_(gradients, self._scale)

    def _set_aside(self, tensors: Iterable[Tensor]) -> None:
        """Gradients that have a graph may be needed, as they are, by the pass itself: copies stand in for them."""
        for tensor in tensors:
            if (grad := tensor.grad) is not None and grad.requires_grad:
                self._aside.append((tensor, grad))
                tensor.grad = grad.detach().clone()

    def put_back(self) -> None:
        """The pass is over, and gradients are unscaled: those that were set aside take over what they have become."""
        while self._aside:
            tensor, grad = self._aside.pop()
            if tensor.grad is not None:
                with torch.no_grad():
                    grad.copy_(tensor.grad)
                tensor.grad = grad

    def reach_inside(self, tensors: Iterable[Tensor]) -> None:
        """As :meth:`reach`, of tensors inside the graph."""
        for tensor in self._new(tensors):
            # Without the first, asking for it draws a warning.
            if tensor.retains_grad and (grad := tensor.grad) is not None:
                tensor.grad = scaled = grad * self._scale
                self._inside.append((tensor, grad, scaled))

    def pass_by(self) -> None:
        """The pass is over: tensors inside the graph that it did not come by have again what they had."""
        while self._inside:
            tensor, grad, scaled = self._inside.pop()
            if tensor.grad is scaled:
                tensor.grad = grad
                self._known.pop(id(tensor), None)

    def retained(self) -> Iterable[Tensor]:
        """Tensors inside the graph whose ``.grad`` the script asked to keep."""
        return tuple(self._retained.values()) if self._retained else ()

    def retaining(self, original: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """Wrap ``Tensor.retain_grad``: these gradients have to be unscaled, too."""

        def retain_grad(tensor: Tensor) -> None:
            original(tensor)
            if not tensor.is_leaf:
                self._retained[id(tensor)] = tensor

        return retain_grad
