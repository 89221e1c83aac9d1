"""What this machine's PyTorch can do in each precision, and the evidence for it.

python -m halfstep.pytorch.capabilities      # the same, as JSON: for a program that must not import torch itself
"""

from __future__ import annotations

import functools
import json
import os
import platform
import warnings
from dataclasses import dataclass

import torch

from halfstep.errors import UsageError
from halfstep.machine.cpuinfo import cpuinfo
from halfstep.machine.support import Device, Machine, Processor, Support
from halfstep.pytorch import devices

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

#: the name of AMD's GPUs, which PyTorch calls ``cuda``
ROCM = "ROCm"

#: CPU flags that show arithmetic on 16-bit numbers, or its absence.
_FLAGS = (
    "avx2", "avx_ne_convert", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "amx_tile",
)  # fmt: skip
_ARM = ("aarch64", "arm64")
_ARM_FLAGS = ("neon", "bf16", "fp16_arith", "sve", "sve2", "sve_bf16", "sme", "sme2")

#: What computes products of 16-bit numbers faster than fp32. AVX-512 alone does not: there oneDNN's bf16 took 1.2
#: to 2.4 times as long as fp32; nor does avx_ne_convert, which only converts.
_UNITS = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}

#: Kinds of products that are slower than fp32 although the CPU has units for them. bf16 on avx512_bf16 without AMX:
#: short attention's backward pass took up to 3.4 times as long, transposed convolution 1.0 to 3.5 times; other matrix
#: products took 0.2 to 1.3 times as long. With AMX short attention's backward pass took 5 to 9 times as long. fp16 on
#: avx512_fp16: it took 7 to 11 times as long, the backward pass of convolutions, transposed ones too, 30 to 700 times.
_SLOWER = {
    "bf16": ("short_attention_backward", "transposed_convolution"),
    "bf16 with AMX": ("short_attention_backward",),
    "fp16": ("convolution_backward", "short_attention_backward", "transposed_convolution"),
}


@dataclass(frozen=True)
class Cpu:
    """The evidence about a CPU."""

    architecture: str  #: ``x86_64``, ``aarch64``, ``arm64``, as the system names it
    flags: frozenset[str]  #: the instruction sets that PyTorch sees, by cpuinfo's names
    onednn: frozenset[str]  #: the 16-bit precisions that PyTorch would give to oneDNN here
    model: str = ""


@functools.cache
def cpu() -> Cpu:
    """This machine's CPU, as PyTorch sees it."""
    return Cpu(platform.machine().lower(), _flags(), _onednn(), cpuinfo("model name") or platform.processor())


def _flags() -> frozenset[str]:
    """PyTorch's own list of flags; in older versions the kernel's, where only ``avx512f`` has another spelling."""
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    return frozenset(cpuinfo("flags").replace("avx512f", "avx512_f").split())


def _onednn() -> frozenset[str]:
    """The answers of PyTorch's own checks; builds without oneDNN (macOS) lack them."""
    checks = {p: getattr(torch.ops.mkldnn, f"_is_mkldnn_{p}_supported", None) for p in _UNITS}
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    return frozenset(precision for precision, check in checks.items() if check is not None and check())


def support(precision_compute: str, device: str = "cpu") -> Support:
    """How products in ``precision_compute`` (``fp32``, ``tf32``, ``bf16`` or ``fp16``) are computed on ``device``.

    Args:
        device: ``cpu``, ``cuda``, or another accelerator by PyTorch's name for it.

    Raises:
        UsageError: another precision; the message lists what is allowed.
    """
    if precision_compute not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise UsageError(f"Products were asked for in {precision_compute!r}; allowed are {allowed}.")
    if precision_compute == "fp32":
        return Support("native", "every device computes in fp32")
    if device == "cpu":
        return cpu_support(precision_compute, cpu())
    if device != "cuda":
        return _other_support(precision_compute, device)
    if torch.cuda.device_count() == 0:
        return Support("impossible", "PyTorch finds no CUDA device")
    if torch.version.hip is not None:
        return _other_support(precision_compute, ROCM)
    return cuda_support(precision_compute, devices.cuda_capability())


