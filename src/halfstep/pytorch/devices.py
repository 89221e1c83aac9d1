"""Which devices and ranks there are, asked in a way that initialises none of them: the program has to do that itself.

A program may choose its GPUs after it has imported PyTorch (``CUDA_VISIBLE_DEVICES``), and may fork before it uses one.
Both fail after any call of the CUDA runtime. Calls of NVML, the driver's library for management, do no harm.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch


def accelerator() -> str | None:
    """The type of the accelerator that this process sees (``cuda``, ``mps``, ...), or None."""
    built = torch.accelerator.current_accelerator()  # what PyTorch was built for, present or not
    if built is None:
        return None
    if built.type == "cuda":
        return "cuda" if torch.cuda.device_count() > 0 else None  # by NVML until the program uses a GPU
    return built.type if torch.accelerator.is_available() else None


def device_types() -> tuple[str, ...]:
    """The device types that autocast may be switched on for: always ``cpu``, and the accelerator if there is one."""
    found = accelerator()
    return ("cpu",) if found is None else ("cpu", found)


def in_use(types: Sequence[str]) -> Sequence[str]:
    """The type among ``types``, as :func:`device_types` gives them, that the program computes on, as far as is known.

    It is the accelerator once the program has initialised it, and the CPU before.
    """
    if len(types) > 1 and (types[-1] != "cuda" or torch.cuda.is_initialized()):
        return types[-1:]
    return types[:1]


def cuda_capability() -> tuple[int, int]:
    """The compute capability of the first GPU that this process sees.

    If NVML does not answer, it is asked of CUDA, which initialises it.
    """
    if not torch.cuda.is_initialized() and (found := _nvml_capability()) is not None:
        return found
    return torch.cuda.get_device_capability()


def _nvml_capability() -> tuple[int, int] | None:
    """The answer of NVML (nvmlDeviceGetCudaComputeCapability), or None where it gives none."""
    try:
        index = torch.cuda._get_nvml_device_index(0)
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except (OSError, RuntimeError, IndexError):
        return None
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    answers = (
        nvml.nvmlInit_v2(),
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)),
        nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)),
    )
    return None if any(answers) else (major.value, minor.value)


def has_ranks() -> bool:
    """Whether this process is one of several that train together, or may be: a process group has begun."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def capturing() -> bool:
    """Whether what this thread launches is captured into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
