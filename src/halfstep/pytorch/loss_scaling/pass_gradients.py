"""Multiplies gradients by the scale of a pass that accumulates into them, and divides them afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.devices import has_ranks
from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.loss_scaling.finite_cache import FiniteCache
from halfstep.pytorch.loss_scaling.gradients import gradients_at, multiply_
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.scaled_pass import NoScaledPass


class PassGradients:
    """The tensors that one pass accumulates into: leaves, and tensors inside the graph whose ``.grad`` is kept."""

    def __init__(self, in_cpp: NoScaledPass, finite_cache: FiniteCache) -> None:
        self._in_cpp = in_cpp
        self._finite_cache = finite_cache
        self._scale = 1.0
        self._known: dict[int, Tensor] = {}
        self._left: dict[int, Tensor] = {}
        self._aside: list[tuple[Tensor, Tensor]] = []
        self._inside: list[tuple[Tensor, Tensor, Tensor]] = []
        self._retained: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def begin(self, scale: float) -> None:
        """A pass begins in which gradients are multiplied by ``scale``."""
        self._scale = scale

    def end(self) -> None:
        """The pass is over."""
        self._known, self._left = {}, {}
        self._in_cpp.end()

    def tensors(self) -> dict[int, Tensor]:
        """id -> tensor, for the tensors that the running pass accumulates gradients into."""
        leaves = {
            id(leaf): leaf for leaf in self._in_cpp.leaves()
        }  # first, since they may be taken meanwhile
        return self._known | leaves

    def expect(self, output: Any, unused: Callable[[Iterable[Tensor]], list[Tensor]] | None) -> bool:
        """Call :meth:`reach` when the pass begins, for all leaves that PyTorch's engine then knows.

        No Python object of a leaf is made before one is asked for, which most passes never do.

        Args:
            output: the only output that the pass starts from.
            unused: gives the leaves to reach beside some others; None if there are none.

        Returns:
            Whether it will be done.
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
        """The pass is over: raise the error that occurred at its beginning, if any."""
        self._in_cpp.check()

    def _take(self) -> list[Tensor]:
        """Take the leaves that were followed in C++, which are followed here from now on."""
        if leaves := self._in_cpp.leaves():
            # Add them here before they are removed there: another thread may be asking.
            self._known.update((id(leaf), leaf) for leaf in leaves)
            self._in_cpp.leave()
        return leaves

    def leave(self, tensor: Tensor) -> None:
        """A hook inside the pass takes the true gradient of ``tensor``: the pass does not unscale it any more."""
        self._take()
        self._known.pop(id(tensor), None)
        self._left[id(tensor)] = tensor

    def was_left(self, tensor: Tensor) -> bool:
        """Whether a hook has taken the gradient of ``tensor`` in the running pass."""
        return id(tensor) in self._left

    @contextmanager
    def in_true_unit(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """While a hook inside the pass uses the gradients of ``tensors``: those that no hook of their own has unscaled.

        Two passes over these gradients; nothing where each has its hook. Outside of a backward pass, and where ranks
        are to reduce gradients, they are left as they are.
        """
        if not inside_backward() or has_ranks():
            yield
            return
        known = self.tensors()
        scaled = [tensor for tensor in tensors if id(tensor) in known and tensor.grad is not None]
        multiply_(gradients_at(scaled), 1.0 / self._scale)
        try:
            yield
        finally:
            multiply_(gradients_at(tensor for tensor in scaled if not self.was_left(tensor)), self._scale)

    def unscale(self, inverse: float) -> None:
        """The pass is over: multiply the gradients that it accumulated by ``inverse``, and test them."""
        if self._known or not self._in_cpp.unscale(inverse):
            self._finite_cache.multiply_(gradients_at(self.tensors().values()), inverse)

    def leaves(self, wanted: bool) -> Iterable[Tensor]:
        """The leaves of the running pass, if they are ``wanted`` or one may have a gradient that is not finite."""
        if wanted or self._known or self._left or not self._in_cpp.unchanged():
            return (self._left | self.tensors()).values()
        return ()

    def unscale_in_graph(self, inverse: float) -> None:
        """As :meth:`unscale`, but not in place: these gradients are part of a graph or of results."""
        for tensor in self.tensors().values():
            if tensor.grad is not None:
                tensor.grad = tensor.grad * inverse

    def reach(self, tensors: Iterable[Tensor], create: bool = False) -> None:
        """The pass will accumulate into ``tensors``: multiply the gradients that they already have by its scale.

        Args:
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
        """Those of ``tensors`` that were not reached before, each once; they count as reached from now on."""
        asked = list(tensors)
        if not asked:
            return asked
        self._take()
        new = {id(tensor): tensor for tensor in asked if id(tensor) not in self._known}
        self._known |= new
        for key in new:
            self._left.pop(key, None)
        return list(new.values())

    def _bring(self, tensors: list[Tensor]) -> None:
        """Multiply the gradients of ``tensors`` by the scale of the pass."""
        self._set_aside(tensors)
        if gradients := gradients_at(tensors):
            multiply_(gradients, self._scale)

    def _set_aside(self, tensors: Iterable[Tensor]) -> None:
        """Put copies in the place of gradients with a graph: the pass itself may need these unchanged."""
        for tensor in tensors:
            if (grad := tensor.grad) is not None and grad.requires_grad:
                self._aside.append((tensor, grad))
                tensor.grad = grad.detach().clone()

    def put_back(self) -> None:
        """The pass is over and gradients are unscaled: copy the values of the copies into the gradients set aside."""
        while self._aside:
            tensor, grad = self._aside.pop()
            if tensor.grad is not None:
                with torch.no_grad():
                    grad.copy_(tensor.grad)
                tensor.grad = grad

    def reach_inside(self, tensors: Iterable[Tensor]) -> None:
        """As :meth:`reach`, for tensors inside the graph."""
        for tensor in self._new(tensors):
            # Without this, PyTorch warns when ``.grad`` is read.
            if tensor.retains_grad and (grad := tensor.grad) is not None:
                tensor.grad = scaled = grad * self._scale
                self._inside.append((tensor, grad, scaled))

    def pass_by(self) -> None:
        """The pass is over: tensors inside the graph that it did not reach get their old gradients back."""
        while self._inside:
            tensor, grad, scaled = self._inside.pop()
            if tensor.grad is scaled:
                tensor.grad = grad
                self._known.pop(id(tensor), None)

    def retained(self) -> Iterable[Tensor]:
        """The tensors inside the graph for which the script has called ``retain_grad``."""
        return tuple(self._retained.values()) if self._retained else ()

    def retaining(self, original: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """Wrap ``Tensor.retain_grad``, as these gradients have to be unscaled, too."""

        def retain_grad(tensor: Tensor) -> None:
            original(tensor)
            if not tensor.is_leaf:
                self._retained[id(tensor)] = tensor

        return retain_grad
