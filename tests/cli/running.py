"""Runs the command, and plain python, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent.parent / "programs"
Done = subprocess.CompletedProcess[str]


def halfstep(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "halfstep", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )


def python(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """Run plain python."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=300,
        check=False,
    )
