"""Prints everything that a program can see of itself. Run by python and by halfstep, it prints the same."""
__annotations__["early"] = int
names_at_start = list(globals())

import atexit
import dataclasses
import gc
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import typing
import warnings

limit: int = 3


@dataclasses.dataclass
class Point:
    x: int
    y: "float" = 1.5


class Colour:
    def __reduce__(self):
        return Colour, ()


def show(name, value):
    print(f"{name}: {value!r}", flush=True)


def in_child(queue, point):
    main = sys.modules["__main__"]
    queue.put((point, __name__, sys.argv, sys.path[0], getattr(main, "__file__", None), main.__name__,
               signal.getsignal(signal.SIGTERM),
               sorted(name for name in sys.modules if "halfstep" in name and __name__ == "__mp_main__")))


def at_exit():
    show("atexit globals", sorted(globals()))
    show("atexit pickle", pickle.loads(pickle.dumps(Point(3))) == Point(3))
    show("atexit main", sys.modules["__main__"].__dict__ is globals())


def fail(depth):
    if depth:
        fail(depth - 1)
    raise LookupError("caught")


def itself():
    show("__name__", __name__)
    show("__file__", __file__)
    show("__spec__", __spec__ and (__spec__.name, __spec__.origin, __spec__.cached, __spec__.parent,
                                   __spec__.submodule_search_locations, __spec__.loader is __loader__))
    show("__package__", __package__)
    show("__cached__", __cached__)
    show("__doc__", __doc__)
    show("__loader__", type(__loader__))
    show("loader path", (getattr(__loader__, "name", 0), getattr(__loader__, "path", 0)))
    show("__builtins__", __builtins__)
    show("__annotations__", __annotations__)
    show("names", names_at_start)
    show("names now", list(globals()))
    show("main is me", sys.modules["__main__"].__dict__ is globals())
    show("main", (type(sys.modules["__main__"]), sys.modules["__main__"].__name__))
    show("code", (fail.__code__.co_filename, fail.__module__, fail.__code__.co_flags))


def the_interpreter():
    show("argv", sys.argv)
    show("path", sys.path)
    show("finder", type(sys.path_importer_cache.get(sys.path[0])))
    show("file's finder", type(sys.path_importer_cache.get(globals()["__file__"], 0)))
    show("flags", sys.flags)
    show("warnoptions", (sys.warnoptions, sys._xoptions))
    show("filters", warnings.filters)
    show("hooks", (sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__,
                   threading.excepthook is threading.__excepthook__, sys.gettrace(), sys.getprofile()))
    show("limits", (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()))
    show("streams", [(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through)
                     for s in (sys.stdin, sys.stdout, sys.stderr)])
    show("last", [hasattr(sys, name) for name in ("last_type", "last_value", "last_traceback", "last_exc")])
    show("exc_info", sys.exc_info())


def the_process():
    show("cwd", os.getcwd())
    show("environment", sorted(os.environ.items()))
    show("stdin", sys.stdin.read())
    show("open files", len(os.listdir("/dev/fd")))
    show("signals", {number: signal.getsignal(number) for number in signal.valid_signals()
                     if number not in (signal.SIGINT, signal.SIGALRM)})
    show("SIGINT", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    show("SIGTERM", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    show("threads", [(t.name, t.daemon, t is threading.main_thread()) for t in threading.enumerate()])
    show("logging", (logging.root.handlers, logging.root.level))


def what_tools_use():
    show("pickle", pickle.dumps(Point(1)))
    show("unpickled", pickle.loads(pickle.dumps(Point(1))))
    show("reduce", type(pickle.loads(pickle.dumps(Colour()))) is Colour)
    show("hints", typing.get_type_hints(Point))
    show("source", inspect.getsource(Point))
    show("module of class", inspect.getmodule(Point).__name__)
    show("frame", [frame.function for frame in inspect.stack()][:2])
    try:
        fail(2)
    except LookupError:
        traceback.print_exc(file=sys.stdout)
        traceback.print_exc()
    warnings.warn("one of mine")
    def inner():
        warnings.warn("one of my caller's", stacklevel=2)
    inner()
    show("registry", "__warningregistry__" in globals())
    show("sys", (sorted(vars(sys)), sorted(getattr(sys, "__warningregistry__", {}), key=str)))
    logging.warning("to stderr")


def children():
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=in_child, args=(queue, Point(7)))
        child.start()
        child.join(20)
        show(method, (child.exitcode, queue.get(timeout=20) if child.exitcode == 0 else None))


if __name__ == "__main__":
    for level in range(2, 5):
        warnings.warn("of whoever is beneath", stacklevel=level)
    show("probe", "starts")
    atexit.register(at_exit)
    itself()
    the_interpreter()
    the_process()
    what_tools_use()
    children()
    late = threading.Thread(target=lambda: show("thread", threading.current_thread().name), name="late")
    late.start()
    late.join()
    show("probe", "ends")
else:
    show("imported as", __name__)
