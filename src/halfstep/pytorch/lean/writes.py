"""Code outside of models and of optimizer steps reads and writes the fp32 numbers of a parameter.

The methods are replaced on :class:`torch.nn.Parameter`, a class in Python. A function that is no method of a parameter
(``torch.clamp_(parameter, ...)``) writes into the bf16 numbers. PyTorch counts such writes; the remainders are then set
to zero. ``torch._foreach_*`` are replaced as well.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.compiler import is_compiling
from torch.nn.utils import clip_grad

from halfstep.passed_on import Keywords
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.raw_data import raw_data, set_raw_data

#: the dtype that a tensor has, whatever a parameter says
_dtype_of: Callable[[Tensor], torch.dtype] = vars(torch._C.TensorBase)["dtype"].__get__

#: methods that end in _ but change no number: they set flags, names, shapes and memory
_NOT_NUMBERS = frozenset(
    ("requires_grad_", "retain_grad_", "share_memory_", "rename_", "detach_", "as_strided_", "squeeze_", "unsqueeze_",
     "t_", "transpose_", "swapaxes_", "swapdims_", "resize_", "resize_as_", "resize_as_sparse_", "set_",
     "sparse_resize_", "sparse_resize_and_clear_")
)  # fmt: skip

#: methods that operators call
_OPERATORS = tuple(
    f"__{name}__"
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "idiv", "imod", "ipow", "iand", "ior", "ixor",
                 "ilshift", "irshift", "setitem")
)  # fmt: skip

#: methods that make a new tensor of a parameter's numbers, to keep or to compute with
_COPIES = ("clone", "float", "double", "to", "type", "numpy", "tolist", "item")

#: methods that make a tensor of the parameter's dtype, without its numbers
_LIKE = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor")

#: methods whose result shares the parameter's memory: what is written into it reaches the parameter. Inside a model
#: they give bf16, for autocast
_VIEWS = ("view", "view_as", "reshape", "reshape_as", "flatten", "ravel", "t", "transpose", "permute", "narrow",
          "select", "unbind", "split", "chunk", "diagonal", "squeeze", "unsqueeze", "expand", "expand_as",
          "__getitem__")  # fmt: skip
_TRANSPOSED = ("T", "mT", "H", "mH")

#: methods that compute with the parameter's numbers
_READS = (
    *("norm", "abs", "sum", "mean", "pow", "square", "std", "var", "max", "min", "amax", "amin", "isnan", "isfinite"),
    *("argmax", "argmin", "median", "quantile", "kthvalue", "sort", "topk", "cumsum", "prod", "svd", "qr", "sqrt"),
    *("exp", "sign", "dot", "mv", "mm", "matmul", "__matmul__", "__rmatmul__", "repeat", "equal", "allclose"),
    *("mul", "add", "sub", "div", "lerp", "histc", "__neg__", "__abs__", "__pow__"),
    *(f"__{r}{name}__" for name in ("add", "sub", "mul", "truediv") for r in ("", "r")),
)  # fmt: skip


class Writes:
    """The replaced methods."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters

    def install(self, patches: Patches) -> None:
        """Replace them for all parameters; those without a master behave as before."""
        patches.set(nn.Parameter, "data", property(self._get_data, self._set_data))
        patches.set(nn.Parameter, "dtype", property(self._get_dtype))
        patches.wrap(nn.Parameter, "detach", self._detach)
        patches.wrap(nn.Parameter, "__repr__", self._repr)
        patches.wrap_each(nn.Parameter, _COPIES, lambda original: self._reading(original, inside=True))
        patches.wrap_each(
            nn.Parameter, (*_VIEWS, *_READS), lambda original: self._reading(original, inside=False)
        )
        for name in _TRANSPOSED:
            patches.set(nn.Parameter, name, property(self._transposed(getattr(Tensor, name))))
        patches.wrap_each(nn.Parameter, _LIKE, self._making)
        writing = (
            n for n in dir(Tensor) if n.endswith("_") and not n.startswith("_") and n not in _NOT_NUMBERS
        )
        patches.wrap_each(nn.Parameter, (*writing, *_OPERATORS), self._writing)
        patches.wrap(nn.Module, "_apply", self._applying)
        patches.wrap_each(clip_grad, ("_get_total_norm", "get_total_norm"), _in_fp32)
        patches.wrap_each(torch, _foreach_names(), self._foreach)
        patches.wrap(saved_tensors_hooks, "__init__", self._packing)

    def _bf16(self, tensor: Any) -> Master | None:
        """The master of a parameter that is bf16 at the moment, else None; a DTensor is fp32 for everybody."""
        master = self._masters.of(tensor) if type(tensor) is nn.Parameter else None
        return None if master is None or master.is_wide else master

    def _get_data(self, parameter: nn.Parameter) -> Tensor:
        master = self._bf16(parameter)
        return raw_data(parameter) if master is None else self._masters.show(master)

    def _set_data(self, parameter: nn.Parameter, data: Tensor) -> None:
        master = self._bf16(parameter)
        if master is None:
            set_raw_data(parameter, data)
        else:
            self._masters.replace(master, data)

    def _get_dtype(self, parameter: nn.Parameter) -> torch.dtype:
        """float32 for a program that asks for the dtype of its weights, as in ``x.to(layer.weight.dtype)``."""
        dtype = _dtype_of(parameter)
        if dtype is not torch.bfloat16 or self._bf16(parameter) is None:
            return dtype
        asks = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
        return dtype if asks in ("torch", "halfstep") else torch.float32

    def _detach(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def detach(parameter: nn.Parameter) -> Tensor:
            master = None if is_compiling() else self._bf16(parameter)
            return original(parameter) if master is None else self._masters.show(master)

        return detach

    def _packing(self, original: Callable[..., None]) -> Callable[..., None]:
        """Hand a hook for what graphs save (activation checkpointing's is one) bf16 weights as the graph has them."""

        def __init__(hooks: Any, pack_hook: Callable[[Tensor], Any], *args: Any, **kwargs: Any) -> None:
            def pack(tensor: Tensor) -> Any:
                if self._bf16(tensor) is not None:
                    tensor = nn.Parameter(raw_data(tensor), tensor.requires_grad)
                return pack_hook(tensor)

            original(hooks, pack, *args, **kwargs)

        return __init__

    def _repr(self, original: Callable[..., str]) -> Callable[..., str]:
        """A parameter prints as its fp32 numbers, without its dtype, which is PyTorch's default."""

        def __repr__(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> str:
            master = self._bf16(parameter)
            if master is None:
                return original(parameter, *args, **kwargs)
            shown = self._masters.show(master).requires_grad_(parameter.requires_grad)
            return f"Parameter containing:\n{shown!r}"

        return __repr__

    def _reading(self, original: Callable[..., Any], inside: bool) -> Callable[..., Any]:
        name = original.__name__

        def read(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> Any:
            master = None if is_compiling() else self._bf16(parameter)
            if master is None or (not inside and place() is not OUTSIDE) or _is_bf16(args, kwargs):
                return original(parameter, *args, **kwargs)
            if name in _VIEWS and not (torch.is_grad_enabled() and parameter.requires_grad):
                return getattr(self._masters.show(master), name)(*args, **kwargs)
            wide = Wide.apply(parameter, self._masters, master)  # type: ignore[no-untyped-call]
            if name == "clone" and not args and not kwargs:
                return wide
            return getattr(wide, name)(*args, **kwargs)

        return read

    def _transposed(self, slot: Any) -> Callable[[nn.Parameter], Tensor]:
        get: Callable[[Tensor], Tensor] = slot.__get__

        def transposed(parameter: nn.Parameter) -> Tensor:
            master = None if is_compiling() else self._bf16(parameter)
            if master is None or place() is not OUTSIDE:
                return get(parameter)
            if not (torch.is_grad_enabled() and parameter.requires_grad):
                return get(self._masters.show(master))
            return get(Wide.apply(parameter, self._masters, master))  # type: ignore[no-untyped-call]

        return transposed

    def _making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        name = original.__name__

        def make(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or self._bf16(parameter) is None:
                return original(parameter, *args, **kwargs)
            return getattr(torch.empty(0, dtype=torch.float32, device=parameter.device), name)(
                *args, **kwargs
            )

        return make

    def _writing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        name = original.__name__

        def write(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or _dtype_of(parameter) is not torch.bfloat16:  # most calls, and fast
                return original(parameter, *args, **kwargs)
            master = self._bf16(parameter)
            if master is None or (torch.is_grad_enabled() and parameter.requires_grad):
                return original(parameter, *args, **kwargs)  # in grad mode PyTorch refuses it
            wide = self._masters.wide(master)
            result = getattr(wide, name)(*args, **kwargs)
            torch.autograd.graph.increment_version(parameter)
            self._masters.take(master, wide)
            return parameter if result is wide else result

        return write

    def _foreach(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Let functions of lists of tensors read and write the fp32 numbers of a parameter among them."""

        def foreach(*lists: Any, **kwargs: Any) -> Any:
            if is_compiling() or self._masters.stepping:
                return original(*lists, **kwargs)
            shown = [self._shown_in(values) for values in lists]
            result = original(*shown, **kwargs)
            if original.__name__.endswith("_") and shown[0] is not lists[0]:
                written = [p for p in lists[0] if self._bf16(p) is not None]
                self._masters.flush()
                for parameter in written:
                    torch.autograd.graph.increment_version(parameter)
                    self._masters.of(parameter).agrees()  # type: ignore[union-attr]
            return result

        return foreach

    def _shown_in(self, values: Any) -> Any:
        if not isinstance(values, list | tuple) or not any(self._bf16(value) is not None for value in values):
            return values
        masters = [self._bf16(value) for value in values]
        return [v if m is None else self._masters.show(m) for v, m in zip(values, masters, strict=True)]

    def _applying(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Give moves and casts of modules the fp32 numbers, and replace these by the result."""

        def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
            if not isinstance(fn, _OfWide):
                fn = _OfWide(fn, self)
            return original(module, fn, *args, **kwargs)

        return _apply


def _foreach_names() -> list[str]:
    return [name for name in dir(torch) if name.startswith("_foreach_")]


def _in_fp32(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute the norm of bf16 gradients in fp32."""

    def total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        p = float(norm_type)
        norms = [
            torch.linalg.vector_norm(t, p, dtype=torch.float32) if t.dtype is torch.bfloat16 and p else t
            for t in tensors
        ]
        return original(norms, norm_type, *args, **kwargs)

    return total_norm


class _OfWide:
    """``fn`` of a parameter's fp32 numbers. A class, since a module hands its ``fn`` on to its children."""

    def __init__(self, fn: Callable[[Tensor], Tensor], writes: Writes) -> None:
        self._fn, self._writes = fn, writes
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, tensor: Tensor) -> Tensor:
        master = self._writes._bf16(tensor)
        return self._fn(tensor if master is None else self._writes._masters.show(master))


class Wide(torch.autograd.Function):
    """A new tensor with a parameter's fp32 numbers, differentiable by the parameter."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, masters: Masters, master: Master) -> Tensor:
        wide = masters.wide(master)
        return wide.clone() if wide is master.shown else wide

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.to(torch.bfloat16), None, None


def _is_bf16(args: tuple[Any, ...], kwargs: Keywords) -> bool:
    """Whether a dtype among the arguments, or a tensor, is bf16."""
    return any(
        value is torch.bfloat16 or (isinstance(value, Tensor) and value.dtype is torch.bfloat16)
        for value in (*args, *kwargs.values())
    )
