"""The examples are run as a user runs them: `python examples/x.py`, with every warning an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Run = Callable[..., str]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """One thread and the CPU: the same arithmetic in the same order in every run."""
    ours = {
        "PYTHONWARNINGS": "error",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **ours}


@pytest.fixture(scope="session")
def run_example(environment: dict[str, str]) -> Run:
    """Run an example to its end; its stdout. It must exit with 0 and write nothing to stderr."""

    def run(name: str, *arguments: str) -> str:
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def kill_example(environment: dict[str, str]) -> Callable[..., None]:
    """Start an example and kill it, as a machine that goes down does, once it prints a line that starts so."""

    def kill(line_start: str, name: str, *arguments: str) -> None:
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any(line.startswith(line_start) for line in process.stdout)
            process.kill()

    return kill
