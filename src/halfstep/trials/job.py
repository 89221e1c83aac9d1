"""What is run: a trial, and what all trials of a comparison have in common."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from halfstep.options import DEFAULTS, RunOptions, run_arguments
from halfstep.processes import CONSOLE
from halfstep.program.launching import start_of_command


@dataclass(frozen=True)
class Trial:
    """One run of the program: a precision, a seed and a repeat."""

    precision: str
    seed: int = 0
    repeat: int = 0

    @property
    def label(self) -> str:
        """A name for people and files, e.g. ``bf16-seed0-repeat1``."""
        return f"{safe(self.precision)}-seed{self.seed}-repeat{self.repeat}"


#: a recipe that can be part of a file's name as it is, except for the colon
_SAFE = re.compile(r"[a-z0-9.=-]+(:[a-z0-9._=-]+)?")

#: characters of a file's name that a recipe may take; a file system allows 255 in all
_LONGEST = 80


def safe(precision: str) -> str:
    """A recipe as a part of a file's name; where characters are replaced or cut, a digest keeps the name unique."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-=.") else "_" for c in precision)
    if _SAFE.fullmatch(precision) and len(precision) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9]}-{hashlib.sha256(precision.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Job:
    """What every trial of a comparison has in common."""

    program: str
    arguments: tuple[str, ...]
    module: bool  #: whether ``program`` is a module's name
    folder: Path  #: where records and logs go (absolute)
    options: RunOptions = DEFAULTS
    time_limit: float | None = None  #: seconds that a trial may take; None for no limit
    launch: str = ""  #: a launcher such as ``torchrun --nproc-per-node 2``; empty for none
    #: end a trial whose processes hold more bytes than this in physical memory; None for no limit
    memory_limit: int | None = None
    watch: bool = False  #: look at every operation, for a diagnosis
    graphs: bool = False  #: compare each compiled graph with the same graph run eagerly
    fresh: bool = False  #: run each trial in a copy of the current folder

    def command(self, trial: Trial, copy: Path | None = None) -> list[str]:
        """The command line of a trial; absolute paths in the current folder are replaced by those in its ``copy``."""
        ours = run_arguments(
            trial.precision,
            self.options,
            seed=trial.seed,
            repeat=trial.repeat,
            record=str(self.record(trial)),
            watch=self.watch,
            graphs=self.graphs,
        )
        # A program may have the name of an option.
        ours += [*(["-m"] if self.module else []), *(["--"] if self.program.startswith("-") else [])]
        ours += [_in_copy(copy, word) for word in (self.program, *self.arguments)]
        return [*start_of_command(self.launch), *ours]

    def record(self, trial: Trial) -> Path:
        """Where the trial's record goes; other ranks' go beside it."""
        return self.folder / "trials" / f"{trial.label}.jsonl"

    def records(self, trial: Trial) -> list[Path]:
        """The trial's record, and those of other ranks that are there."""
        return record_files(self.record(trial))

    def log(self, trial: Trial) -> Path:
        """Where the trial's stdout and stderr go."""
        return self.folder / "trials" / f"{trial.label}.log"

    def environment(self, trial: Trial) -> dict[str, str]:
        """The environment of this process, and in HALFSTEP_TRIAL which trial it is."""
        this = {"precision": trial.precision, "seed": trial.seed, "repeat": trial.repeat}
        environment = {**CONSOLE, **os.environ}
        environment.setdefault("PYTHONHASHSEED", "0")
        environment["PYTHONUNBUFFERED"] = "1"
        if self.launch:  # the launcher starts another interpreter
            given = {
                "PYTHONOPTIMIZE": str(sys.flags.optimize or ""),
                "PYTHONWARNINGS": ",".join(sys.warnoptions),
            }
            environment |= {name: value for name, value in given.items() if value}
        environment["HALFSTEP_TRIAL"] = json.dumps(this)
        return environment


def _in_copy(copy: Path | None, word: str) -> str:
    """A word of the command line, ``/here/train.py`` or ``--out=/here/run``, with the path in a copy of ``/here``.

    A path that is not in the copy stays as it is.
    """
    name, equals, path = word.partition("=") if word.startswith("-") else ("", "", word)
    if copy is None or not os.path.isabs(path):
        return word
    inside = os.path.relpath(path, Path.cwd())
    copied = copy / inside
    if inside.startswith(os.pardir) or not copied.parent.is_dir():
        return word
    return f"{name}{equals}{copied}"


def record_files(record: Path) -> list[Path]:
    """The path of a record, and of those beside it that other ranks have written."""
    return [record, *sorted(record.parent.glob(f"{glob.escape(record.name)}.rank*"))]
