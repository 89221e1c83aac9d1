"""Programs under each backend of Keras, run once: importing TensorFlow alone takes many seconds."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from halfstep.machine.frameworks import FRAMEWORKS
from halfstep.record import Record, read

from ..cli.running import PROGRAMS, Done, halfstep, python
from . import adopted

BACKENDS = ("tensorflow", "jax", "torch")


@dataclass
class Checked:
    """What a program under fp16 said of itself, and what its record says."""

    facts: dict[str, Any]
    record: Record
    done: Done


def environment(backend: str) -> dict[str, str]:
    """One thread, the CPU, and only Keras's and halfstep's own words."""
    return {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checked]:
    """``checked(backend)`` runs ``checks.py`` under fp16 there."""

    @functools.cache
    def run(backend: str) -> tuple[Done, Path]:
        skip_without("keras", backend)
        record = tmp_path_factory.mktemp(backend) / "record.jsonl"
        recipe = "fp16:init_scale=1024:growth_interval=4:keep=kept*"
        program = str(PROGRAMS / "keras" / "checks.py")
        done = halfstep(
            "run", "--precision", recipe, "--record", str(record), program, env=environment(backend)
        )
        return done, record

    def checked(backend: str) -> Checked:
        done, record = run(backend)
        assert done.returncode == 0, done.stderr
        return Checked(json.loads(done.stdout.splitlines()[-1]), read(record), done)

    return checked


@dataclass
class Turn:
    """What a program that ran in turn with others left in its ``facts``, and its record."""

    facts: dict[str, Any]
    record: Record


@pytest.fixture(scope="session")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Turn]]:
    """``in_turn(backend)`` runs all of :func:`turns` in one process there; by their names."""

    @functools.cache
    def run(backend: str) -> dict[str, Turn]:
        skip_without("keras", backend)
        # Once for all of pytest's workers: it takes a minute.
        own = tmp_path_factory.getbasetemp()
        folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"{backend}-in-turn"
        folder.mkdir(exist_ok=True)
        jobs, told = turns(backend, folder), folder / "facts"
        with FileLock(folder / "lock"):
            if not told.exists():
                (folder / "jobs").write_text(json.dumps(jobs))
                program = str(PROGRAMS / "keras" / "in_turn.py")
                done = python(program, str(folder / "jobs"), env=environment(backend))
                assert done.returncode == 0, done.stderr
                told.write_text(done.stdout.splitlines()[-1])
        facts = json.loads(told.read_text())
        return {name: Turn(facts[name], read(folder / f"{name}.jsonl")) for name, _, _ in jobs}

    return run


#: what ``small_steps.py`` runs under
STEADY = ("bf16", "bf16:keep=dense*", "bf16:skip_nonfinite", "bf16:loss_scale=1024")

#: what ``jax_loop.py`` runs under
LOOPS = ("fp32", "bf16", "fp16:init_scale=1024:growth_interval=4")

#: what ``going_on.py`` runs under, each going on from the model that the one before it saved
GOING_ON = ("fp32", "fp16:init_scale=256", "bf16", "fp32")


#: what ``sixteen.py`` runs under, after it has saved its models as it is
SIXTEEN = ("fp32", "bf16")


def turns(backend: str, folder: Path) -> list[tuple[str, str, str]]:
    """(name, recipe, path) of every program that shares a process with the others."""
    names = ("small_steps", "going_on", "jax_loop", "recurrent", "two_optimizers", "spellings")
    steps, going_on, jax_loop, recurrent, two, spellings = (_path(name) for name in names)
    sixteen, boundaries, operands = (_path(name) for name in ("sixteen", "boundaries", "operands"))
    return [
        *((recipe, recipe, steps) for recipe in STEADY),
        *((f"{index}-{recipe}", recipe, going_on) for index, recipe in enumerate(GOING_ON)),
        ("recurrent", "bf16", recurrent),
        *([("spellings", "fp16", spellings)] if backend == "tensorflow" else []),
        *([("two optimizers", "fp16:init_scale=1024:growth_interval=4", two)] if backend != "jax" else []),
        *((f"sixteen-{recipe}", recipe, sixteen) for recipe in ("as-is", *SIXTEEN)),
        ("boundaries", "bf16", boundaries),
        ("looks", "fp32", _path("steps_for_looks")),
        ("looks fail", "fp32", _path("looks_fail")),
        ("own losses", "bf16", _path("own_losses")),
        *([("torch.optim", "bf16", _path("torch_optim"))] if backend == "torch" else []),
        *([("operands", "bf16", operands)] if backend == "tensorflow" else []),
        *((f"keywords-{recipe}", recipe, _path("keywords")) for recipe in ("fp16", "bf16")),
        *adopted.turns(backend, folder),
        *((f"loop-{recipe}", recipe, jax_loop) for recipe in LOOPS if backend == "jax"),
    ]


def _path(name: str) -> str:
    return str(PROGRAMS / "keras" / f"{name}.py")


def skip_without(*names: str) -> None:
    """Skip where one is not installed; nothing is imported here, which would take longer than the test."""
    for name in names:
        if FRAMEWORKS[name].version is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def example() -> str:
    return str(Path(__file__).resolve().parents[2] / "examples" / "keras_digits.py")
