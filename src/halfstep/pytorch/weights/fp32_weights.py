"""Under a recipe with fp32 weights all weights are fp32, even if the program loaded, made or cast them as 16-bit.

16-bit weights are widened in place: those of an optimizer when it gets them, all others of a model at its first call,
or when the program shards or replicates it. Casts of a module to 16 bits are not applied. Inputs that the program casts
for its model (``model(x.to(torch.bfloat16))``) become float32 where they enter the model. float64 stays. In a program
that holds no 16-bit number nothing is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from halfstep.pytorch.callers import asked_by_script, asked_to_load
from halfstep.pytorch.dtypes import KEPT, SIXTEEN_BIT, format_name
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights import module_casts
from halfstep.pytorch.weights.before import Before
from halfstep.pytorch.weights.copies import Copies
from halfstep.pytorch.weights.entering import entering
from halfstep.pytorch.weights.narrowed import Narrowed
from halfstep.pytorch.weights.widening import is_alone, is_narrow, narrow_tensors, widen
from halfstep.takeover.identity import IdentitySet

_WIDE = (torch.float32, torch.float64)

#: the types of 16-bit tensors that ``set_default_tensor_type`` takes
_NARROW_TYPES = {"HalfTensor": torch.float16, "BFloat16Tensor": torch.bfloat16}

#: called with what the program holds, e.g. ``bf16 weights``, and the format's name
Note = Callable[[str, str], None]


class Fp32Weights:
    """Holds the weights of every model and optimizer in fp32.

    Args:
        compute: the dtype that autocast gives products, or None where they are computed in fp32.
        look: called with a model before its weights are looked at; it marks what ``keep=`` names.
        note: called when there are 16-bit weights.
        promote: called when 16-bit numbers are found, for regions that promote them.
        without_modules: called when an optimizer is given 16-bit parameters that are in no module.
    """

    def __init__(
        self,
        compute: torch.dtype | None,
        look: Callable[[nn.Module], None],
        note: Note,
        promote: Callable[[], None],
        without_modules: Callable[[], None],
    ) -> None:
        self._compute = compute
        self._look = look
        self._note = note
        self._promote = promote
        self._without_modules = without_modules
        self._copies = Copies()
        self._holds_16_bits = False
        self._read: IdentitySet[nn.Module] = IdentitySet()
        self._stepped = False
        self._held = Before(self._only_saved, self._trained, self.found)
        self._optimizers: IdentitySet[Optimizer] = IdentitySet()
        self._narrow_inputs = tuple(dtype for dtype in SIXTEEN_BIT if dtype is not compute)

    def install(self, patches: Patches) -> None:
        """Wrap what makes, casts and calls modules, and what makes optimizers."""
        module_casts.keep_values(self.found, patches)
        self._copies.install(patches)
        patches.wrap(Optimizer, "add_param_group", self._add_param_group)
        Narrowed(self.found, self._held.look_again, self._held.is_held, self._stays).install(patches)
        patches.wrap(nn.Module, "_apply", self._moving)
        for name in ("parameters", "named_parameters", "buffers", "named_buffers", "state_dict"):
            patches.wrap(nn.Module, name, self._reading)
        patches.wrap(nn.Module, "load_state_dict", self._loading)
        patches.wrap(torch, "set_default_dtype", self._set_default_dtype)
        patches.wrap(torch, "set_default_tensor_type", self._set_default_tensor_type)
        patches.wrap(nn.Module, "share_memory", lambda original: module_casts.sharing(original, self.hold))
        patches.wrap(nn.parallel.DistributedDataParallel, "__init__", self._replicating)

    def hold(self, module: nn.Module) -> None:
        """Make the weights of ``module`` fp32: parameters, and buffers that are saved with it.

        Frozen weights of linear layers and convolutions stay in 16 bits where autocast computes in 16 bits.
        """
        if module in self._held or torch.compiler.is_exporting():
            return
        self._look(module)
        self._widen(
            tensor for part in self._copies.with_copies(module) for tensor in self._narrow_tensors(part)
        )
        # What ``functional_call`` has swapped in for the length of a call may be part of a graph.
        swapped = {p.dtype for p in module.parameters() if not isinstance(p, nn.Parameter)}
        for dtype in swapped.intersection(SIXTEEN_BIT):
            self.found(dtype)
        if not swapped:
            self._held.remember(module)

    def hold_parameters(self, optimizer: Optimizer, tensors: Iterable[Tensor]) -> None:
        """Make the parameters ``tensors`` of ``optimizer`` fp32, whether in a module or not."""
        self._optimizers.add(optimizer)
        narrow = [tensor for tensor in tensors if is_narrow(tensor)]
        self._widen(narrow)
        if narrow and not any(isinstance(tensor, nn.Parameter) for tensor in narrow):
            self._without_modules()

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Widen the parameters of optimizers that the program made before."""
        for optimizer in optimizers:
            self.hold_parameters(optimizer, (p for group in optimizer.param_groups for p in group["params"]))

    def after_first_step(self) -> None:
        """The program has made its first step: what it needs is known."""
        self._stepped = True

    def _narrow_tensors(self, part: nn.Module) -> list[Tensor]:
        """The tensors to be widened; those that the script has cast by itself get their old values back first."""
        narrow = narrow_tensors(part, self._only_saved(part))
        self._held.restore(part, narrow)
        return [tensor for tensor in narrow.values() if is_narrow(tensor)]

    def _only_saved(self, part: nn.Module) -> bool:
        """Whether unsaved buffers and attributes stay as the program has them, as under autocast to 16 bits."""
        return self._compute is not None and KEPT not in part.__dict__

    def _stays(self, part: nn.Module, name: str) -> bool:
        return self._only_saved(part) and name in part._non_persistent_buffers_set

    def _widen(self, tensors: Iterable[Tensor]) -> None:
        narrow = {id(tensor): tensor for tensor in tensors}
        if not narrow:
            return
        for dtype in {tensor.dtype for tensor in narrow.values()}:
            self.found(dtype)
        widen(narrow.values())
        for optimizer in self._optimizers:
            _widen_state(optimizer, narrow)

    def found(self, dtype: torch.dtype) -> None:
        """The program holds, or asks for, numbers of ``dtype``."""
        name = format_name(dtype)
        self._holds_16_bits = True
        self._note(f"{name} weights", name)
        self._promote()

    def saves(self, tensor: Tensor) -> bool:
        """Whether ``tensor``, which the script is casting to 16 bits, is a weight, which it may be about to save.

        In compiled code it is none: a graph that runs as it was traced casts as its compiler has seen it.
        """
        if torch.compiler.is_compiling() or sys._getframe(2).f_code.co_filename.startswith("<eval_with_key>"):
            return False
        memory = tensor.data_ptr() if _has_memory(tensor) else 0
        known = (p for module in (*self._held, *self._read) for p in module.parameters())
        weights = chain(self._trained(), known)
        return memory != 0 and any(_has_memory(p) and p.data_ptr() == memory for p in weights)

    def _trained(self) -> Iterator[Tensor]:
        return (p for o in self._optimizers for group in o.param_groups for p in group["params"])

    def _add_param_group(self, original: Callable[..., None]) -> Callable[..., None]:
        def add_param_group(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self.hold_parameters(optimizer, optimizer.param_groups[-1]["params"])

        return add_param_group

    def _reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Look at a module whose weights the script reads: it may copy them for an average or ``functional_call``.

        During training it reads them at every step, to clip gradients: a look each time would cost too much.
        Safetensors holds what it reads while it loads a file, which may be fp32.
        """

        def read(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_dynamo_compiling() or (self._stepped and self._held.was_wide(module)):
                return original(module, *args, **kwargs)
            if asked_by_script() or asked_to_load():
                self._read.add(module)
                if self._widen_alone(module):
                    self._held.remember_as_wide(module)
            return original(module, *args, **kwargs)

        return read

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Widen a model before a checkpoint is loaded: a 16-bit model would round the checkpoint's fp32 numbers."""

        def load_state_dict(
            module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            if any(isinstance(value, Tensor) and value.dtype in _WIDE for value in state_dict.values()):
                self._widen_alone(module)
            return original(module, state_dict, *args, **kwargs)

        return load_state_dict

    def _widen_alone(self, module: nn.Module) -> bool:
        """Make the tensors of ``module`` fp32, except those that share memory with others and follow together later.

        Returns:
            Whether all of them are fp32 now.
        """
        narrow = [tensor for part in module.modules() for tensor in self._narrow_tensors(part)]
        self._widen(tensor for tensor in narrow if is_alone(tensor))
        return not narrow

    def _moving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _apply(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._held.forget(module)
            return original(module, *args, **kwargs)

        return _apply

    def _set_default_dtype(self, original: Callable[..., None]) -> Callable[..., None]:
        def set_default_dtype(d: torch.dtype) -> None:
            narrow = d in SIXTEEN_BIT and asked_by_script()
            if narrow:
                self.found(d)
            original(torch.float32 if narrow else d)

        return set_default_dtype

    def _set_default_tensor_type(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def set_default_tensor_type(t: Any) -> None:
            name = t if isinstance(t, str) else f"{t.__module__}.{t.__name__}"
            kind = name.rpartition(".")[2]
            if kind in _NARROW_TYPES and asked_by_script():
                self.found(_NARROW_TYPES[kind])
                t = name.replace(kind, "FloatTensor")
            original(t)

        return set_default_tensor_type

    def _replicating(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(replica: nn.Module, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            self.hold(module)
            original(replica, module, *args, **kwargs)

        return __init__

    def entered(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The script calls ``module`` with no other module's call around it; returns what to call it with.

        Tensors of autocast's own 16-bit dtype stay as they are.
        """
        if self._holds_16_bits and any(is_narrow(p) for p in self._trained()):
            self._held.look_again()  # the script has narrowed some by itself, as by ``p.data = p.data.half()``
        self.hold(module)
        made = entering(args, self._narrow_inputs), entering(kwargs, self._narrow_inputs)
        if self._compute is None and (made[0] is not args or made[1] is not kwargs):
            self._promote()
        return made


def _has_memory(tensor: Tensor) -> bool:
    made_of_others: Any = tensor  # is_traceable_wrapper_subclass narrows a Tensor to nothing
    return not (
        tensor.is_meta or is_functorch_wrapped_tensor(tensor) or is_traceable_wrapper_subclass(made_of_others)
    )


def _widen_state(optimizer: Optimizer, narrow: dict[int, Tensor]) -> None:
    """Widen state that was loaded or made before, as its parameters were."""
    for parameter, state in optimizer.state.items():
        if id(parameter) in narrow:
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT:
                    state[name] = value.to(torch.float32)
