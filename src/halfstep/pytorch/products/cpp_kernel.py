"""The kernel of :mod:`halfstep.pytorch.products.operations` in C++."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence

import torch

from halfstep.pytorch.native import builder as native
from halfstep.pytorch.native.builder import FOLDER
from halfstep.pytorch.products.dispatcher import forget
from halfstep.pytorch.products.operations import WRITES, Operation, Plan

SOURCES = SOURCE, CASTS = FOLDER / "products.cpp", FOLDER / "casts.c"

_BITS = {torch.bfloat16: 1, torch.float16: 2}

#: Where a convolution's geometry begins among its arguments.
_STRIDE = {"convolution": 3, "convolution_backward": 4}

_names = ("name", "overload", "base", "base_overload")
_numbers = ("is_product", "tensors", "rounded", "writes", "variant", "shorter_than", "stride")
_masks = ("low", "low_of_variant")


class _Operation(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in _names),
        *((name, ctypes.c_int32) for name in _numbers),
        *((name, ctypes.c_uint32) for name in _masks),
    ]


_Listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


class CppKernel:
    """The compiled kernel.

    Args:
        library: ``products.cpp``.
        casts: ``casts.c``; without it PyTorch casts, one tensor after the other.
    """

    def __init__(self, library: ctypes.CDLL, casts: ctypes.CDLL | None) -> None:
        library.hs_cast_with(None if casts is None else ctypes.cast(casts.hs_cast, ctypes.c_void_p))
        self._put, self._remove, self._error = library.hs_put, library.hs_remove, library.hs_error
        self._put.restype, self._put.argtypes = ctypes.c_void_p, (ctypes.POINTER(_Operation), ctypes.c_int32)
        self._remove.restype, self._remove.argtypes = None, (ctypes.c_void_p,)
        self._error.restype = ctypes.c_char_p
        self._listen = library.hs_listen
        self._listen.restype, self._listen.argtypes = None, (_Listener,)
        self._hears: Callable[[str], None] | None = None
        # Made once and never freed: another thread may be on its way through it.
        self._listener = _Listener(self._told)

    def put(self, operations: Sequence[Operation], planned: Plan) -> Callable[[], None]:
        """Put it before PyTorch's own kernels for the CPU.

        Returns:
            A function that takes it away, once.

        Raises:
            RuntimeError: this version of PyTorch has one of the operations in another form.
        """
        rows = (_Operation * len(operations))(*(_row(operation, planned) for operation in operations))
        registrations = self._put(rows, len(operations))
        if registrations is None:
            raise RuntimeError(self._error().decode(errors="replace"))
        names = [operation.name for operation in operations]
        forget(names)

        def remove() -> None:
            self._remove(registrations)
            forget(names)

        return remove

    def listen(self, function: Callable[[str], None] | None) -> None:
        """Call ``function`` with the name of every operation computed in fp32, in its thread; None stops it."""
        self._hears = function
        self._listen(_Listener() if function is None else self._listener)

    def _told(self, name: bytes) -> None:
        function = self._hears
        if function is not None:
            function(name.decode().removeprefix("aten::"))


@functools.cache
def cpp_kernel() -> CppKernel | None:
    """The compiled kernel; None without a compiler or under another PyTorch. The first call may compile for seconds."""
    library = native.library(SOURCE, ctypes.PyDLL)
    return None if library is None else CppKernel(library, native.library(CASTS))


def _row(operation: Operation, planned: Plan) -> _Operation:
    variant = operation.variant
    return _Operation(
        *_overload(operation.name),
        *_overload(operation.base),
        operation.kind == "product",
        operation.tensors,
        operation.rounded,
        WRITES.index(operation.writes),
        -1 if variant is None else variant.position,
        0 if variant is None else variant.shorter_than or 0,
        _STRIDE.get(operation.name, -1),
        _mask(planned, operation.kind),
        0 if variant is None else _mask(planned, variant.kind),
    )


def _overload(name: str) -> tuple[bytes, bytes]:
    packet, _, variant = name.partition(".")
    return f"aten::{packet}".encode(), variant.encode()


def _mask(planned: Plan, kind: str) -> int:
    return sum(_BITS[dtype] for dtype in planned.get(kind, ()))
