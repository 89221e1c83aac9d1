"""The region of a program: what every recipe with autocast does as the program runs.

It wraps the calls of modules, opens and ends the region, and knows which kind the program's region is.
:class:`~halfstep.pytorch.autocast.regions.Regions` and :class:`~halfstep.pytorch.autocast.true_regions.TrueRegions` say
what one outermost call of a module is under their recipes.
"""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.utils.checkpoint
from torch import clear_autocast_cache, fx, get_autocast_dtype, is_grad_enabled, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from halfstep.pytorch import torchscript
from halfstep.pytorch.autocast import custom_functions, leaving_pytorch
from halfstep.pytorch.autocast.around import Around, Outer
from halfstep.pytorch.autocast.no_regions import Entered, NoRegions
from halfstep.pytorch.autocast.results import to_fp32
from halfstep.pytorch.autocast.roles import Role, Roles
from halfstep.pytorch.autocast.state import (
    AROUND,
    INSIDE,
    OUTSIDE,
    PLACE,
    Region,
    Switched,
    keep_cache_whole,
    place,
    recompute_in_place,
    set_place,
    switch_on,
)
from halfstep.pytorch.devices import device_types, in_use
from halfstep.pytorch.patches import Patches, outside_compiler

#: the kinds of regions: the outermost call of a model, from a layer to the backward pass, the script's own, a
#: framework's, or (bare parameters) from a step to the next backward pass
Kind = Literal["model", "layers", "own", "framework", "parameters"]

#: stands for ``cache_enabled``, which is a bool in a script's ``torch.autocast``, in a region of the recipe that a
#: compiler traces
OURS = 2


