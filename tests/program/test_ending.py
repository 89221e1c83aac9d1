"""What is told about a program's end, and that telling it changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halfstep.program import Ending
from halfstep.words.safe_text import clean

from .launch import PROGRAMS, Seen, environment, launch

TELL = PROGRAMS / "tell_ending.py"


def told(folder: Path, program: str) -> tuple[Seen, list[Ending]]:
    """Run a program; return what was seen of it, and every ending that was told."""
    (folder / "script.py").write_text(program)
    seen = launch(["script.py"], folder, by=[str(TELL), "endings"])
    path = folder / "endings"
    return seen, [
        Ending(**json.loads(line)) for line in path.read_text().splitlines()
    ] if path.exists() else []


CASES = {
    "print('done')": Ending("ok", 0),
    "import sys; sys.exit()": Ending("ok", 0),
    "raise SystemExit(False)": Ending("ok", 0),
    "raise SystemExit(256)": Ending("ok", 0),
    "raise SystemExit(0.0)": Ending("failed", 1, "0.0"),
    "import sys; sys.exit(3)": Ending("failed", 3, "exit code 3"),
    "import sys; sys.exit(-1)": Ending("failed", 255, "exit code -1"),
    "import sys; sys.exit('no data\\nat all')": Ending("failed", 1, "no data"),
    "raise RuntimeError('boom')": Ending("failed", 1, "RuntimeError: boom", "RuntimeError"),
    "raise RuntimeError('\\n  first\\nsecond')": Ending("failed", 1, "RuntimeError: first", "RuntimeError"),
    "assert False": Ending("failed", 1, "AssertionError at script.py:1", "AssertionError"),
    "import json; json.loads('x')": Ending(
        "failed",
        1,
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "json.decoder.JSONDecodeError",
    ),
    "class Mine(Exception):\n    def __str__(self): raise TypeError\nraise Mine": Ending(
        "failed", 1, "Mine: <exception str() failed>", "Mine"
    ),
    "def f(:": Ending("failed", 1, "SyntaxError: invalid syntax (script.py, line 1)", "SyntaxError"),
    "import sys\nsys.excepthook = lambda *a: sys.exit(7)\n1/0": Ending("failed", 7, "exit code 7"),
    "raise KeyboardInterrupt": Ending("interrupted", -2, "KeyboardInterrupt", "KeyboardInterrupt"),
    "class Mine(KeyboardInterrupt): pass\nraise Mine": Ending("failed", 1, "Mine", "Mine"),
    "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)": Ending(
        "interrupted", -2, "KeyboardInterrupt", "KeyboardInterrupt"
    ),
    "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)": Ending(
        "terminated", -15, "terminated by SIGTERM"
    ),
    "bytearray(1 << 62)": Ending("failed", 1, "MemoryError at script.py:1", "MemoryError", True),
    "class E:\n    def __str__(self): raise RuntimeError\nimport sys; sys.exit(E())": Ending(
        "failed", 1, "<exception str() failed>"
    ),
    "import os\nif os.fork() == 0:\n    raise SystemExit(8)\nos.wait()": Ending("ok", 0),
    "import threading\nthreading.Thread(target=lambda: 1/0).start()": Ending("ok", 0),
    "import atexit\natexit.register(lambda: 1/0)": Ending("ok", 0),
}


@pytest.mark.parametrize("program", CASES)
def test_the_ending_is_told_once_and_is_what_the_process_returns(tmp_path: Path, program: str) -> None:
    seen, endings = told(tmp_path, program)
    assert endings == [CASES[program]]
    assert seen.code == endings[0].exit_code
    assert seen == launch(["script.py"], tmp_path)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os; os._exit(4)", 4),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import signal, os; signal.signal(15, lambda *a: os._exit(5)); os.kill(os.getpid(), 15)", 5),
    ],
)
def test_an_end_that_runs_no_handlers_is_not_told(tmp_path: Path, program: str, code: int) -> None:
    seen, endings = told(tmp_path, program)
    assert (seen.code, endings) == (code, [])


def test_the_programs_own_handlers_come_first(tmp_path: Path) -> None:
    program = "import atexit, os\natexit.register(lambda: print(os.path.exists('endings')))"
    assert told(tmp_path, program)[0].out == "False\n"


def test_sigterm_from_outside_is_told_and_kills(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    words = [sys.executable, str(TELL), "endings", "script.py"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert json.loads((tmp_path / "endings").read_text())["status"] == "terminated"


def test_a_callback_that_fails_is_one_line_and_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    seen = launch(["script.py"], tmp_path, by=[str(PROGRAMS / "fail_at_end.py")])
    assert seen.code == 3
    assert seen.err == (
        "halfstep: the end of the run was not recorded: SystemExit: 9\n"
        "halfstep: the end of the run was not recorded: OSError: no space left\n"
    )


def test_in_a_program_that_python_runs_the_exit_code_is_not_known(tmp_path: Path) -> None:
    """`halfstep.enable` in a script: an uncaught exception can be seen, a sys.exit cannot."""
    begin = "from halfstep.program import at_end\nat_end(print)\n"
    for last, ending in {
        "import sys; sys.exit(3)": Ending("ok", None),
        "1/0": Ending("failed", 1, "ZeroDivisionError: division by zero", "ZeroDivisionError"),
    }.items():
        (tmp_path / "script.py").write_text(begin + last)
        assert launch(["script.py"], tmp_path).out == f"{ending}\n"


def _raised_from(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


class OutOfMemoryError(RuntimeError):
    """Named as torch's and jax's."""


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (_raised_from(RuntimeError("trainer failed"), MemoryError()), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("a book about being out of memory"), False),
        (SystemExit(1), False),
    ],
    ids=str,
)
def test_running_out_of_memory_is_recognised(error: BaseException, ran_out: bool) -> None:
    assert Ending.of(error).out_of_memory is ran_out


def test_torchs_own_allocator_failure_is_recognised() -> None:
    torch = pytest.importorskip("torch")
    assert Ending.of(torch.OutOfMemoryError("x")).out_of_memory
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 60)
    assert Ending.of(failure.value).out_of_memory


def test_causes_that_go_in_a_circle_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not Ending.of(first).out_of_memory


def test_an_error_that_says_only_where_it_was_raised_is_told_with_its_cause() -> None:
    """Keras puts such a line before what an exception says."""
    inject = pytest.importorskip("keras.src.utils.traceback_utils").inject_argument_info_in_traceback

    def call(x: int) -> None:
        raise TypeError("Input 'y' has type float32\nthat does not match")

    with pytest.raises(TypeError) as failure:
        inject(call, "Scaled.call()")(1)
    assert clean(Ending.of(failure.value).reason) == (
        "TypeError: Exception encountered when calling Scaled.call(). Input 'y' has type float32"
    )


def test_an_error_in_a_function_that_tensorflow_traced_is_told_with_what_it_says() -> None:
    """As TensorFlow 2.21 words it: frames first, the error last."""
    traced = TypeError(
        "in user code:\n\n"
        '    File "train.py", line 9, in step  *\n        loss = model(x) * mask\n\n'
        "    TypeError: Input 'y' of 'Mul' Op has type float32 that does not match type bfloat16 of argument 'x'.\n"
    )
    assert Ending.of(traced).reason == (
        "TypeError: Input 'y' of 'Mul' Op has type float32 that does not match type bfloat16 of argument 'x'."
    )
    assert Ending.of(TypeError("in user code:")).reason == "TypeError: in user code:"
