"""Restores BatchNorm's running statistics after a skipped step (pytorch#90342)."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.jit._script import RecursiveScriptModule
from torch.nn.modules.batchnorm import _NormBase

from halfstep.passed_on import StateDict
from halfstep.pytorch.patches import Patches
from halfstep.takeover.identity import IdentitySet
from halfstep.takeover.patches import descendants

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Copies:
    """Copies of tensors with a few numbers per channel; one fused call per dtype renews them."""

    def __init__(self, live: Iterable[Tensor] = ()) -> None:
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []
        self.add(live)

    def __bool__(self) -> bool:
        return bool(self._live)

    @torch.no_grad()
    def add(self, live: Iterable[Tensor]) -> None:
        """Copy ``live``, too."""
        new = list(live)
        self._live += new
        self._kept += [tensor.clone() for tensor in new]
        alike: defaultdict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for tensor, copy in zip(self._live, self._kept, strict=True):
            tensors, copies = alike[tensor.dtype, tensor.device]
            tensors.append(tensor)
            copies.append(copy)
        self._pairs = list(alike.values())

    @torch.no_grad()
    def again(self, live: list[Tensor]) -> Copies:
        """Copy ``live`` as they are now, into the same memory if it fits."""
        if list(map(id, live)) != list(map(id, self._live)):
            return Copies(live)
        for tensors, copies in self._pairs:
            torch._foreach_copy_(copies, tensors)
        return self

    def put_back(self) -> None:
        """Copy the values back."""
        for tensors, copies in self._pairs:
            _copy(tensors, copies)

    def of(self, live: Iterable[Tensor]) -> Copies:
        """The copies of ``live`` alone, if there are any, in their own memory."""
        wanted = set(map(id, live))
        found = Copies()
        pairs = [pair for pair in zip(self._live, self._kept, strict=True) if id(pair[0]) in wanted]
        found.add(tensor for tensor, _ in pairs)
        _copy(found._kept, [kept for _, kept in pairs])
        return found


@torch.no_grad()
def _copy(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Write ``values`` unknown to autograd: a graph that has saved the tensors does not use their numbers."""
    if tensors:
        with _unsafe_preserve_version_counter(tuple(tensors)):
            torch._foreach_copy_(tensors, values)


