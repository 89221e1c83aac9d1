"""Kernels in C and C++, compiled when first needed and kept in the user's cache directory.

Without a compiler, or without a place to keep the result, PyTorch's operations do the same work, more slowly.
"""

from __future__ import annotations

import ctypes
import errno
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

from halfstep.processes import NO_COMPILER
from halfstep.pytorch.capabilities import cpu
from halfstep.pytorch.native import kernel_cache

#: where the sources are
FOLDER = Path(__file__).parent

_TORCH = Path(torch.__file__).parent


class _Language(NamedTuple):
    """How to compile and link."""

    variable: str  #: the environment variable that may name a compiler
    compilers: Sequence[str]  #: the compilers that are looked for otherwise
    flags: Sequence[str]  #: the compiler's flags
    libraries: Sequence[str]  #: the libraries for the linker
    #: further flags for compiler and linker, tried in turn until one set works
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


class Missing(Exception):
    """A library cannot be had; the message is the reason, as the end of a sentence."""


@functools.cache
def library(source: Path, kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    """``source``, in C or C++, compiled and loaded; None if that fails.

    Args:
        source: C++ is compiled against PyTorch's headers, which takes some seconds.
        kind: ``ctypes.PyDLL`` for functions that are to be called with Python's lock held.
    """
    try:
        return kind(str(_built(source)))
    except (Missing, OSError):  # it, or something that it calls, is missing
        return None


def prepare(sources: Iterable[Path]) -> str:
    """Compile the sources that are not compiled yet, all at once: each keeps one core busy for some seconds.

    Returns:
        Why one of them could not be compiled, as the end of a sentence; empty if all were.
    """
    reasons: list[str] = []

    def build(source: Path) -> None:
        try:
            _built(source)
        except Missing as error:
            reasons.append(str(error))

    _compilers.begin()
    threads = [threading.Thread(target=build, args=(source,)) for source in sources]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C reaches this thread alone
        _compilers.stop()
        raise
    return min(reasons, default="")


def _built(source: Path) -> Path:
    """The path of the compiled library, which is compiled now if needed, unless this compiler has failed before.

    Raises:
        Missing: it cannot be had.
    """
    language = _LANGUAGES[source.suffix]
    try:
        path = kernel_cache.folder() / f"{source.parent.name}-{source.stem}-{_key(source)}.so"
    except kernel_cache.Unusable as error:
        raise Missing(str(error)) from None
    if kernel_cache.is_whole(path):
        return path
    if NO_COMPILER:
        raise Missing(NO_COMPILER)
    compiler = os.environ.get(language.variable) or next(filter(shutil.which, language.compilers), None)
    if compiler is None:
        raise Missing(f"there is no compiler; set {language.variable} to one")
    if kernel_cache.has_failed(path, compiler):
        raise Missing(f"{compiler!r} made nothing of them that can be loaded a while ago")
    try:
        compiled = _compile(source, path, compiler, language)
        if compiled:
            kernel_cache.seal(path)
    except OSError as error:
        raise Missing(f"{str(path.parent)!r} cannot be written: {error.strerror}") from None
    except _NotItsFault as error:
        raise Missing(str(error)) from None
    except _NotLoaded as error:
        kernel_cache.note_failure(path, compiler)
        raise Missing(f"what {compiler!r} made of them cannot be loaded: {error}") from None
    if not compiled:
        kernel_cache.note_failure(path, compiler)
        raise Missing(f"{compiler!r} cannot compile them")
    return path


def _why_not_loaded(path: Path) -> str:
    """The system's error; empty if the library can be loaded."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return ""


def _key(source: Path) -> str:
    """The name of the library, which depends on the machine: several machines may share a home directory."""
    machine = cpu()
    # Another PyTorch may have another OpenMP, in another place.
    options = [str(_LANGUAGES[source.suffix]), str(torch.__version__)]
    parts = [platform.system(), machine.architecture, machine.model, *sorted(machine.flags), *options]
    read = b"".join(file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h"))))
    return hashlib.sha256(read + "\n".join(parts).encode()).hexdigest()[:16]


def _compile(source: Path, path: Path, compiler: str, language: _Language) -> bool:
    """Compile ``source`` into ``path``, completely or not at all: other processes may be doing the same.

    Raises:
        OSError: for example, the disk is full.
        _NotItsFault: it is not known whether the compiler can compile it.
        _NotLoaded: it was compiled, and cannot be loaded.
    """
    why = ""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        for compiled, linked in language.tries:
            unit = str(Path(folder) / "unit.o")
            first = [*compiler.split(), *language.flags, *compiled, "-c", str(source), "-o", unit]
            second = [*compiler.split(), "-shared", *linked, unit, "-o", str(built), *language.libraries]
            if _run(first) and _run(second):
                why = _why_not_loaded(built)
                if not why:
                    built.replace(path)
                    return True
    if why:
        raise _NotLoaded(why)
    return False


class _NotItsFault(Exception):
    """A signal has ended the compiler or a part of it, or it had no room."""


class _NotLoaded(Exception):
    """The system does not load the compiled library; the message is the system's error."""


#: a compiler's message that shows that it is not at fault -> the reason to report; the next process tries again
_FOUND_NO_ROOM = {
    **dict.fromkeys(
        map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
        "the disk was full while they were compiled",
    ),
    **dict.fromkeys(
        (os.strerror(errno.ENOMEM), "out of memory", "virtual memory exhausted"),
        "there was too little memory to compile them",
    ),
    **dict.fromkeys(
        map(os.strerror, (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)),
        "the compiler could not use its files",
    ),
    "signal terminated program": "the compiler was ended by a signal",
}


def _run(command: list[str]) -> bool:
    try:
        # In English, so that its messages can be recognised.
        plain = {**os.environ, "LC_ALL": "C"}
        returncode, stderr = _compilers.run(command, plain)
    except OSError:  # no such compiler
        return False
    if returncode < 0:
        raise _NotItsFault("the compiler was ended by a signal")
    said = stderr.decode(errors="replace")
    if returncode and (why := next((w for words, w in _FOUND_NO_ROOM.items() if words in said), "")):
        raise _NotItsFault(why)
    return returncode == 0


class _Compilers:
    """The compilers that run now: an interrupt ends them all, and none begins after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def begin(self) -> None:
        """Compilers may begin."""
        self._stopped = False

    def run(self, command: list[str], environment: dict[str, str]) -> tuple[int, bytes]:
        """The exit code of a compiler, as ``subprocess`` gives it, and what it wrote to stderr.

        Raises:
            OSError: there is no such compiler.
        """
        with self._lock:
            if self._stopped:
                raise _NotItsFault("an interrupt came while they were compiled")
            compiler = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
            self._running.add(compiler)
        try:
            with compiler:
                try:
                    _, stderr = compiler.communicate()
                except BaseException:  # Ctrl-C, where this is the main thread
                    compiler.kill()
                    raise
            return compiler.returncode, stderr
        finally:
            with self._lock:
                self._running.discard(compiler)

    def stop(self) -> None:
        """End them all."""
        with self._lock:
            self._stopped = True
            for compiler in self._running:
                compiler.kill()


_compilers = _Compilers()