def cpu_support(precision: str, machine: Cpu) -> Support:
    """The rule for ``tf32``, ``bf16`` and ``fp16`` on a CPU. Pure: the evidence is ``machine``."""
    if precision == "tf32":
        return Support("impossible", "a CPU has no TF32 units")
    wanted = _UNITS[precision]
    if machine.architecture in _ARM:
        unknown = (
            f"whether PyTorch's own {precision} trains as fast as fp32 on an ARM CPU has not been measured"
        )
        return Support("fp32_units", f"{unknown}; `--products native` uses it")
    units = [flag for flag in wanted if flag in machine.flags]
    if not units:
        return Support("fp32_units", f"this CPU has no {precision} units ({' or '.join(wanted)})")
    if precision not in machine.onednn:
        return Support(
            "fp32_units", f"this PyTorch does not use the CPU's {precision} units (no oneDNN for them)"
        )
    has_amx = "amx_tile" in machine.flags or "amx_bf16" in machine.flags
    slower = _SLOWER["bf16 with AMX" if precision == "bf16" and has_amx else precision]
    return Support(
        "native", f"the CPU has {precision} units ({', '.join(units)}) and oneDNN uses them", slower
    )


def in_software(precision: str, device: str) -> bool:
    """Whether PyTorch's own products in ``bf16`` or ``fp16`` are software on ``device``, slower than those in fp32.

    Of an ARM CPU without measurements that is not known, and the answer is no.
    """
    kind = support(precision, device).kind
    return kind == "emulated" or (kind == "fp32_units" and device == "cpu" and cpu().architecture not in _ARM)


def cuda_support(precision: str, capability: tuple[int, int]) -> Support:
    """The rule for ``tf32``, ``bf16`` and ``fp16`` on an NVIDIA GPU, by its compute capability. Pure."""
    needed = (7, 0) if precision == "fp16" else (8, 0)
    here = "compute capability {}.{}".format(*capability)
    need = f"{precision} matrix units need {needed[0]}.{needed[1]}"
    if capability >= needed:
        return Support("native", f"{here}: {precision} matrix units")
    if precision == "tf32":
        return Support("impossible", f"{here}; {need}")
    if precision == "fp16":
        return Support("fp32_units", f"{here}: fp16 products in fp32 units; {need}")
    return Support("emulated", f"{here}: PyTorch computes bf16 in software; {need}")


def _other_support(precision: str, device: str) -> Support:
    """The rule for accelerators that halfstep has not run on: the dtypes that PyTorch's autocast takes there."""
    if precision == "tf32":
        return Support("impossible", f"TF32 units are NVIDIA's; this device is {device}")
    kind = "cuda" if device == ROCM else device
    if not torch.amp.is_autocast_available(kind):
        return Support("impossible", f"PyTorch has no autocast on {device}")
    if not _autocast_takes(getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[precision]), kind):
        return Support("impossible", f"PyTorch's autocast on {device} does not take {precision}")
    return Support(
        "native", f"PyTorch's autocast on {device} takes {precision}; untested, as halfstep has not run there"
    )


def _autocast_takes(dtype: torch.dtype, device: str) -> bool:
    """Whether autocast stays enabled for the type: it warns and is disabled for others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(torch.autocast(device, dtype)._enabled)
        except RuntimeError:  # "Current CUDA Device does not support bfloat16"
            return False


def best() -> tuple[str, str]:
    """The precision to begin with on this machine, and why: bf16 or else fp16 if there are units for it, else fp32."""
    name = devices.accelerator() or "cpu"
    for precision in ("bf16", "fp16"):
        found = support(precision, name)
        if found.kind == "native":
            return precision, found.reason
    return "fp32", f"no faster units here: {support('bf16', name).reason}"


def describe() -> Machine:
    """Everything that this file finds out, as one value."""
    machine = cpu()
    known = _ARM_FLAGS if machine.architecture in ("aarch64", "arm64") else _FLAGS
    return Machine(
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        cpu=Processor(
            model=machine.model,
            architecture=machine.architecture,
            cores=os.cpu_count(),
            flags=tuple(flag for flag in known if flag in machine.flags),
            onednn=tuple(sorted(machine.onednn)),
        ),
        devices=(Device("cpu", machine.model, None, _precisions("cpu")), *_accelerators()),
    )


def _accelerators() -> list[Device]:
    if torch.cuda.device_count() > 0:
        return [_cuda_device(index) for index in range(torch.cuda.device_count())]
    found = devices.accelerator()
    if found is None:
        return []
    name = getattr(getattr(torch, found, None), "get_device_name", lambda: found)()
    return [Device(found, name, None, _precisions(found))]


def _cuda_device(index: int) -> Device:
    with torch.cuda.device(index):
        precisions = _precisions("cuda")
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    of_nvidia = torch.version.hip is None
    return Device(
        f"cuda:{index}",
        name if of_nvidia else f"{name} ({ROCM} {torch.version.hip})",
        "{}.{}".format(*capability) if of_nvidia else None,
        precisions,
    )


def _precisions(device: str) -> dict[str, Support]:
    return {precision: support(precision, device) for precision in PRECISIONS}


if __name__ == "__main__":
    from halfstep import codec

    print(json.dumps(codec.write(describe()), indent=2))
