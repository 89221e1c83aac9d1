"""Linux, macOS and Windows: what asks which it is stands in two modules, and nothing else needs what one of them lacks.

Windows is played (see programs/played_windows): halfstep's own modules lack what the standard library lacks there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from halfstep.record import read

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "halfstep"
PLAYED = Path(__file__).parent / "programs" / "played_windows"
FAULTY = Path(__file__).parent / "programs" / "faulty.py"

#: the two modules that may ask
ASKING = {SOURCE / "processes.py", SOURCE / "files.py"}
#: modules and names that a platform lacks, and the questions which platform it is; `getattr` with a default is allowed
LACKING = {
    *("fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg", "_winapi"),
    *("os.killpg", "os.setsid", "os.getpgid", "os.getuid", "os.geteuid", "os.fork", "os.sysconf", "os.uname"),
    *("os.register_at_fork", "os.waitpid", "os.mkfifo", "os.sched_getaffinity", "os.getloadavg", "os.name"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.SIGBREAK", "signal.SIGALRM", "signal.pthread_sigmask"),
    *("sys.platform", "platform.system", "subprocess.CREATE_NEW_PROCESS_GROUP"),
}
#: Python's own rule for the spelling of a path, which a program's `__file__` has to follow; and a part of a file's name
ALLOWED = {
    SOURCE / "program" / "target.py": {"os.name"},
    SOURCE / "pytorch" / "native" / "builder.py": {"platform.system"},
}


def named(path: Path) -> set[str]:
    """The modules that a file imports, and the attributes of modules that it names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found


def test_two_modules_alone_ask_which_platform_it_is() -> None:
    asking = {path: wrong for path in SOURCE.rglob("*.py") if (wrong := named(path) & LACKING)}
    assert asking.keys() >= ASKING, "the search finds what is there"
    assert {path: names for path, names in asking.items() if path not in ASKING} == ALLOWED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name, and a program in it."""
    folder = tmp_path / "My Documents"
    folder.mkdir()
    (folder / "my train.py").write_text(FAULTY.read_text())
    return folder


def windows(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start halfstep where Windows is played, in it and in what it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "halfstep", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(PLAYED), **environment}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_windows_is_played(tmp_path: Path) -> None:
    code = (
        "import halfstep.processes as p, halfstep.files as f, sys, os, psutil; print(p.sys.platform, sys.platform != 'win32', "
        "hasattr(p.signal, 'SIGKILL'), hasattr(f.os, 'geteuid'), hasattr(os, 'geteuid'), p.exit_words(0xC0000005))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PLAYED)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "win32 True False False True exit code 0xC0000005\n"


@pytest.mark.slow
def test_info_says_that_windows_is_untested(folder: Path) -> None:
    out, err = windows("info", cwd=folder).communicate(timeout=300)
    assert "untested: halfstep has not run there" in out.splitlines()[1], err
    assert "no RAPL counter: there is no" in out


@pytest.mark.slow
def test_a_program_runs_on_windows_as_under_python(folder: Path) -> None:
    started = windows(
        "run", "--precision", "bf16", "--products", "fp32", "--steps", "4", "--record", "r.jsonl", "my train.py",
        cwd=folder, XDG_CACHE_HOME=str(folder / "none compiled yet"),
    )  # fmt: skip
    out, err = started.communicate(timeout=300)
    assert (started.returncode, out) == (0, ""), err
    assert err.splitlines() == [
        "halfstep: the kernels in C and C++ cannot be had (they are written for GCC and Clang, which PyTorch is not built "
        "with on Windows): PyTorch's operations do their work, more slowly",
        "halfstep: ran as bf16, products in fp32 units: 4 steps",
    ]
    record = read(folder / "r.jsonl")
    assert (len(record.steps), record.end["status"]) == (4, "ok")
    assert record.end["load_absent"] == "only Linux reports what other processes take"
    assert "cannot reset a process's memory high-water mark" in record.end["peak_memory_absent"]


@pytest.mark.slow
def test_a_comparison_runs_on_windows(folder: Path) -> None:
    started = windows(
        "compare", "--precisions", "fp32,bf16", "--steps", "4", "--fresh", "--out", "my out", "--json", "c.json", "my train.py",
        cwd=folder,
    )  # fmt: skip
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    found = json.loads((folder / "c.json").read_text())
    assert [(t["precision"], t["status"], t["steps"]) for t in found["trials"]] == [
        ("fp32", "ok", 4),
        ("bf16", "ok", 4),
    ]
    assert found["trials"][0]["command"][-1] == "my train.py"
    assert re.search(r"^next halfstep .*\"[^'\"]*my (train\.py|out)\"", out, re.MULTILINE), (
        "as cmd.exe quotes"
    )
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "--fresh leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_trial_outlives_halfstep_on_windows(folder: Path, number: signal.Signals) -> None:
    record = folder / "o" / "trials" / "fp32-seed0-repeat0.jsonl"
    with windows(
        "compare", "--precisions", "fp32", "--out", "o", "my train.py", "hang", cwd=folder
    ) as started:
        by = time.monotonic() + 120
        while not record.exists() or len(read(record).steps) < 7:
            assert started.poll() is None
            assert time.monotonic() < by
            time.sleep(0.05)
        trial = psutil.Process(read(record).start["pid"])
        started.send_signal(number)
        out, err = started.communicate(timeout=120)
    psutil.wait_procs([trial], timeout=60)
    assert not trial.is_running()
    by = time.monotonic() + 60
    while not read(record).end:
        assert time.monotonic() < by
        time.sleep(0.05)
    assert read(record).end["status"] == "interrupted"
    assert number == signal.SIGKILL or "interrupted" in out, err


def test_a_launcher_with_a_drive_letter_keeps_its_backslashes() -> None:
    code = (
        "from halfstep.program.launching import start_of_command as s; from halfstep.processes import join_words as j; "
        r"print(s(r'C:\Python\python.exe -m torch.distributed.run --nproc-per-node 2')[:3]); "
        r"print(s('\"C:\\Program Files\\mpi\\mpiexec.exe\" -n 2')[:3]); print(j(['C:\\My Files\\a.py', '--lr', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PLAYED)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        r"['C:\\Python\\python.exe', '-m', 'torch.distributed.run']",
        r"['C:\\Program Files\\mpi\\mpiexec.exe', '-n', '2']",
        r'"C:\My Files\a.py" --lr 1',
    ]
