"""Programs under each backend of Keras, run once: importing TensorFlow alone takes many seconds."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halfstep.machine.frameworks import FRAMEWORKS
from halfstep.record import Record, read

from ..cli.running import PROGRAMS, halfstep, python
from ..once import once
from . import adopted

BACKENDS = ("tensorflow", "jax", "torch")


@dataclass
class Checked:
    """What a program under fp16 said of itself, and what its record says."""

    facts: dict[str, Any]
    record: Record


def environment(backend: str) -> dict[str, str]:
    """One thread, the CPU, and only Keras's and halfstep's own words."""
    return {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def compiled_once(folder: Path) -> dict[str, str]:
    """JAX compiles a step once where programs make the same one, and does not optimise what runs for milliseconds.

    A step that differs, in a dtype too, is another one.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checked]:
    """``checked(backend)`` runs ``checks.py`` under fp16 there, once for all of pytest's workers."""

    @functools.cache
    def checked(backend: str) -> Checked:
        skip_without("keras", backend)

        def run(folder: Path) -> None:
            recipe = "fp16:init_scale=1024:growth_interval=4:keep=kept*"
            words = ("run", "--precision", recipe, "--record", str(folder / "record.jsonl"))
            done = halfstep(*words, str(PROGRAMS / "keras" / "checks.py"), env=environment(backend))
            assert done.returncode == 0, done.stderr
            (folder / "facts").write_text(done.stdout.splitlines()[-1])

        folder = once(tmp_path_factory, f"{backend}-checked", run)
        return Checked(json.loads((folder / "facts").read_text()), read(folder / "record.jsonl"))

    return checked


@dataclass
class Turn:
    """What a program that ran in turn with others left in its ``facts``, and its record."""

    facts: dict[str, Any]
    record: Record


@pytest.fixture(scope="session")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Turn]]:
    """``in_turn(backend)`` runs all of :func:`turns` in one process there, once for all workers; by their names."""

    @functools.cache
    def run(backend: str) -> dict[str, Turn]:
        skip_without("keras", backend)

        def all_turns(folder: Path) -> None:
            jobs = turns(backend, folder)
            (folder / "jobs").write_text(json.dumps(jobs))
            program = str(PROGRAMS / "keras" / "in_turn.py")
            more = compiled_once(folder) if backend == "jax" else {}
            done = python(program, str(folder / "jobs"), env=environment(backend) | more)
            assert done.returncode == 0, done.stderr
            (folder / "facts").write_text(done.stdout.splitlines()[-1])

        folder = once(tmp_path_factory, f"{backend}-in-turn", all_turns)
        names = [name for name, _, _ in json.loads((folder / "jobs").read_text())]
        facts = json.loads((folder / "facts").read_text())
        return {name: Turn(facts[name], read(folder / f"{name}.jsonl")) for name in names}

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
        *([("watching fails", "fp32", _path("watching_fails"))] if backend == "torch" else []),
        ("own losses", "bf16", _path("own_losses")),
        *([("torch.optim", "bf16:keep=head", _path("torch_optim"))] if backend == "torch" else []),
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
