"""Kernels in C, compiled when first needed and kept in the user's cache directory.

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

from halfstep.pytorch.capabilities import cpu

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


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """``source``, compiled and loaded; None where it cannot be."""
    path = _cache() / f"{source.parent.name}-{source.stem}-{_key(source)}.so"
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
