"""`halfstep compare` for benchmarks: in a folder that is gone on with where an earlier run was ended."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def compare(folder: Path, options: Sequence[str], program: Sequence[str]) -> dict[str, Any]:
    """The comparison object: trials that stand in the folder are not run again.

    Args:
        folder: where it is kept; what stands there must have been asked for in the same way.
        options: of `halfstep compare`.
        program: the program and its arguments, from the repository's root.

    Raises:
        RuntimeError: no trial ran to its end, or it was interrupted.
    """
    begun = (folder / "request.json").exists()
    where = ["--resume" if begun else "--out", str(folder)]
    command = [sys.executable, "-m", "halfstep", "compare", *where, *options, *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(program)}: {(done.stderr or done.stdout)[-500:]}")
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    if any(trial["status"] == "interrupted" for trial in found["trials"]):
        raise RuntimeError(f"{' '.join(program)} was interrupted; --resume goes on.")
    return found


def add_folder(parser: argparse.ArgumentParser, name: str) -> None:
    """The options --out and --resume."""
    default = ROOT / "halfstep-out" / name
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="the comparisons' folder")
    parser.add_argument("--resume", action="store_true", help="run only what is missing in the folder")


def check_folder(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a folder of an earlier run that is not to be gone on with.

    Raises:
        SystemExit: with the sentence that says so.
    """
    options.out = options.out.absolute()
    if options.out.exists() and not options.resume:
        parser.error(f"{options.out} holds an earlier run; give --resume to go on with it, or another --out.")


def write(path: Path, text: str) -> None:
    """Write a file whose folder may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def finish(main: Callable[[], None]) -> None:
    """Run the benchmark; Ctrl-C ends it with a sentence.

    Raises:
        SystemExit: 130, as a shell says of what was interrupted.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted; --resume goes on.", file=sys.stderr)
        raise SystemExit(130) from None
