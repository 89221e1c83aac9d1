"""The parts of a machine on which blocks run side by side: a device each, or a share of the cores."""

from __future__ import annotations

import os
from collections.abc import Sequence

from halfstep.errors import UsageError
from halfstep.machine.support import Device
from halfstep.processes import allowed_cores
from halfstep.trials.place import Place

#: the most blocks at once: a larger number is a typing mistake
MOST_SLOTS = 1024

#: the variables that set a program's number of threads; without them its libraries use all cores
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def parse_parallel(text: str) -> str:
    """``--parallel`` as it was given: a whole number from 2 on, or ``devices``; empty where it was not.

    Raises:
        UsageError: it is neither.
    """
    number = text.isascii() and text.isdecimal() and len(text) < 6 and 2 <= int(text) <= MOST_SLOTS
    if text and text != "devices" and not number:
        raise UsageError(
            f"--parallel was given {text!r}; give how many blocks run side by side, from 2 to {MOST_SLOTS}, or devices."
        )
    return str(int(text)) if number else text


def slots(parallel: str, devices: Sequence[Device], launch: str = "") -> tuple[Place, ...]:
    """Where blocks run side by side; empty if they run in turn.

    On a machine with GPUs each block has its own GPU. On a CPU all blocks have the same number of cores; cores that are
    left over stay idle.

    Args:
        parallel: as :func:`parse_parallel` returns it.
        devices: those of the comparison's environment, the CPU first.
        launch: what ``--launch`` was given.

    Raises:
        UsageError: the machine has too few devices or cores, devices of several kinds, or no way to share it.
    """
    if not parallel:
        return ()
    if launch:
        raise UsageError(
            "--parallel runs each block on one device, in one process; leave --launch or --parallel out."
        )
    gpus = [d for d in devices[1:] if d.device.startswith("cuda:")]
    if gpus:
        return _on_gpus(parallel, gpus)
    if parallel == "devices" or len(devices) > 1:
        name = devices[-1].name
        raise UsageError(
            f"--parallel {parallel} needs NVIDIA or AMD GPUs, or a CPU alone to share; this machine has {name}: give "
            "a number on a CPU, or leave it out."
        )
    return _on_cores(int(parallel))


def _on_gpus(parallel: str, gpus: Sequence[Device]) -> tuple[Place, ...]:
    kinds = dict.fromkeys((gpu.name, gpu.capability) for gpu in gpus)
    if len(kinds) > 1:
        raise UsageError(
            f"--parallel needs GPUs of one kind, and here are {', '.join(name for name, _ in kinds)}; choose those of "
            "one kind by CUDA_VISIBLE_DEVICES."
        )
    wanted = len(gpus) if parallel == "devices" else int(parallel)
    if wanted > len(gpus):
        raise UsageError(
            f"--parallel {parallel} needs {wanted} GPUs, one for each block, and the program sees {len(gpus)}; give at "
            f"most {len(gpus)}, or devices."
        )
    listed = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    if wanted == 1:
        return ()  # blocks in turn
    names = listed if len(listed) >= len(gpus) else [str(i) for i in range(len(gpus))]
    return tuple(Place(forced={"CUDA_VISIBLE_DEVICES": name}) for name in names[:wanted])


def _on_cores(wanted: int) -> tuple[Place, ...]:
    cores = allowed_cores()
    if not cores:
        raise UsageError(
            "--parallel on a CPU needs Linux, where each block can be kept on its own cores; leave it out."
        )
    each = len(cores) // wanted
    if not each:
        raise UsageError(
            f"--parallel {wanted} needs {wanted} cores, one for each block, and the program may use {len(cores)}; give "
            f"at most {len(cores)}."
        )
    threads = dict.fromkeys(_THREADS, str(each))
    return tuple(Place(threads, cores=cores[i * each : (i + 1) * each]) for i in range(wanted))
