"""Kernels in C, compiled when first needed and kept in the user's cache directory; here those that round.

Where there is no C compiler, or nowhere to keep the result, there are none, and PyTorch's operations do the same work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from halfstep.formats import BlockFormat, Format, Overflow
from halfstep.pytorch.capabilities import cpu

SOURCE = Path(__file__).with_name("rounding_kernels.c")

#: No contraction: a fused multiply-add would round once where the reference rounds twice.
_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
)

#: How to compile, and how to link. The first takes the OpenMP that PyTorch has loaded: a second one would have threads
#: of its own, which wait for work, spinning, on the cores where PyTorch's want to run. The last is for compilers
#: without OpenMP or without these options.
_TRIES = ((("-march=native", "-fopenmp"), ()), (("-march=native", "-fopenmp"), ("-fopenmp",)), ((), ()))

#: elements below which a second thread costs more than it saves
_ONE_THREAD = 1 << 15

_OVERFLOW: dict[Overflow, int] = {"saturate": 0, "infinity": 1, "nan": 2}

_pointer, _size, _int, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "hs_round": (None, (_pointer, _pointer, _size, _int, _int, _int, _float, _int, _int)),
    "hs_drop": (None, (_pointer, _pointer, _size, _int, _int, _float, _int)),
    "hs_largest": (_float, (_pointer, _size, _int)),
    "hs_blocks": (
        None,
        (_pointer, _pointer, _size, _size, _size, *(_int,) * 5, _float, _float),
    ),
}


class Kernels:
    """The compiled kernels. Tensors are float32 on the CPU, contiguous; ``out`` may be ``x``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library

    def round(
        self, x: Tensor, out: Tensor, fmt: Format, overflow: Overflow, shift: int = 0, keep: bool = False
    ) -> None:
        """x to nearest even in ``fmt``; ``shift``: of x * 2^shift, and back; ``keep``: NaN and infinity stay."""
        n = x.numel()
        name, arguments = _arguments(fmt, overflow, shift, keep)
        getattr(self._library, name)(x.data_ptr(), out.data_ptr(), n, _threads(n), *arguments)

    def largest(self, x: Tensor) -> float:
        """The largest finite magnitude; 0 of nothing."""
        found: float = self._library.hs_largest(x.data_ptr(), x.numel(), _threads(x.numel()))
        return found

    def blocks(self, x: Tensor, out: Tensor, fmt: BlockFormat, axis: int, tensor_scale: float) -> None:
        """x in blocks along ``axis``; ``tensor_scale``: of a format with two levels of scales, else 0."""
        axis %= x.dim()
        outer, inner = x.shape[:axis].numel(), x.shape[axis + 1 :].numel()
        element = fmt.element
        self._library.hs_blocks(
            x.data_ptr(), out.data_ptr(), outer, x.shape[axis], inner, _threads(x.numel()), fmt.block,
            element.fraction_bits, element.min_exponent, element.max_exponent, element.largest, tensor_scale,
        )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _arguments(fmt: Format, overflow: Overflow, shift: int, keep: bool) -> tuple[str, tuple[float, ...]]:
    """The kernel for a format, and what it is told of it."""
    largest = fmt.largest * 2.0**-shift
    if fmt.exponent_bits == 8:
        return "hs_drop", (23 - fmt.fraction_bits, largest, _OVERFLOW[overflow])
    return "hs_round", (fmt.fraction_bits, fmt.min_exponent - shift, largest, _OVERFLOW[overflow], keep)


def _threads(elements: int) -> int:
    return 1 if elements < _ONE_THREAD else torch.get_num_threads()


@functools.cache
def kernels() -> Kernels | None:
    """The compiled kernels, or None where they cannot be had. The first call may compile, for a second or two."""
    found = library(SOURCE)
    return None if found is None else Kernels(found)


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """``source``, compiled and loaded; None where it cannot be."""
    path = _cache() / f"{source.stem}-{_key(source)}.so"
    if not path.exists() and not _compile(source, path):
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halfstep"


def _key(source: Path) -> str:
    """A home directory may serve several machines: what is native to one is not to all."""
    machine = cpu()
    # Another PyTorch may come with another OpenMP.
    options = [*_FLAGS, str(_TRIES), str(torch.__version__)]
    parts = [platform.system(), machine.architecture, machine.model, *sorted(machine.flags), *options]
    return hashlib.sha256(source.read_bytes() + "\n".join(parts).encode()).hexdigest()[:16]


def _compile(source: Path, path: Path) -> bool:
    """Compile ``source`` into ``path``, whole or not at all: other processes may be doing the same."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or platform.system() == "Windows":
        return False
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            for compiled, linked in _TRIES:
                unit = str(Path(folder) / "unit.o")
                first = [*compiler.split(), *_FLAGS, *compiled, "-c", str(source), "-o", unit]
                second = [*compiler.split(), "-shared", *linked, unit, "-o", str(built), "-lm"]
                if _run(first) and _run(second) and _loads(built):
                    built.replace(path)
                    return True
    return False


def _run(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _loads(library: Path) -> bool:
    """Whether everything that the library calls is there."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(library))
        return True
    return False