class Statistics:
    """Keeps copies of the running statistics of all normalisation layers from before the forward passes of a step.

    They are made before the first training forward pass after a step, and outlive the next step: another optimizer may
    still use the gradients of the same backward pass, and find them bad. A forward pass in between changes the
    statistics; before it a second set of copies is made. The next backward pass decides which of the two sets a skipped
    step needs.

    A skipped step restores only layers that its own pass has reached. The others belong to another network, whose own
    pass is still to come (the generator's, at a step of the discriminator); until then their older copies are kept. A
    pass has reached a layer if it has reached one of its parameters. For a layer without trainable parameters that is
    unknown, and is assumed.
    """

    def __init__(self) -> None:
        self._made: IdentitySet[_NormBase] = IdentitySet()
        self._seen: IdentitySet[_NormBase] = IdentitySet()
        self._copies = self._of_pass = self._spare = Copies()
        self._changing = False
        self._compiled_calls = 0
        self._changed: set[_NormBase] = set()
        self._older: dict[_NormBase, Copies] = {}
        self._came_by: set[int] | None = None
        self._used = False

    @property
    def kept(self) -> bool:
        """Whether there are copies that a skipped step would need."""
        return bool(self._copies or self._of_pass)

    def install(self, patches: Patches) -> None:
        """Wrap the forward pass of every normalisation layer, and calls of compiled code."""
        subclasses = [_NormBase, *descendants(_NormBase)]
        for cls in subclasses:
            if "forward" in vars(cls):
                patches.wrap(cls, "forward", self._before_forward)
        patches.set(_NormBase, "__init_subclass__", classmethod(self._subclassing(patches)))
        patches.wrap(_NormBase, "__init__", self._making)
        patches.set(_NormBase, "__setstate__", self._unpickling())
        patches.wrap(torch, "compile", lambda original: self._compiling(original, patches))
        patches.set(RecursiveScriptModule, "_construct", staticmethod(self._scripting()))
        patches.set(RecursiveScriptModule, "__call__", self._before_compiled(_call))

    def adopt(self, layers: Iterable[_NormBase]) -> None:
        """Take in layers that the program made before, and note functions that it compiled before."""
        self._made.update(layers)
        if "torch._dynamo.eval_frame" in sys.modules:
            self._compiled_calls += 1
            self._about_to_change([layer for layer in self._made if layer.training])

    def _subclassing(self, patches: Patches) -> Callable[..., None]:
        """Wrap the forward pass of classes of layers that are made later, too."""

        def __init_subclass__(cls: Any, **kwargs: Any) -> None:
            super(_NormBase, cls).__init_subclass__(**kwargs)  # type: ignore[misc]
            if "forward" in vars(cls):
                patches.wrap(cls, "forward", self._before_forward)

        return __init_subclass__

    def _before_forward(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
            if layer.training and not traced:
                self._about_to_change([layer])
            return original(layer, *args, **kwargs)

        return forward

    def _making(self, original: Callable[..., None]) -> Callable[..., None]:
        def make(layer: Any, *args: Any, **kwargs: Any) -> None:
            original(layer, *args, **kwargs)
            if not torch.compiler.is_compiling():
                self._made.add(layer)

        return make

    def _unpickling(self) -> Callable[..., None]:
        """Wrap ``__setstate__`` of layers, which a deep copy calls, too."""

        def __setstate__(layer: Any, state: StateDict) -> None:
            super(_NormBase, layer).__setstate__(state)  # type: ignore[misc]
            self._made.add(layer)

        return __setstate__

    def _scripting(self) -> Callable[..., Any]:
        """Take in the modules that TorchScript makes from a model's: they hold the same statistics."""
        original = RecursiveScriptModule._construct

        def construct(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)  # type: ignore[no-untyped-call]
            if hasattr(made, _BUFFERS[0]):
                self._made.add(made)
            return made

        return construct

    def _compiling(self, original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
        """Wrap ``torch.compile``, and what it returns for a module or a function."""
        looked_in = False

        def compile(*args: Any, **kwargs: Any) -> Any:
            nonlocal looked_in
            compiled = original(*args, **kwargs)
            if not looked_in:  # only now, because this imports the compiler
                looked_in = True
                from torch._dynamo.eval_frame import OptimizedModule

                patches.wrap(OptimizedModule, "__call__", self._before_compiled)
            model = args[0] if args else kwargs.get("model")
            plain = model is None or isinstance(model, (torch.nn.Module, type)) or compiled is model
            return compiled if plain else functools.wraps(compiled)(self._before_compiled(compiled))

        return compile

    def _before_compiled(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap compiled code; it may use any layer in training mode."""

        def compiled(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return original(*args, **kwargs)
            self._about_to_change([layer for layer in self._made if layer.training])
            self._compiled_calls += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._compiled_calls -= 1

        return compiled

    def _about_to_change(self, layers: Iterable[_NormBase]) -> None:
        """Copy the statistics of all known layers and of ``layers``, before the first of them changes."""
        layers = list(layers)
        self._changed.update(layers)
        new = [layer for layer in layers if layer not in self._seen]
        self._seen.update(new)
        if self._changing:
            if new:
                self._copies.add(_buffers(new))
        elif self._seen:
            if not self._of_pass:
                self._of_pass, self._copies, self._spare = self._copies, self._spare, Copies()
            self._copies = self._copies.again(_buffers(self._seen))
            self._changing = True

    def now(self) -> Copies:
        """Copies of the statistics of all known layers."""
        return Copies(_buffers(self._made))

    def begin_pass(self) -> None:
        """A backward pass is about to start: gradients of the pass before are used, or are part of this pass's sum."""
        if self._used:
            self._came_by, self._used = None, False
        if self._of_pass:
            self._spare, self._of_pass = self._of_pass, Copies()
        if self._copies and not self._changing:
            self._copies = Copies()

    def came_by(self, leaves: Iterable[Tensor]) -> None:
        """The pass that is over has reached ``leaves``; none are given if it does not matter."""
        if ids := set(map(id, leaves)):
            self._came_by = ids | (self._came_by or set())

    def stepped(self, finite: bool) -> None:
        """A step was made or skipped; a skipped one restores the statistics from before its pass."""
        if self._came_by is not None:
            self._stepped_in_part(finite, self._came_by)
        else:
            if not finite:
                (self._of_pass or self._copies).put_back()
            self._changed.clear()
        self._changing, self._used = False, True
        if self._compiled_calls:  # the next forward pass may happen in the same call
            self._about_to_change(())

    def _stepped_in_part(self, finite: bool, came_by: set[int]) -> None:
        """As :meth:`stepped`, if it is known which leaves the pass has reached."""
        copies = self._of_pass or self._copies
        passed = [layer for layer in self._seen if _reached(layer, came_by)]
        if not finite:
            copies.of(_buffers(passed)).put_back()
            for layer in passed:
                if layer in self._older:
                    self._older[layer].put_back()
        for layer in passed:
            self._older.pop(layer, None)
        self._changed.difference_update(passed)
        for layer in self._changed:
            self._older.setdefault(layer, copies.of(_buffers([layer])))


def _call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    return torch.nn.Module.__call__(module, *args, **kwargs)


def _reached(layer: _NormBase, leaves: set[int]) -> bool:
    trainable = [p for p in layer.parameters(recurse=False) if p.requires_grad]
    return not trainable or any(id(p) in leaves for p in trainable)


def _buffers(layers: Iterable[_NormBase]) -> list[Tensor]:
    return [b for layer in layers for name in _BUFFERS if (b := getattr(layer, name, None)) is not None]
