"""Where a recipe's autocast is in force: the author's boundaries.

A region is the outermost call of a model; what the model returns comes back to the script as fp32. So losses, metrics,
data, work on gradients and building a model are computed as python computes them. Where a framework or the script
itself has regions, it is exactly those.

Programs that call *layers* with no model around them (a forward pass in a plain function, or in a method that is not
``forward``) have a longer region: from the first layer that is called under grad to the backward pass. A region per
layer would turn everything between two layers to fp32. Programs whose optimizer holds parameters that no module's call
has reached have one from each step to the next backward pass.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.utils.checkpoint
from torch import clear_autocast_cache, get_autocast_dtype, is_grad_enabled, nn
from torch.optim import Optimizer

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
    set_place,
    switch_on,
)
from halfstep.pytorch.devices import device_types, in_use
from halfstep.pytorch.patches import Patches, not_compiled_alone, outside_compiler

#: what the region of a program is: the outermost call of a model, from a layer to the backward pass, the script's own,
#: a framework's, or (bare parameters) from a step to the next backward pass
Kind = Literal["model", "layers", "own", "framework", "parameters"]

#: what stands for ``cache_enabled`` in a ``torch.autocast`` that is no script's, which gives a bool there:
#: a region of the recipe, traced by a compiler
OURS = 2
#: activation checkpointing recomputes what was computed inside a model, where autocast may have been off
RECOMPUTES = 3


class Regions(NoRegions):
    """Puts autocast to ``dtype`` where the author means it to be.

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

    @property
    def promotes(self) -> bool:
        """Whether 16-bit and mixed operands are promoted to float32 wherever the program computes outside of ``dtype``.

        It holds 16-bit numbers, and its author's operands all had one dtype.
        """
        return self._around.promotes

    def install(self, patches: Patches) -> None:
        """Wrap the call of modules."""
        own = inspect.unwrap(nn.Module.__call__)
        patches.when_imported("torch._dynamo.utils", lambda utils: _let_compilers_trace(utils, own))
        patches.wrap(nn.Module, "__call__", self._call)
        self._roles.install(patches)
        keep_cache_whole(patches)
        custom_functions.install(self.devices, self.region, lambda: self.promotes, patches)
        if self.dtype is not torch.float32:
            leaving_pytorch.widen(self.dtype, self._holds_its_tensors, patches)
        patches.wrap(torch.utils.checkpoint, "_get_autocast_kwargs", _with_place)
        patches.wrap(threading.Thread, "_bootstrap_inner", self._in_thread)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """The program made these before."""
        self._roles.adopt(optimizers)

    def leave(self) -> None:
        """Autocast is off in this thread, and no call opens a region any more."""
        self._around.gone = True
        self._around.close()
        set_place(OUTSIDE)  # an interrupt may have come between entering a region and leaving it
        self._around.be_outside()
        torch.set_autocast_cache_enabled(True)
        self.forget_casts()

    def forget_casts(self) -> None:
        """Drop the cached 16-bit copies of weights; no pass over memory, no sync."""
        clear_autocast_cache()

    def of_framework(self) -> AbstractContextManager[None]:
        """A region that a framework enters by itself, where its own would be: model calls elsewhere open none."""
        self._become("framework")
        self._opened()
        return self.region() if self.wanted else nullcontext()

    def want(self) -> None:
        """The program holds 16-bit numbers, or has regions of its own: under fp32 they need one that promotes."""
        self.wanted = True

    def without_modules(self) -> None:
        """What an optimizer holds was 16-bit and is in no module: what meets it may be so still, from now on."""
        if self._kind is None:
            self._without_a_model()

    def promote(self) -> None:
        """The program holds 16-bit numbers, whose operands may meet fp32 ones."""
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
        """A region in which module calls are parts, and from which results come as they are."""
        return Region(in_use(self.devices), self.dtype, INSIDE)

    def _around_call(self, module: nn.Module) -> Region:
        """The region of a call: on the devices of the module's parameters, so that beside a GPU a CPU keeps fp32."""
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
        """As it was before :meth:`paused`: an optimizer's closure runs a forward pass."""
        if self._kind == "parameters":
            self._open()
        on = self.promotes or place() is not OUTSIDE
        return Switched(in_use(self.devices), on, outside=self.promotes)

    def aside(self) -> AbstractContextManager[None]:
        """Autocast off, and no module call opens a region: data are prepared.

        A program that holds 16-bit numbers may prepare data with a model whose cast to 16 bits was not applied.
        """
        if self.promotes:
            return Region(self.devices, torch.float32, OUTSIDE)
        return Switched(self.devices, False, INSIDE)

    def begin_pass(self) -> None:
        """A backward pass is about to start: a region from a layer or a step to it ends here."""
        self.forget_casts()  # its graph has them: they go one by one, as the pass comes by
        self._around.close()

    def after_pass(self) -> None:
        """The backward pass is over: cast weights were part of its graph."""
        self.forget_casts()

    def after_step(self) -> None:
        """Weights have changed."""
        self.forget_casts()
        if self._kind == "parameters":
            self._open()
        else:
            self._around.close()

    def after_step_by_hand(self) -> None:
        """A backward pass of a program without optimizers: weights are about to change."""
        self._roles.reached_most(())
        if self._kind == "parameters":
            self._open()
        elif self._kind is None:
            self._without_a_model()

    def after_pass_within(self) -> None:
        """Gradients have been computed that have a graph: the forward pass goes on with them."""
        if self._kind == "parameters":
            self._open()

    def after_first_step(self, optimizers: Iterable[Optimizer]) -> None:
        """Everything that the program calls has been called once."""
        reached = self._roles.reached_most(optimizers)  # which is remembered until now, and no longer
        if self._kind in (None, "model") and not reached:
            self._without_a_model()

    def outer(self) -> Outer:
        """What a ``torch.autocast`` that is about to be entered has to leave behind."""
        return self._around.before()

    def entered(self, outer: Outer, dtype: torch.dtype | None, where: torch.dtype) -> None:
        """It has been entered to ``dtype``, or off (None), for the device it names; the recipe's is the one in use.

        One that is off outside of every region is a switch of the script's, and changes nothing.
        """
        if dtype is not None:
            switch_on(in_use(self.devices), dtype)
        elif self.promotes:
            switch_on(self.devices, torch.float32)
        elif outer.place is not OUTSIDE:
            for device in self.devices:
                torch.set_autocast_enabled(device, False)
        if (dtype is not None or where is not AROUND) and outer.place is OUTSIDE:
            set_place(where)
        own = dtype is not None and where is AROUND and is_grad_enabled()
        self._entered = self._entered or own
        if own and outer.place is INSIDE:
            self._become("own")  # inside of a model's forward, which is a part of it from the next call on

    def left(self, outer: Outer) -> None:
        """It has been left."""
        self._around.back_to(outer)

    def _holds_its_tensors(self) -> bool:
        """Whether a 16-bit tensor that the script holds may come from a region: in one, or where results stay so."""
        return self._kind in ("layers", "parameters") or place() is not OUTSIDE

    def _without_a_model(self) -> None:
        """No call of a module reaches what is trained: its region is the script's own, or lasts to the next pass."""
        self._become("own" if self._entered else "parameters")
        if not self._entered:
            self._open()

    def _become(self, kind: Kind) -> None:
        if self._kind != kind and not (self._kind == "framework" and kind != "own"):
            self._kind = kind
            if self.wanted and not self._around.gone:
                self._told(kind)

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        inside, device_of = INSIDE, self._device_in_compiled_code()
        is_own = original is nn.Module._wrapped_call_impl

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if get_autocast_dtype(PLACE) is inside:
                if is_own:  # what it does, done here: a frame less in every call
                    compiled: Any = module._compiled_call_impl
                    return (compiled or module._call_impl)(*args, **kwargs)
                return original(module, *args, **kwargs)
            if not torch.compiler.is_compiling():
                return outside_compiler(self._outermost, original, module, args, kwargs)
            device = device_of(module)
            if not device:
                return original(module, *args, **kwargs)
            with torch.autocast(device, cache_enabled=OURS):  # type: ignore[arg-type]
                result = original(module, *args, **kwargs)
            return to_fp32(result)

        return not_compiled_alone(__call__)

    def _device_in_compiled_code(self) -> Callable[[nn.Module], str]:
        """Tells a compiler that traces a module's call on which device a region is to be traced around it, if any."""

        def device_of(module: nn.Module) -> str:
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

        # As torch.compiler.assume_constant_result does, which imports the compiler.
        device_of._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return device_of

    def _outermost(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call that no other module's call encloses."""
        where = place()
        if self._around.gone and not self.promotes:
            return original(module, *args, **kwargs)
        if torch._C._get_tracing_state() is not None:
            # The program keeps the graph: as python writes it, it runs in any region.
            with self.aside():
                return original(module, *args, **kwargs)
        if self.promotes and where is OUTSIDE:
            self._around.be_outside()
        role = self._roles.of(module, args)
        if role is Role.NONE and next(iter(module.parameters()), None) is None:
            return original(module, *args, **kwargs)
        args, kwargs = self._entry(module, args, kwargs)
        if role is Role.NONE or self._around.gone:
            return self._promoted(original, module, args, kwargs)
        if where is AROUND:
            return self._inside_another(original, module, args, kwargs, role)
        if not self.wanted or self._kind in ("own", "framework"):
            run = self._promoted if self.promotes else self._as_a_part
            return run(original, module, args, kwargs)
        narrow = self.dtype is not torch.float32
        if role is Role.LAYER and narrow and is_grad_enabled() and self._kind in (None, "layers"):
            self._become("layers")
            self._open()
            return original(module, *args, **kwargs)
        if role is Role.MODEL and is_grad_enabled():
            self._become("model")
        with self._around_call(module):
            result = original(module, *args, **kwargs)
        return to_fp32(result)

    def _promoted(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call that is in no region of the recipe's: of 16-bit and fp32 operands it computes in fp32."""
        if not self.promotes or place() is not OUTSIDE:
            return original(module, *args, **kwargs)
        with Region(self.devices, torch.float32, INSIDE):
            return original(module, *args, **kwargs)

    def _inside_another(
        self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any, role: Role
    ) -> Any:
        """In a region of the script's own; or a model after a layer, which is then no program of layers alone."""
        if role is Role.MODEL and self._kind == "layers":
            # From the next pass on: in this one the script may hold 16-bit results of layers.
            self._become("model")
        if is_grad_enabled() and not self._around.is_open:
            self._become("own")
        if role is Role.LAYER:
            return original(module, *args, **kwargs)
        return self._as_a_part(original, module, args, kwargs)

    @staticmethod
    def _as_a_part(original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call in or beside somebody's region: what it calls is part of it."""
        outer = place()
        set_place(INSIDE)
        try:
            return original(module, *args, **kwargs)
        finally:
            set_place(outer)

    def _open(self) -> None:
        if self.wanted:
            self._around.open()

    def _in_thread(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _bootstrap_inner(thread: threading.Thread) -> None:
            if self.promotes:
                self._around.be_outside()
            if self._kind == "parameters":
                self._open()
            original(thread)

        return _bootstrap_inner


def _with_place(original: Callable[..., Any]) -> Callable[..., Any]:
    """What activation checkpointing restores before it recomputes: the place, too."""

    def _get_autocast_kwargs(*args: Any, **kwargs: Any) -> Any:
        of_device, of_cpu = original(*args, **kwargs)
        if place() is INSIDE:
            of_cpu["cache_enabled"] = RECOMPUTES
        return of_device, of_cpu

    return _get_autocast_kwargs


def _let_compilers_trace(utils: Any, own: Callable[..., Any]) -> None:
    """Dynamo keeps the ``__call__`` that it finds when it is imported, and goes past it straight to ``forward``.

    PyTorch's own it may go past, whether a recipe is in force or not.
    """
    utils.unpatched_nn_module_call = own
