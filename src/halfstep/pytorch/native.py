"""Kernels in C and C++, compiled when first needed and kept in the user's cache directory.

Where there is no compiler, or nowhere to keep the result, there are none, and PyTorch's operations do the same work.
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
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from halfstep.pytorch.capabilities import cpu

_TORCH = Path(torch.__file__).parent


class _Language(NamedTuple):
    """How to compile and link.

    Attributes:
        variable: of the environment, that names a compiler.
        compilers: those that are looked for, where it does not.
        flags: of the compiler.
        libraries: that the linker is given.
        tries: further flags of the compiler and the linker, until those of one try work.
    """

    variable: str
    compilers: Sequence[str]
    flags: Sequence[str]
    libraries: Sequence[str]
    tries: Sequence[tuple[Sequence[str], Sequence[str]]]


_LANGUAGES = {
    ".c": _Language(
        "CC",
        ("cc", "gcc", "clang"),
        # No contraction: a fused multiply-add would round once where the reference rounds twice.
        ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
        ("-lm",),
        # The first takes the OpenMP that PyTorch has loaded: a second one would have threads of its own, which wait
        # for work, spinning, on the cores where PyTorch's want to run. The last is for compilers without OpenMP or
        # without these options.
        ((("-march=native", "-fopenmp"), ()), (("-march=native", "-fopenmp"), ("-fopenmp",)), ((), ())),
    ),
    ".cpp": _Language(
        "CXX",
        ("c++", "g++", "clang++"),
        (
            "-O2",
            "-fPIC",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
            f"-I{_TORCH / 'include'}",
            f"-I{_TORCH / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
        ),
        (f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-ltorch_python"),
        ((("-std=c++20",), ()), (("-std=c++17",), ())),
    ),
}


@functools.cache
def library(source: Path, kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    """``source``, in C or C++, compiled and loaded; None where it cannot be.

    Args:
        source: C++ is compiled against PyTorch's headers, which takes some seconds.
        kind: ``ctypes.PyDLL`` for functions that are to be called with Python's lock held.
    """
    path = _place(source)
    return _load(path, kind) if path.exists() or _built(source) else None


def prepare(sources: Iterable[Path]) -> None:
    """Compile those that are not compiled yet, all at once: one alone keeps one core busy for some seconds."""
    missing = [source for source in sources if not _place(source).exists()]
    threads = [threading.Thread(target=_built, args=(source,)) for source in missing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _place(source: Path) -> Path:
    """Where it lies compiled."""
    return _cache() / f"{source.parent.name}-{source.stem}-{_key(source)}.so"


def _built(source: Path) -> bool:
    """Compile it, unless this compiler has failed at it before."""
    path, language = _place(source), _LANGUAGES[source.suffix]
    failed = path.with_suffix(".failed")
    compiler = os.environ.get(language.variable) or next(filter(shutil.which, language.compilers), None)
    if compiler is None or platform.system() == "Windows" or _read(failed) == compiler:
        return False
    try:
        if _compile(source, path, compiler, language):
            return True
    except _Killed:  # by Ctrl-C, say: nothing is known of the compiler
        return False
    with contextlib.suppress(OSError):
        failed.write_text(compiler)  # not to be tried again in every process
    return False


def _load(path: Path, kind: type[ctypes.CDLL]) -> ctypes.CDLL | None:
    """The library; None where it, or something that it calls, is missing."""
    try:
        return kind(str(path))
    except OSError:
        return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halfstep"


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _key(source: Path) -> str:
    """A home directory may serve several machines: what is native to one is not to all."""
    machine = cpu()
    # Another PyTorch may come with another OpenMP, and lie elsewhere.
    options = [str(_LANGUAGES[source.suffix]), str(torch.__version__)]
    parts = [platform.system(), machine.architecture, machine.model, *sorted(machine.flags), *options]
    return hashlib.sha256(source.read_bytes() + "\n".join(parts).encode()).hexdigest()[:16]


def _compile(source: Path, path: Path, compiler: str, language: _Language) -> bool:
    """Compile ``source`` into ``path``, whole or not at all: other processes may be doing the same."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            for compiled, linked in language.tries:
                unit = str(Path(folder) / "unit.o")
                first = [*compiler.split(), *language.flags, *compiled, "-c", str(source), "-o", unit]
                second = [*compiler.split(), "-shared", *linked, unit, "-o", str(built), *language.libraries]
                if _run(first) and _run(second) and _load(built, ctypes.CDLL):
                    built.replace(path)
                    return True
    return False


class _Killed(Exception):
    """A signal has ended the compiler."""


def _run(command: list[str]) -> bool:
    code = subprocess.run(command, capture_output=True, check=False).returncode
    if code < 0:
        raise _Killed
    return code == 0
