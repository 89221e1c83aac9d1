"""Which module is running in each thread, by its path in the model, and which tensors each returns."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from halfstep.pytorch.keep import WRAPPERS
from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.unseen import unseen_look
from halfstep.pytorch.watching.tensors import plain
from halfstep.takeover.identity import IdentityDict
from halfstep.takeover.looks import Looks

OUTSIDE = ""

#: a part of a model: its name, the part, and for each of its own parameters its name, its module, and its name there
Part = tuple[str, nn.Module, Iterable[tuple[str, nn.Module, str]]]
_NAME, TRIES = "watching: the module that runs", 16


@dataclass
class Call:
    """A module that is running."""

    path: str  #: its name in the outermost module; the name of its class if it is the outermost module itself
    kind: str
    in_pass: int  #: the backward pass that it runs in, where checkpointing runs modules again; -1 for none
    #: ids of the tensors that the modules inside it have returned
    children: set[int] = field(default_factory=set)


class Modules:
    """Follows calls of modules by wrapping them: hooks would miss calls under checkpointing, sharing and compiling.

    Args:
        entered: called with the arguments of each outermost call.
        left: called with a module's call and its output, if no module inside has returned that same tensor.

    Attributes:
        parts_of: gives the parts of a model; a framework on top of PyTorch may have its own names for them.
    """

    def __init__(
        self,
        entered: Callable[[Call, tuple[Any, ...]], object],
        left: Callable[[Call, Tensor], object],
        looks: Looks,
    ) -> None:
        self._entered, self._left, self._looks = entered, left, looks
        self._names: IdentityDict[nn.Module, str] = IdentityDict()
        # By identity: PyTorch swaps no parameter that has a weak reference.
        self._parameters: dict[int, tuple[weakref.ref[nn.Module], str, str]] = {}
        self._local = threading.local()
        self.parts_of: Callable[[nn.Module], Iterable[Part]] = named_parts
        self.kinds: dict[str, str] = {OUTSIDE: ""}

    def install(self, patches: Patches) -> None:
        """Wrap every call of a module, inside the wrapper that casts the results of a model."""
        patches.wrap(nn.Module, "_call_impl", self._call)

    @property
    def stack(self) -> list[Call]:
        """The modules that are running in this thread, the innermost last."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        found: list[Call] = self._local.stack
        return found

    @property
    def running(self) -> Call | None:
        """The innermost module whose forward pass is running; in a backward pass only one that is recomputed."""
        stack = self.stack
        if not stack or stack[-1].in_pass != torch._C._current_graph_task_id():
            return None
        return stack[-1]

    def path_of(self, parameter: Tensor) -> str:
        """The path of the module that owns a parameter, in the models called so far."""
        return self.name_of(parameter).rpartition(".")[0]

    def name_of(self, parameter: Tensor) -> str:
        """A parameter's full name; empty if no model that has been called owns it."""
        part, own, name = self._parameters.get(id(parameter), (None, "", ""))
        module = None if part is None else part()
        return "" if module is None or _parameter(module, own) is not parameter else name

    def weight_in(self, tensor: Tensor) -> Tensor | None:
        """The parameter whose memory ``tensor`` uses; None if no model that has been called owns it."""
        address = tensor.untyped_storage().data_ptr()
        parameters = (p for part in list(self._names) for p in part._parameters.values() if p is not None)
        return next((p for p in parameters if p.untyped_storage().data_ptr() == address), None)

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _call_impl(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            call = None if is_compiling() else self._enter(module, (*args, *kwargs.values()))
            if call is None:
                return original(module, *args, **kwargs)
            try:
                result = original(module, *args, **kwargs)
            finally:
                self.stack.pop()
            self._leave(call, result)
            return result

        return _call_impl

    @unseen_look(_NAME, TRIES)
    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> Call:
        stack = self.stack
        if not stack:
            self._name(module)
        call = Call(self._path(module), type(module).__name__, torch._C._current_graph_task_id())
        if not stack and not inside_backward():
            self._entered(call, args)
        stack.append(call)
        return call

    @unseen_look(_NAME, TRIES)
    def _leave(self, call: Call, result: Any) -> None:
        for tensor in tensors_in(result):
            if id(tensor) not in call.children:
                self._left(call, tensor)
            if self.stack:
                self.stack[-1].children.add(id(tensor))

    def _path(self, module: nn.Module) -> str:
        return self._names.get(module) or type(module).__name__

    def _name(self, outermost: nn.Module) -> None:
        """Learn the names of a model's parts and parameters at its first call."""
        if outermost in self._names:
            return
        for name, part, parameters in self.parts_of(outermost):
            self._names.setdefault(part, name)
            shown = name or type(part).__name__
            self.kinds.setdefault(shown, type(part).__name__)
            for own, holder, key in parameters:
                parameter = _parameter(holder, key)
                if parameter is not None and not self.name_of(parameter):
                    self._parameters[id(parameter)] = weakref.ref(holder), key, f"{shown}.{own}"


def _parameter(module: nn.Module, name: str) -> Tensor | None:
    return dict(module._parameters.items()).get(name)  # a module of TorchScript has no dictionary


def named_parts(outermost: nn.Module) -> Iterator[Part]:
    """The modules of a model by their paths in it, without the prefixes of compilers and data parallelism."""
    for path, part in outermost.named_modules():
        yield WRAPPERS.sub("", path), part, [(own, part, own) for own in part._parameters.keys()]  # noqa: SIM118 of TorchScript they are no dictionary


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in a module's output or arguments: alone, or in tuples, lists, dicts, dataclasses."""
    if isinstance(value, Tensor):
        if plain(value):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
