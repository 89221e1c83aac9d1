"""Runs a program by python and by halfstep, and tells all that can be seen of it from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent.parent / "programs" / "runner"

# What stands between the interpreter and the program.
LAUNCH = ["-m", "halfstep", "run", "--precision", "as-is"]


@dataclass(frozen=True)
class Seen:
    """What a process left behind; its return code is negative if a signal ended it."""

    code: int
    out: str
    err: str


def environment(home: Path) -> dict[str, str]:
    """Little enough that both runs have the same; the second name is where some builds of python find themselves."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def launch(
    words: Sequence[str], cwd: Path, *, options: Sequence[str] = (), by: Sequence[str] = (), stdin: str = ""
) -> Seen:
    """Run `python <options> <by> <words>` in `cwd`, to its end."""
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, *options, *by, *words],
        cwd=cwd,
        env=environment(cwd),
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
    )
    return Seen(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(output: bytes) -> str:
    """Without addresses in memory, which differ from run to run."""
    return re.sub(r"\b0x[0-9a-f]+", "0x…", output.decode())


def both(words: Sequence[str], cwd: Path, **settings: object) -> tuple[Seen, Seen]:
    """The same program by python and by halfstep, side by side."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(launch, words, cwd, by=by, **settings) for by in ([], LAUNCH)]  # type: ignore[arg-type]
        python, ours = (run.result() for run in runs)
    return python, ours
