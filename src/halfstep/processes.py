"""Processes and signals, as each platform has them: with :mod:`halfstep.files` the only module that asks which it is.

On Windows a process is asked to end by Ctrl-Break, which reaches the process group that it leads, and made to by
``TerminateProcess``; there is no fork, and no signal waits.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from importlib.machinery import BuiltinImporter, PathFinder
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

    import psutil

#: whether halfstep has run on this platform; on others its parts are checked by types and by playing them
TESTED = sys.platform == "linux"

_STANDARD_LIBRARY = os.path.dirname(os.__file__)

#: why there may be no /sys/class/powercap, whose files tell a processor's energy
NO_POWERCAP = (
    "this kernel was built without it, or the container hides it"
    if sys.platform == "linux"
    else "Linux alone has it"
)

#: an open file, or one of subprocess's own numbers for a pipe or nothing
Stream = IO[bytes] | int


def start_apart(
    command: list[str],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    outlives_console: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process that Ctrl-C on this one's terminal or console does not reach.

    Args:
        folder: where it begins; None for the current one.
        environment: None for this process's own.
        outlives_console: on Windows, it is not ended when the console's window is closed. (On POSIX none is.)

    Raises:
        OSError: it cannot be started.
    """
    import subprocess  # here: a program that is only run has no need of it

    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env=environment,
        start_new_session=True,  # POSIX alone heeds it
        creationflags=_creation_flags(outlives_console),
    )


if sys.platform == "linux":

    def allowed_cores() -> tuple[int, ...]:
        """The numbers of the processors that this process may run on; none where that cannot be asked or set."""
        import os

        return tuple(sorted(os.sched_getaffinity(0)))

    def pin_thread(cores: Iterable[int]) -> None:
        """Keep this thread, and the processes that it starts from now on, on these processors.

        Raises:
            OSError: the system does not let it.
        """
        import os

        os.sched_setaffinity(0, cores)

else:

    def allowed_cores() -> tuple[int, ...]:
        """Neither macOS nor Windows lets a thread hand its processors on to the processes that it starts."""
        return ()

    def pin_thread(cores: Iterable[int]) -> None:
        """There is no such thing.

        Raises:
            OSError: always.
        """
        raise OSError("This system keeps no process on processors of its own")


if sys.platform == "win32":
    #: what ends a comparison early: Ctrl-C and Ctrl-Break
    ENDING = (signal.SIGINT, signal.SIGBREAK)
    #: the system's name for what :func:`largest_resident_bytes` returns
    RESIDENT_PEAK = "PeakWorkingSetSize"
    #: why this package's C and C++ cannot be compiled; empty where they can
    NO_COMPILER = "they are written for GCC and Clang, which PyTorch is not built with on Windows"
    #: what a program's output has in common with a console's, when it goes into a file
    CONSOLE: Mapping[str, str] = {"PYTHONIOENCODING": "utf-8"}

    def _creation_flags(outlives_console: bool) -> int:
        import subprocess

        return subprocess.CREATE_NEW_PROCESS_GROUP | (subprocess.CREATE_NO_WINDOW if outlives_console else 0)

    def ask_to_end(processes: Iterable[psutil.Process], leader: int | None, number: signal.Signals) -> None:
        """Ask the process that leads the group, and with it the group: others cannot be asked one by one.

        Those without a console are not asked, either.
        """
        import psutil

        for process in processes:
            # SystemError: os.kill does not stop where it has failed (https://bugs.python.org/issue14484).
            with suppress(psutil.Error, OSError, ValueError, SystemError):
                if process.pid == leader:
                    process.send_signal(signal.CTRL_BREAK_EVENT)

    def in_session_of(pid: int, leaders: Container[int]) -> bool:
        """There are no sessions that a process leads."""
        return False

    def on_fork(
        before: Callable[[], None], in_parent: Callable[[], None], in_child: Callable[[], None]
    ) -> None:
        """There is no fork."""

    def hold(number: signal.Signals) -> object:
        """No signal can be made to wait."""
        return None

    def release(held: object) -> None:
        """Nothing was held."""

    def clock_ticks() -> float:
        """Windows has no such clock.

        Raises:
            OSError: always.
        """
        raise OSError("Windows does not count clock ticks")

    def involuntary_switches() -> int:
        """Windows does not count them.

        Raises:
            OSError: always.
        """
        raise OSError("Windows does not count them")

    def largest_resident_bytes() -> int:
        """The largest resident set of this process since it began."""
        import psutil

        return int(psutil.Process().memory_info().peak_wset)

    def exit_words(code: int | None) -> str:
        """How a process ended that was not ended by a signal: errors of the system are known by hexadecimal numbers."""
        if code is None or 0 <= code < 0x8000_0000:
            return f"exit code {code}"
        return f"exit code 0x{code & 0xFFFF_FFFF:08X}"

    def returned(code: int) -> int:
        """What whoever waits for this process is given for ``sys.exit(code)``."""
        return code

    def split_words(text: str) -> list[str]:
        """The words of a command: quotes hold them together, and a backslash is a part of a path.

        Raises:
            ValueError: a quote is left open.
        """
        lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
        return list(lexer)

    def join_words(words: Iterable[str]) -> str:
        """A command to be copied into a shell."""
        import subprocess

        return subprocess.list2cmdline(words)

