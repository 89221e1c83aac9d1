"""The golden test: a program run by halfstep sees, prints and leaves behind what it does under python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .launch import LAUNCH, PROGRAMS, both, environment, launch

PROBE = PROGRAMS / "probe.py"


@pytest.fixture
def forms(tmp_path: Path) -> Path:
    """A folder with the probe as a script, a link, a package, a directory and a zip."""
    shutil.copy(PROBE, tmp_path / "probe.py")
    for folder in ("package", "directory", "away"):
        (tmp_path / folder).mkdir()
    shutil.copy(PROBE, tmp_path / "package" / "__main__.py")
    shutil.copy(PROBE, tmp_path / "package" / "part.py")
    (tmp_path / "package" / "__init__.py").write_text("import sys\nprint('package sees', sys.argv)\n")
    shutil.copy(PROBE, tmp_path / "directory" / "__main__.py")
    shutil.copy(PROBE, tmp_path / "away" / "real.py")
    (tmp_path / "link.py").symlink_to(Path("away", "real.py"))
    with zipfile.ZipFile(tmp_path / "archive.pyz", "w") as archive:
        archive.write(PROBE, "__main__.py")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["probe.py", "--precision", "8", "-m", "--", "-h", ""]),
        ([], ["./away/../probe.py"]),
        ([], ["link.py"]),
        ([], ["-m", "probe", "--a"]),
        ([], ["-m", "package"]),
        ([], ["-m", "package.part", "--steps", "3"]),
        ([], ["directory", "--a"]),
        ([], ["archive.pyz"]),
        (["-I"], ["probe.py"]),
        (["-I"], ["directory"]),
        (["-B", "-O", "-u", "-W", "always", "-X", "dev"], ["probe.py"]),
        pytest.param(
            ["-P"], ["probe.py"], marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.11")
        ),
    ],
    ids=lambda words: " ".join(words) or None,
)
def test_the_program_sees_what_it_sees_under_python(
    forms: Path, options: list[str], words: list[str]
) -> None:
    python, ours = both(words, forms, options=options, stdin="first\nlast")
    assert ours == python
    assert ours.code == 0
    assert "probe: 'ends'" in ours.out
    assert "atexit main: True" in ours.out


ENDINGS = {
    "returns": "print('done')",
    "exit 0": "import sys; sys.exit(0)",
    "exit 3": "import sys; print('out'); sys.exit(3)",
    "exit 300": "raise SystemExit(300)",
    "exit text": "import sys; sys.exit('what went wrong')",
    "exit None": "import sys; sys.exit(None)",
    "exit by a thread": "import threading, sys; t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()",
    "exit while another is handled": "import sys\ntry:\n    1/0\nfinally:\n    sys.exit(5)",
    "exception": "def f():\n    raise RuntimeError('boom')\nprint('out')\nf()",
    "own exception": "class Mine(Exception):\n    def __str__(self): raise TypeError('no text')\nraise Mine()",
    "frozen exception": "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Mine(Exception):\n    x: int\n"
    "raise Mine(1)",
    "cause": "try:\n    {}['key']\nexcept KeyError as e:\n    raise ValueError('no key') from e",
    "context": "def f():\n    try:\n        1/0\n    except ZeroDivisionError:\n        [].pop()\nf()",
    "reraised": "def f():\n    try:\n        1/0\n    except ZeroDivisionError:\n        raise\nf()",
    "raised far from here": "e = KeyError(1)\ntry:\n    raise e\nexcept KeyError:\n    pass\nraise e",
    "syntax error": "print('never')\ndef f(:\n    pass\n",
    "indentation error": "if 1:\nx = 1",
    "syntax error of an import": "import broken",
    "error of an import": "import failing",
    "no such import": "import nothing_of_this_name",
    "own hook": "import sys, traceback\ndef hook(kind, error, tb):\n"
    "    print('mine', sys.excepthook is hook, tb is error.__traceback__)\n    print(traceback.format_exception(kind, error, tb))\n"
    "sys.excepthook = hook\nraise RuntimeError('boom')",
    "own hook exits": "import sys\nsys.excepthook = lambda *a: sys.exit(7)\nraise RuntimeError('boom')",
    "own hook fails": "import sys\ndef hook(*a):\n    1/0\nsys.excepthook = hook\nraise RuntimeError('boom')",
    "own hook is nothing": "import sys\nsys.excepthook = None\nraise RuntimeError('boom')",
    "last": "import atexit, sys, traceback\n@atexit.register\ndef _():\n"
    "    print(sys.last_type, sys.last_value, sys.excepthook is sys.__excepthook__, sorted(globals()))\n"
    "    traceback.print_last()\nraise RuntimeError('boom')",
    "names after exit": "import atexit, sys\natexit.register(lambda: print(sorted(globals())))\nsys.exit(1)",
    "KeyboardInterrupt": "print('out')\nraise KeyboardInterrupt",
    "kind of KeyboardInterrupt": "class Mine(KeyboardInterrupt): pass\nraise Mine('x')",
    "SIGINT": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)",
    "SIGINT caught": "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
    "except KeyboardInterrupt:\n    print('caught')",
    "SIGTERM": "import os, signal, time\nprint('lost')\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)",
    "SIGTERM handled": "import os, signal, sys\nprint(signal.signal(signal.SIGTERM, lambda *a: sys.exit(6)))\n"
    "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGTERM ignored": "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')",
    "SIGTERM handled and given back": "import os, signal, time\nold = signal.signal(signal.SIGTERM, print)\n"
    "signal.signal(signal.SIGTERM, old)\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)",
    "SIGTERM to a forked child": "import multiprocessing, time\n"
    "p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(9,))\n"
    "p.start(); p.terminate(); p.join(); print(p.exitcode)",
    "SIGKILL": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "_exit": "import os; print('lost'); os._exit(4)",
    "abort": "import os; os.abort()",
    "MemoryError": "[0] * (1 << 60)",
    "RecursionError": "def f():\n    f()\ntry:\n    f()\nexcept RecursionError as e:\n"
    "    raise e.with_traceback(None) from None",
    "exception in an exit handler": "import atexit\natexit.register(lambda: 1/0)",
    "exit in an exit handler": "import atexit, sys\natexit.register(sys.exit, 3)",
    "exit handlers in order": "import atexit\nfor i in range(3): atexit.register(print, i)\nprint('body')",
    "exception in a thread": "import threading\ndef f():\n    raise RuntimeError('boom')\n"
    "t = threading.Thread(target=f, name='t'); t.start(); t.join()\nprint('on')",
    "a thread outlives the program": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('late', '__file__' in globals()))).start()",
    "an object dies last": "class Last:\n    def __del__(self): print('dies', __name__)\nkept = Last()",
    "a forked child exits": "import os, sys\nif os.fork() == 0:\n    sys.exit(8)\n"
    "print(os.waitstatus_to_exitcode(os.wait()[1]))",
    "stdout closed": "import sys; print('x'); sys.stdout.close()",
    "warning": "import warnings\ndef f():\n    warnings.warn('w', DeprecationWarning, stacklevel=2)\nf()",
    "reload of a module": "import importlib, good; importlib.reload(good)",
    "a local module hides one of the library": "import random, csv; print(random.mine)",
    "a local module does not hide a built-in one": "import time, os; print(hasattr(time, 'mine'), hasattr(os, 'mine'))",
    "changes directory": "import os, good\nos.chdir('/')\nimport later\nprint(__file__, later.__file__)\n1/0",
}  # fmt: skip


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules that scripts import."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "broken.py").write_text("x = (\n")
    (folder / "failing.py").write_text("def f():\n    raise OSError('no')\nf()\n")
    for name in ("good", "later", "random", "time", "os"):
        (folder / f"{name}.py").write_text("print('read', __name__)\nmine = True\n")
    return folder


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_as_under_python(beside: Path, name: str) -> None:
    script = beside / (name.replace(" ", "_") + "_script.py")
    script.write_text(ENDINGS[name])
    python, ours = both([script.name], beside)
    assert ours == python


@pytest.mark.parametrize(
    "name", ["returns", "exit 3", "exception", "cause", "syntax error", "own hook", "last", "SIGINT"]
)
def test_a_module_ends_as_under_python(beside: Path, name: str) -> None:
    script = beside / (name.replace(" ", "_") + "_module.py")
    script.write_text(ENDINGS[name])
    python, ours = both(["-m", script.stem], beside)
    assert ours == python


@pytest.mark.parametrize("name", ["exit 3", "exception", "syntax error", "indentation error", "own hook"])
def test_a_script_ends_so_under_the_installed_command_too(beside: Path, tmp_path: Path, name: str) -> None:
    """The interpreter still holds the `__main__` of the script `halfstep` that pip writes, and no frame does."""
    command = tmp_path / "halfstep"
    command.write_text("import sys\nfrom halfstep.cli import main\nsys.exit(main())\n")
    script = beside / (name.replace(" ", "_") + "_command.py")
    script.write_text(ENDINGS[name])
    debugging = ["-X", "dev"]  # memory that was given back is overwritten
    ours = launch([script.name], beside, options=debugging, by=[str(command), *LAUNCH[2:]])
    assert ours == launch([script.name], beside, options=debugging)


@pytest.mark.parametrize(
    "module", ["nothing_of_this_name", "json.nothing", "good.part", "failing.part", "email"]
)
def test_a_module_that_cannot_run_is_refused_in_the_words_of_python(beside: Path, module: str) -> None:
    python, ours = both(["-m", module], beside)
    assert ours == python
    assert ours.code == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups: 3.11")
def test_an_exception_group_is_shown_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "def f():\n    raise OSError('no')\ntry:\n    f()\nexcept OSError as e:\n    found = e\nfound.add_note('a note')\n"
        "raise ExceptionGroup('several', [found, ExceptionGroup('inner', [ValueError(1)])])\n"
    )
    python, ours = both(["script.py"], tmp_path)
    assert ours == python
    assert "inner" in ours.err


def test_a_closed_pipe_ends_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("print('x')\n")
    (tmp_path / "long.py").write_text("for i in range(100_000): print(i)\n")
    for script in ("short.py", "long.py"):
        ends = []
        for by in ([], LAUNCH):
            read, write = os.pipe()
            os.close(read)
            done = subprocess.run(  # noqa: PLW1510
                [sys.executable, *by, script],
                cwd=tmp_path,
                env=environment(tmp_path),
                stdout=write,
                stderr=subprocess.PIPE,
                timeout=60,
            )
            os.close(write)
            ends.append((done.returncode, done.stderr))
        assert ends[0] == ends[1]
        assert ends[0][0] != 0


def test_output_and_errors_are_interleaved_as_under_python(tmp_path: Path) -> None:
    """A script's buffered output comes before the traceback, and before what exit handlers write."""
    (tmp_path / "script.py").write_text(
        "import atexit, sys\natexit.register(lambda: print('handler', file=sys.stderr))\nprint('body')\n1/0\n"
    )
    outputs = [
        subprocess.run(  # noqa: PLW1510
            [sys.executable, *by, "script.py"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        ).stdout
        for by in ([], LAUNCH)
    ]
    assert outputs[0] == outputs[1]
    assert outputs[1].startswith(b"body\nTraceback")


def test_a_compiled_script_runs_as_under_python(tmp_path: Path) -> None:
    import py_compile

    (tmp_path / "script.py").write_text("print(__file__, type(__loader__), __cached__)\n1/0\n")
    py_compile.compile(str(tmp_path / "script.py"), str(tmp_path / "script.pyc"))
    python, ours = both(["script.pyc"], tmp_path)
    assert ours == python


def test_a_script_in_another_encoding_runs_and_one_in_none_fails_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n1/0 # \xe9\n")
    (tmp_path / "unsaid.py").write_bytes(b"print('\xe9')\n")
    python, ours = both(["said.py"], tmp_path)
    assert ours == python
    python, ours = both(["unsaid.py"], tmp_path)
    assert (ours.code, ours.out) == (python.code, python.out) == (1, "")
    assert "SyntaxError" in ours.err


POOLS = """
import concurrent.futures, multiprocessing, os, sys

class Work:
    def __call__(self, x):
        return (x * x, __name__, sys.argv, 'halfstep' in sys.modules)

def fail(x):
    raise ValueError(x)

if __name__ == '__main__':
    with multiprocessing.get_context('forkserver').Pool(1) as pool:
        print(pool.map(Work(), range(3)))
        try:
            pool.apply(fail, (3,))
        except ValueError as e:
            print(repr(e), e.__cause__)
    spawn = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        print(list(pool.map(Work(), range(3))))
    sleeper = spawn.Process(target=os._exit, args=(4,))
    sleeper.start()
    sleeper.join()
    print(sleeper.exitcode)
"""


@pytest.mark.parametrize("words", [["pools.py", "--a"], ["-m", "pools", "--a"]], ids=" ".join)
def test_pools_of_processes_work_as_under_python(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "pools.py").write_text(POOLS)
    python, ours = both(words, tmp_path)
    assert ours == python
    assert "(4, '__mp_main__', " in ours.out
    assert ours.code == 0


def test_in_a_deleted_folder_as_under_python(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    ends = []
    for by in ([], LAUNCH):
        gone.mkdir()
        delete_and_run = f'rmdir "$PWD" && "{sys.executable}" {" ".join(by)} -m json.tool --help'
        done = subprocess.run(  # noqa: PLW1510
            ["sh", "-c", delete_and_run], cwd=gone, env=environment(tmp_path), capture_output=True, timeout=60
        )
        ends.append((done.returncode, done.stdout, done.stderr))
    assert ends[0] == ends[1]
    assert ends[0][0] == 0
