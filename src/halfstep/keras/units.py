"""Whether a CPU or a GPU has units for products in a precision, and how that is known. Imports no framework."""

from __future__ import annotations

from halfstep.machine.cpuinfo import cpuinfo
from halfstep.machine.support import Support

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

#: the CPU flags that show units for products of 16-bit numbers, as Linux spells them
CPU_UNITS = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}

#: the compute capability from which an NVIDIA GPU has units for a precision
_NEEDED = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (7, 0)}


def cpu_support(precision: str, flags: frozenset[str]) -> Support:
    """How products in ``precision`` are computed on a CPU with ``flags``. Pure."""
    if precision == "fp32":
        return Support("native", "every device computes in fp32")
    if precision == "tf32":
        return Support("impossible", "a CPU has no TF32 units")
    wanted = CPU_UNITS[precision]
    units = [flag for flag in wanted if flag in flags]
    if units:
        return Support("native", f"the CPU has {precision} units ({', '.join(units)})")
    return Support("emulated", f"this CPU has no {precision} units ({' or '.join(wanted)})")


def gpu_support(precision: str, capability: tuple[int, ...] | None) -> Support:
    """The same for a GPU with a compute capability; None where the GPU is not NVIDIA's. Pure."""
    if precision == "fp32":
        return Support("native", "every device computes in fp32")
    if capability is None:
        if precision == "tf32":
            return Support("impossible", "TF32 units are NVIDIA's")
        return Support("native", "its speed there has not been measured")
    here = f"compute capability {'.'.join(map(str, capability))}"
    if capability >= _NEEDED[precision]:
        return Support("native", f"{here}: {precision} matrix units")
    need = f"{precision} matrix units need {'.'.join(map(str, _NEEDED[precision]))}"
    return Support("impossible" if precision == "tf32" else "emulated", f"{here}; {need}")


def flags() -> frozenset[str]:
    """The CPU's flags, from Linux; empty elsewhere."""
    return frozenset(cpuinfo("flags").split())