class ProgramRegion(NoRegions, ABC):
    """Switches autocast to ``dtype`` on and off as the program runs.

    Args:
        dtype: what products compute in. float32 (the recipes fp32 and tf32): 16-bit and mixed operands are promoted.
        told: called with the kind of the program's region when it is known, and again if it changes.

    Attributes:
        wanted: whether a region is opened at all; under fp32 only where the program holds 16-bit numbers.
    """

    def __init__(self, dtype: torch.dtype, told: Callable[[Kind], None]) -> None:
        self.dtype: torch.dtype = dtype
        self.devices = device_types()
        self.wanted = dtype is not torch.float32
        self._told = told
        self._kind: Kind | None = None
        self._around = Around(self.devices, dtype)
        self._roles = Roles()
        self._entry: Entered = lambda module, args, kwargs: (args, kwargs)
        self._opened: Callable[[], None] = lambda: None
        self._entered = False  # whether the script has entered a region of its own, under grad
        self._narrow_weights = False

    @property
    def promotes(self) -> bool:
        """Whether 16-bit and mixed operands are promoted to float32 wherever the program computes outside of ``dtype``.

        It does so because the program holds 16-bit numbers: in its own code all operands of an operation have one
        dtype.
        """
        return self._around.promotes

    @property
    def _promotes_inside(self) -> bool:
        """Likewise in calls of models: there also where only the recipe has made weights 16-bit."""
        return self.promotes or self._narrow_weights

    def install(self, patches: Patches) -> None:
        """Wrap the call of modules."""
        own = inspect.unwrap(nn.Module.__call__)
        patches.when_imported("torch._dynamo.utils", lambda utils: _let_compilers_trace(utils, own))
        patches.wrap(nn.Module, "__call__", self._call)
        torchscript.call_methods(self._method_called, patches)
        self._roles.install(patches)
        keep_cache_whole(patches)
        custom_functions.install(self.devices, self.region, lambda: self.promotes, patches)
        if self.dtype is not torch.float32:
            leaving_pytorch.widen(self.dtype, self._holds_its_tensors, patches)
        patches.wrap(torch.utils.checkpoint, "_get_autocast_kwargs", recompute_in_place)
        patches.wrap(threading.Thread, "_bootstrap_inner", self._in_thread)
        patches.wrap(ParametrizationList, "__init__", self._building)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Take in optimizers that the program made before."""
        self._roles.adopt(optimizers)

    def leave(self) -> None:
        """Switch autocast off in this thread; no call opens a region any more."""
        self._around.gone = True
        self._around.close()
        set_place(OUTSIDE)  # an interrupt may have come between entering a region and leaving it
        self._around.be_outside()
        torch.set_autocast_cache_enabled(True)
        self.forget_casts()

    def forget_casts(self) -> None:
        """Drop the cached 16-bit copies of weights; no pass over memory, no sync."""
        clear_autocast_cache()

    def weights_are_narrow(self) -> None:
        """Promote a model's 16-bit weights where the script computes in fp32 with them (``bf16-lean``)."""
        self._narrow_weights = True

    def want(self) -> None:
        """Open regions under fp32, too: the program holds 16-bit numbers or has regions of its own."""
        self.wanted = True

    def promote(self) -> None:
        """Promote 16-bit numbers to float32 where they meet fp32 ones: the program holds some."""
        self.wanted = self._around.promotes = True
        if torch.compiler.is_compiling():
            return
        if place() is OUTSIDE:
            self._around.be_outside()
        elif self.dtype is torch.float32:  # found inside of a model: for the rest of its call
            switch_on(self.devices, torch.float32)

    def on_entry(self, entered: Entered, opened: Callable[[], None] = lambda: None) -> None:
        """Have ``entered`` called before each outermost call of a module that has parameters.

        Args:
            entered: returns what to call the module with.
            opened: called before a framework enters a region by itself, in which no call is outermost.
        """
        self._entry, self._opened = entered, opened

    def region(self) -> Region:
        """A region whose results are not cast, and inside which no module call opens another region."""
        return Region(in_use(self.devices), self.dtype, INSIDE)

    def _around_call(self, module: nn.Module) -> Region:
        """The region of a call, on the devices of the module's parameters: beside a GPU a CPU keeps fp32."""
        return Region(self._devices_of(module), self.dtype, INSIDE)

    def _devices_of(self, module: nn.Module) -> Sequence[str]:
        if len(self.devices) == 1:
            return self.devices
        types = {parameter.device.type for parameter in module.parameters()}
        return [device for device in self.devices if device in types] or in_use(self.devices)

    def paused(self) -> Switched:
        """Autocast off: the backward pass and the optimizer's arithmetic keep the dtypes that they are given."""
        return Switched(self.devices, False, outside=self.promotes)

    def resumed(self) -> Switched:
        """Autocast as it was before :meth:`paused`, for an optimizer's closure, which runs a forward pass."""
        if self._kind == "parameters":
            self._open()
        on = self.promotes or place() is not OUTSIDE
        return Switched(in_use(self.devices), on, outside=self.promotes)

    def aside(self) -> AbstractContextManager[None]:
        """Autocast off, and no module call opens a region: for code that prepares data.

        Where the program holds 16-bit numbers it is on, to float32: a model that prepares data may have fp32 weights,
        since its cast to 16 bits was not applied, and be given 16-bit data.
        """
        if self.promotes:
            return Region(self.devices, torch.float32, OUTSIDE)
        return Switched(self.devices, False, INSIDE)

    def begin_pass(self) -> None:
        """A backward pass is about to start: a region that lasts to it ends here."""
        self.forget_casts()  # the graph still holds them, and frees each when the pass has used it
        self._around.close()

    def after_pass(self) -> None:
        """The backward pass is over, and its graph with the cast weights is gone."""
        self.forget_casts()

    def after_step(self) -> None:
        """Weights have changed."""
        self.forget_casts()
        if self._kind == "parameters":
            self._open()
        else:
            self._around.close()

    def after_pass_within(self) -> None:
        """Gradients with a graph have been computed inside a forward pass, which goes on."""
        if self._kind == "parameters":
            self._open()

    def outer(self) -> Outer:
        """The state of this thread before it enters a ``torch.autocast``, which has to restore it."""
        return self._around.before()

    def entered(self, outer: Outer, dtype: torch.dtype | None, where: torch.dtype) -> None:
        """The script has entered a ``torch.autocast`` for the device it names; the recipe's devices are those in use.

        Args:
            outer: what :meth:`outer` returned before.
            dtype: what it computes in; None where it is off. One that is off outside of every region changes nothing.
            where: the place that it puts the thread in.
        """
        if dtype is not None:
            switch_on(in_use(self.devices), dtype)
        elif self.promotes or outer.place is not OUTSIDE:
            # Not off: what the region around gave is 16-bit, and in the script's own code all operands are fp32.
            switch_on(self.devices, torch.float32)
        if (dtype is not None or where is not AROUND) and outer.place is OUTSIDE:
            set_place(where)
        own = dtype is not None and where is AROUND and is_grad_enabled()
        self._entered = self._entered or own
        if own and outer.place is INSIDE:
            self._become("own")  # inside a model's forward: from its next call on the model opens no region

    def left(self, outer: Outer) -> None:
        """The script has left the ``torch.autocast`` before which :meth:`outer` returned ``outer``."""
        self._around.back_to(outer)

    def _holds_its_tensors(self) -> bool:
        """Whether a 16-bit tensor that the script holds may come from a region: inside it, or if results stay so."""
        return self._kind in ("layers", "parameters") or place() is not OUTSIDE

    def _become(self, kind: Kind) -> None:
        if self._kind != kind and not (self._kind == "framework" and kind != "own"):
            self._kind = kind
            if self.wanted and not self._around.gone:
                self._told(kind)

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        inside, (note_device, noted_device) = INSIDE, self._device_in_compiled_code()
        is_own = original is nn.Module._wrapped_call_impl

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if get_autocast_dtype(PLACE) is inside:
                if is_own:  # do here what it does: saves a frame in every call
                    compiled: Any = module._compiled_call_impl
                    return (compiled or module._call_impl)(*args, **kwargs)
                return original(module, *args, **kwargs)
            if not torch.compiler.is_compiling():
                if _is_compiled_graph(module):
                    return original(module, *args, **kwargs)
                return outside_compiler(self._outermost, original, module, args, kwargs)
            from torch._dynamo.comptime import comptime

            comptime(note_device)
            device = noted_device()
            if not device:
                return original(module, *args, **kwargs)
            with torch.autocast(device, cache_enabled=OURS):  # type: ignore[arg-type]
                result = original(module, *args, **kwargs)
            return to_fp32(result)

        return __call__

    def _device_in_compiled_code(self) -> tuple[Callable[[Any], None], Callable[[], str]]:
        """Tells a compiler, when it traces a module's call, the device of the region around it; empty for no region.

        Returns:
            What Dynamo is to call with its context, and a constant for it afterwards: the device. Given the module, a
            constant would hold for that one alone, and code through which several models go would be compiled for each.
        """
        device = ""

        def note(context: Any) -> None:
            nonlocal device
            variable = context.get_local("module")._i_will_not_complain_if_bc_breaks_VariableTracker()
            device = self._device_of_compiled(variable.realize().value)

        def noted() -> str:
            return device

        # As torch.compiler.assume_constant_result does, which imports the compiler.
        noted._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return note, noted

    def _device_of_compiled(self, module: nn.Module) -> str:
        role = self._roles.of(module, ())
        if role is Role.NONE or self._around.gone or torch.compiler.is_exporting():
            return ""
        self._entry(module, (), {})
        if place() is AROUND:
            if is_grad_enabled() and not self._around.is_open:
                self._become("own")
            return ""
        if not self.wanted or self._kind in ("own", "framework"):
            return ""
        if is_grad_enabled():
            self._become("model")
        return self._devices_of(module)[-1]

    def _method_called(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A method of a model that TorchScript has compiled."""
        if place() is INSIDE or torch.compiler.is_compiling():
            return original(module, *args, **kwargs)
        return self._outermost(original, module, args, kwargs)

    @abstractmethod
    def _outermost(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Make a call that no other module's call encloses."""

    def _open(self) -> None:
        if self.wanted:
            self._around.open()

    def _building(self, original: Callable[..., None]) -> Callable[..., None]:
        """A layer calls a parametrization when it gets it, to compare the weight before and after."""

        def __init__(parametrizations: ParametrizationList, *args: Any, **kwargs: Any) -> None:
            with self.aside():
                original(parametrizations, *args, **kwargs)

        return __init__

    def _in_thread(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _bootstrap_inner(thread: threading.Thread) -> None:
            if self.promotes:
                self._around.be_outside()
            if self._kind == "parameters":
                self._open()
            original(thread)

        return _bootstrap_inner


def _is_compiled_graph(module: nn.Module) -> bool:
    """Whether Dynamo gave ``module`` to a backend, which calls it: its regions are inside it.

    The graph of a compiled optimizer holds weights and state, and must not be taken for a model. Where the backend
    returns the graph itself, Dynamo calls it through a module that keeps compilers out.
    """
    parts = module.__dict__.get("_modules")
    graph = parts.get("_orig_mod", module) if isinstance(parts, dict) else module
    return isinstance(graph, fx.GraphModule) and "backend_id" in graph.meta


def _let_compilers_trace(utils: Any, own: Callable[..., Any]) -> None:
    """Let Dynamo trace the replaced ``nn.Module.__call__``.

    Dynamo remembers the ``__call__`` that it finds when it is imported, and skips it. It may skip only PyTorch's own.
    """
    utils.unpatched_nn_module_call = own
