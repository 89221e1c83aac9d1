"""The pass over many gradients in C: it multiplies them by a factor and tests the products.

PyTorch's own multi-tensor kernel tests the inputs instead: a factor above 1 needs a second pass, and a mere test writes
all numbers. It is as fast for thousands of tensors of some kB, which memory limits; else it takes up to twice the time.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from pathlib import Path

import torch
from torch import Tensor

from halfstep.pytorch.native import builder as native
from halfstep.pytorch.native.builder import FOLDER

SOURCE = FOLDER / "gradient_kernels.c"

#: functions of PyTorch's stable C interface that ``torch_t`` of the source holds, in its order
_QUESTIONS = ("data_ptr", "numel", "dim", "sizes", "strides", "dtype", "device_type", "layout")
_CODES = (
    "device_type_cpu", "layout_strided", "dtype_float32", "dtype_float64", "dtype_bfloat16", "dtype_float16",
)  # fmt: skip


class _Torch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in _QUESTIONS),
        *((name, ctypes.c_int32) for name in _CODES),
    ]


_pointer, _int = ctypes.c_void_p, ctypes.c_int
_ARGUMENTS = (_pointer, ctypes.c_int64, _pointer, ctypes.c_double, _int, _int, _int, ctypes.POINTER(_Torch))


class GradientKernels:
    """The compiled pass."""

    def __init__(self, library: ctypes.CDLL, libtorch: ctypes.CDLL) -> None:
        questions = (getattr(libtorch, f"aoti_torch_get_{name}") for name in _QUESTIONS)
        codes = (getattr(libtorch, f"aoti_torch_{name}")() for name in _CODES)
        self._torch = _Torch(*(ctypes.cast(question, _pointer).value for question in questions), *codes)
        self._unscale = library.hs_unscale
        self._unscale.restype, self._unscale.argtypes = _int, _ARGUMENTS

    @property
    def pointers(self) -> tuple[int | None, int | None]:
        """``hs_unscale`` and its last argument; they are valid as long as this object lives."""
        return (
            ctypes.cast(self._unscale, _pointer).value,
            ctypes.cast(ctypes.pointer(self._torch), _pointer).value,
        )

    def unscale_(self, tensors: list[Tensor], factor: float, fp16: bool = True) -> tuple[bool, list[Tensor]]:
        """Multiply by ``factor`` in place and test the products; a factor of 1 is a test alone, and writes nothing.

        Args:
            tensors: any. Those that are not on a CPU, not dense, of another dtype or of another class are not changed.
            fp16: if False, none is changed if one is in fp16.

        Returns:
            Whether a product is not finite, and the tensors that are left to PyTorch.
        """
        if not tensors or not tensors[0].is_cpu or torch._C._functorch.peek_interpreter_stack() is not None:
            return False, tensors
        own = tensors if set(map(type, tensors)) == {Tensor} else [t for t in tensors if type(t) is Tensor]
        bad, served = self._run(own, factor, fp16) if fp16 or own is tensors else (-1, b"")
        if bad < 0:
            own = [t for t, yes in zip(own, served, strict=False) if yes]
            left = _without(tensors, own)
            if not fp16 and any(t.dtype is torch.float16 for t in left):
                return False, tensors
            bad, _ = self._run(own, factor, fp16)
            return bad > 0, left
        return bad > 0, [] if own is tensors else _without(tensors, own)

    def _run(self, tensors: list[Tensor], factor: float, fp16: bool) -> tuple[int, bytes]:
        """1 if a product is not finite, else 0, or -1 if nothing was done; and which tensors the kernel can take."""
        addresses = array("Q", [t._cdata for t in tensors])
        served = array("B", bytes(len(tensors)))  # an array of ctypes would be a new class for every length
        bad: int = self._unscale(
            addresses.buffer_info()[0], len(tensors), served.buffer_info()[0], factor, factor != 1.0, not fp16,
            torch.get_num_threads(), self._torch,
        )  # fmt: skip
        if bad >= 0 and factor != 1.0:  # tell autograd about the write, as PyTorch's operations do
            torch.autograd.graph.increment_version(tensors)
        return bad, served.tobytes() if bad < 0 else b""


def _without(tensors: list[Tensor], some: list[Tensor]) -> list[Tensor]:
    known = set(map(id, some))
    return [t for t in tensors if id(t) not in known]


@functools.cache
def gradient_kernels() -> GradientKernels | None:
    """The compiled pass, or None where it cannot be had. The first call may compile, for a second."""
    library = native.library(SOURCE)
    if library is None:
        return None
    try:
        return GradientKernels(
            library, ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        )
    except (OSError, AttributeError):  # another platform's name for the library, or another interface
        return None