else:
    #: what ends a comparison early: Ctrl-C, a batch system's SIGTERM, a closed terminal
    ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    #: the system's name for what :func:`largest_resident_bytes` returns
    RESIDENT_PEAK = "ru_maxrss"
    #: why this package's C and C++ cannot be compiled; empty where they can
    NO_COMPILER = ""
    #: what a program's output has in common with a console's, when it goes into a file
    CONSOLE: Mapping[str, str] = {}

    def _creation_flags(outlives_console: bool) -> int:
        return 0

    def ask_to_end(processes: Iterable[psutil.Process], leader: int | None, number: signal.Signals) -> None:
        """Ask each to end, by a signal; one that is gone, or another user's, is passed over.

        Args:
            leader: the number of the one that was started by :func:`start_apart`, where it is known.
        """
        import psutil

        for process in processes:
            with suppress(psutil.Error, OSError, ValueError):
                process.send_signal(number)

    def in_session_of(pid: int, leaders: Container[int]) -> bool:
        """Whether a process is in the session that one of these processes began. Raises OSError if it is gone."""
        import os

        return os.getsid(pid) in leaders

    def on_fork(
        before: Callable[[], None], in_parent: Callable[[], None], in_child: Callable[[], None]
    ) -> None:
        """Call these around every fork of this process."""
        import os

        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)

    def hold(number: signal.Signals) -> object:
        """Let a signal wait in this thread; what is returned is for :func:`release`."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def release(held: object) -> None:
        """Let signals come as before :func:`hold`."""
        if isinstance(held, set):
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def clock_ticks() -> float:
        """In how many parts of a second the kernel counts processor time."""
        import os

        return os.sysconf("SC_CLK_TCK")

    def _usage() -> Any:
        resource = standard("resource")
        return resource.getrusage(resource.RUSAGE_SELF)

    def involuntary_switches() -> int:
        """How often a thread of this process lost its processor although it had work to do."""
        return int(_usage().ru_nivcsw)

    def largest_resident_bytes() -> int:
        """The largest resident set of this process since it began."""
        peak = int(_usage().ru_maxrss)
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere

    def exit_words(code: int | None) -> str:
        """How a process ended that was not ended by a signal."""
        return f"exit code {code}"

    def returned(code: int) -> int:
        """What whoever waits for this process is given for ``sys.exit(code)``."""
        return code & 0xFF

    def split_words(text: str) -> list[str]:
        """The words of a command, as a shell reads them. Raises ValueError if a quote is left open."""
        return shlex.split(text)

    def join_words(words: Iterable[str]) -> str:
        """A command to be copied into a shell."""
        return shlex.join(words)


@functools.cache
def standard(name: str) -> ModuleType:
    """The standard library's own module, whatever lies beside the program; the program may import another of its name.

    Raises:
        ImportError: this system has none.
    """
    folders = [_STANDARD_LIBRARY, os.path.join(_STANDARD_LIBRARY, "lib-dynload")]
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
