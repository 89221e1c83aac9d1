"""Plays Windows for halfstep's own modules, in this process and in all that it starts with this folder on PYTHONPATH.

What Windows lacks is absent from the modules that halfstep imports, and there only: PyTorch, psutil and the standard
library see the platform as it is. What Windows has instead is played: Ctrl-Break is SIGINT, and a process group of its
own is nothing.
"""
import builtins
import os
import pathlib
import signal
import sys
from types import ModuleType

ABSENT_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "posix")
KEPT = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")


class Played(ModuleType):
    """A module without some of its names, and with others."""

    def __init__(self, real, absent, instead):
        object.__getattribute__(self, "__dict__").update(_real=real, _absent=frozenset(absent), _instead=instead)

    def __getattribute__(self, name):
        own = object.__getattribute__(self, "__dict__")
        if name in own["_absent"]:
            raise AttributeError(f"module {own['_real']!r} has no attribute {name!r} on Windows")
        return own["_instead"][name] if name in own["_instead"] else getattr(own["_real"], name)

    def __setattr__(self, name, value):
        setattr(object.__getattribute__(self, "__dict__")["_real"], name, value)

    def __delattr__(self, name):
        delattr(object.__getattribute__(self, "__dict__")["_real"], name)


def made():
    os_absent = (
        "killpg setsid setpgid getpgid getpgrp getuid geteuid getgid getegid getgroups fork forkpty wait wait3 wait4 "
        "register_at_fork sysconf sysconf_names sched_getaffinity sched_setaffinity uname getloadavg mkfifo chown lchown "
        "fchown pread pwrite posix_spawn posix_fallocate statvfs nice getpriority WNOHANG WIFSIGNALED WTERMSIG O_NONBLOCK "
        "O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_SYNC ttyname openpty pipe2 getxattr confstr initgroups getresuid"
    ).split()
    signal_absent = [
        name
        for name in dir(signal)
        if name.startswith("SIG") and name not in (*KEPT, "SIG_DFL", "SIG_IGN") or "sig" in name and name != "signal"
    ]
    signal_absent += ["pause", "alarm", "setitimer", "getitimer", "siginterrupt", "Sigmasks"]
    signal_absent = [name for name in signal_absent if name not in ("default_int_handler", "getsignal", "raise_signal")]
    yield "os", Played(os, os_absent, {"name": "nt"})
    yield "sys", Played(sys, ("getdlopenflags", "setdlopenflags"), {"platform": "win32"})
    yield "signal", Played(
        signal, [n for n in signal_absent if n != "SIGBREAK"], {"SIGBREAK": signal.SIGHUP, "CTRL_BREAK_EVENT": signal.SIGINT}
    )


def with_peak(psutil):
    class Process(psutil.Process):
        def memory_info(self):
            found = super().memory_info()
            return Played(found, ("uss",), {"peak_wset": found.rss})

    return Played(psutil, (), {"Process": Process})


def without_proc(method):
    def played(self, *args, **kwargs):
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return method(self, *args, **kwargs)

    return played


for method in ("read_text", "write_text", "read_bytes", "iterdir", "open"):
    setattr(pathlib.Path, method, without_proc(getattr(pathlib.Path, method)))

PLAYED = dict(made())
really = builtins.__import__


def imports(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if level == 0 and importer.partition(".")[0] == "halfstep":
        if name in ABSENT_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in PLAYED:
            return PLAYED[name]
        if name == "subprocess":
            real = really(name, globals, locals, fromlist, level)
            return Played(real, (), {"CREATE_NEW_PROCESS_GROUP": 0, "CREATE_NO_WINDOW": 0})
        if name == "psutil":
            return with_peak(really(name, globals, locals, fromlist, level))
    return really(name, globals, locals, fromlist, level)


builtins.__import__ = imports
