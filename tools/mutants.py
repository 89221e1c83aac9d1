"""Changes the files that judge, one small fault at a time, and tells the faults that no test notices.

    python tools/mutants.py [FILE ...] [--sample N] [--seed S]

Needs the extra ``mutants`` (cosmic-ray). All work is done in a copy of the repository. Of each file of
tools/mutants.toml the nearest tests are run, ``--sample`` faults a file drawn at random (all of them without).
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tools" / "mutants.toml"

#: seconds that the tests of one fault may take: some faults loop for ever
TIMEOUT = 120.0


def written_types(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types are written, which nothing computes: first and last position, as (line, column)."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            kind = getattr(node, name, None)
            if kind is not None:
                yield (kind.lineno, kind.col_offset), (kind.end_lineno, kind.end_col_offset)


def chosen(session: Path, source: str, sample: int | None, seed: int) -> int:
    """Leave so many faults in the session, none of them in a type; returns how many these are."""
    from cosmic_ray.work_db import WorkDB, use_db

    spans = list(written_types(source))
    with use_db(session, WorkDB.Mode.open) as db:
        items = [
            item
            for item in sorted(db.work_items, key=lambda item: str(item.mutations))
            if not any(first <= item.mutations[0].start_pos <= last for first, last in spans)
        ]
        kept = items if sample is None else random.Random(seed).sample(items, min(sample, len(items)))
        db.clear()
        db.add_work_items(kept)
    return len(kept)


def survivors(session: Path) -> list[str]:
    """The changed lines of each fault that no test noticed."""
    from cosmic_ray.work_db import WorkDB, use_db

    with use_db(session, WorkDB.Mode.open) as db:
        diffs = [result.diff or "" for _, result in db.results if not result.is_killed]
    return sorted("\n".join(line for line in diff.splitlines()[2:] if line[:1] in "+-@") for diff in diffs)


def run(copy: Path, file: str, entry: dict[str, Any], sample: int | None, seed: int) -> tuple[int, list[str]]:
    """How many faults of the file were tried, and those that no test noticed and the table does not name.

    Raises:
        SystemExit: the tests fail without any fault.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *entry["tests"]]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    whole = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if whole.returncode:
        raise SystemExit(f"The tests of {file} fail as it is:\n{whole.stdout[-2000:]}")
    session, config = copy / "session.sqlite", copy / "session.toml"
    session.unlink(missing_ok=True)
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{file}"\ntimeout = {TIMEOUT}\nexcluded-modules = []\n'
        f'test-command = {" ".join(command)!r}\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    for step in ("init", "exec"):
        if step == "exec":
            tried = chosen(session, (copy / file).read_text(encoding="utf-8"), sample, seed)
        words = [sys.executable, "-m", "cosmic_ray.cli", step, str(config), str(session)]
        subprocess.run(words, cwd=copy, env=environment, check=True)
    named: Sequence[str] = entry.get("equivalent", [])
    return tried, [diff for diff in survivors(session) if not any(line in diff for line in named)]


def main() -> None:
    table: dict[str, dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of these: {', '.join(table)}")
    parser.add_argument("--sample", type=int, metavar="N", help="faults a file; default: all")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    options = parser.parse_args()
    if unknown := [file for file in options.files if file not in table]:
        parser.error(f"{unknown[0]} is not in {TABLE.name}; give one of {', '.join(table)}.")
    tried = found = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in ("src", "tests", "benchmarks", "examples", "tools"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for file in options.files or table:
            count, left = run(copy, file, table[file], options.sample, options.seed)
            tried, found = tried + count, found + len(left)
            print(f"{file}: {count - len(left)} of {count} noticed", *left, sep="\n", flush=True)
    print(f"{tried - found} of {tried} noticed ({(tried - found) / max(tried, 1):.0%})")


if __name__ == "__main__":
    main()
