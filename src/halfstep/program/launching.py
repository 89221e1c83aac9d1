"""Launchers such as torchrun: the command that starts halfstep by one, and the rank that it gave this process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from halfstep.processes import split_words
from halfstep.program.child import START, command

#: launchers of any program, so that the command needs an interpreter after them
_OF_PROGRAMS = frozenset((
    "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "srun", "jsrun", "aprun", "numactl", "taskset", "env",
    "horovodrun", "nice", "nohup", "perf", "setsid", "stdbuf", "time",
))  # fmt: skip
#: the name of an interpreter
_PYTHON = re.compile(r"(python|pypy)[\d.]*t?(\.exe)?")

#: launchers that take options behind the script, too, some with the names of halfstep's
_WITH_OPTIONS_BEHIND = frozenset(("fabric", "lightning"))

#: the variables in which launchers give a process its rank; the first that is set is the innermost launcher's
_RANK = (
    "RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID",
)  # fmt: skip
_WORLD_SIZE = (
    "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS",
)  # fmt: skip


def start_of_command(launch: str) -> list[str]:
    """The words before ``run --precision …``: an interpreter or a launcher, and halfstep's script.

    Args:
        launch: what ``--launch`` was given; empty for no launcher.
    """
    words = split_words(launch)
    name = Path(words[0]).name if words else ""
    if not words or (name in _OF_PROGRAMS and not _names_python(words)):
        return [*words, *command()]
    return [*words, *(["--"] if name in _WITH_OPTIONS_BEHIND else []), START]


def _names_python(words: list[str]) -> bool:
    """Whether the launcher's command ends with an interpreter, possibly with options."""
    return any(_PYTHON.fullmatch(Path(word).name) for word in words[1:])


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank among those that a launcher started; 0 without one.

    torchrun sets ``RANK``; a program that starts its own copies, as Lightning does, sets ``LOCAL_RANK`` only; MPI and
    Slurm use other names.
    """
    return _first(_RANK, environment, 0)


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher started; 1 without one."""
    return _first(_WORLD_SIZE, environment, 1)


def _first(names: tuple[str, ...], environment: Mapping[str, str], default: int) -> int:
    given = (environment[name] for name in names if name in environment)
    return next((int(value) for value in given if value.isdecimal()), default)
