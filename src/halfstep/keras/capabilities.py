"""What TensorFlow and JAX can do here in each precision, and by what evidence.

python -m halfstep.keras.capabilities      # the same, as JSON: for a program that must not import them itself
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from typing import Any

from halfstep.cpuinfo import cpuinfo

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

#: CPU flags that tell of units for products of 16-bit numbers, as Linux spells them
_UNITS = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}

#: the compute capability from which an NVIDIA GPU has units for a precision
_NEEDED = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (7, 0)}

Row = dict[str, Any]


def cpu_support(precision: str, flags: frozenset[str]) -> Row:
    """How products in ``precision`` are computed on a CPU with ``flags``: kind and reason. Pure."""
    if precision == "fp32":
        return _row("native", "every device computes in fp32")
    if precision == "tf32":
        return _row("impossible", "a CPU has no TF32 units")
    wanted = _UNITS[precision]
    units = [flag for flag in wanted if flag in flags]
    if units:
        return _row("native", f"the CPU has {precision} units ({', '.join(units)})")
    return _row("emulated", f"this CPU has no {precision} units ({' or '.join(wanted)})")


def gpu_support(precision: str, capability: tuple[int, ...] | None) -> Row:
    """The same on a GPU, by its compute capability; None where it is not NVIDIA's. Pure."""
    if precision == "fp32":
        return _row("native", "every device computes in fp32")
    if capability is None:
        if precision == "tf32":
            return _row("impossible", "TF32 units are NVIDIA's")
        return _row("native", "its speed there has not been measured")
    here = f"compute capability {'.'.join(map(str, capability))}"
    if capability >= _NEEDED[precision]:
        return _row("native", f"{here}: {precision} matrix units")
    need = f"{precision} matrix units need {'.'.join(map(str, _NEEDED[precision]))}"
    return _row("impossible" if precision == "tf32" else "emulated", f"{here}; {need}")


def _row(kind: str, reason: str) -> Row:
    return {"kind": kind, "reason": reason, "slower": []}


def flags() -> frozenset[str]:
    """The CPU's flags, from Linux; empty elsewhere."""
    return frozenset(cpuinfo("flags").split())


def accelerators(backend: str) -> list[tuple[str, tuple[int, ...] | None]]:
    """The GPUs that ``backend`` (``tensorflow`` or ``jax``) sees: name, and NVIDIA's compute capability or None."""
    if backend == "tensorflow":
        import tensorflow as tf

        details = [
            tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")
        ]
        return [(str(d.get("device_name", "GPU")), d.get("compute_capability")) for d in details]
    import jax

    return [(str(d.device_kind), _jax_capability(d)) for d in jax.devices() if d.platform != "cpu"]


def _jax_capability(device: Any) -> tuple[int, ...] | None:
    text = str(getattr(device, "compute_capability", ""))
    return tuple(map(int, text.split("."))) if text.replace(".", "").isdigit() else None


def support(precision: str, backend: str) -> Row:
    """How products in ``precision`` are computed on the device that ``backend`` uses here."""
    gpus = accelerators(backend)
    return gpu_support(precision, gpus[0][1]) if gpus else cpu_support(precision, flags())


def best() -> tuple[str, str]:
    """The precision to begin with on the running backend, and why: the first of bf16 and fp16 with units of its own."""
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        from halfstep.pytorch.capabilities import best as best_for_torch

        return best_for_torch()
    for precision in ("bf16", "fp16"):
        found = support(precision, backend)
        if found["kind"] == "native":
            return precision, found["reason"]
    return "fp32", f"no faster units here: {support('bf16', backend)['reason']}"


def describe() -> dict[str, Any]:
    """All of this as one JSON-able object, as ``halfstep.pytorch.capabilities.describe`` gives it."""
    backend = "tensorflow" if importlib.util.find_spec("tensorflow") else "jax"
    known = sorted(flag for units in _UNITS.values() for flag in units)
    cpu = {name: cpu_support(name, flags()) for name in PRECISIONS}
    model = cpuinfo("model name") or platform.processor()
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": model, "capability": None, "precisions": cpu},
        *(
            {
                "device": f"gpu:{index}",
                "name": name,
                "capability": ".".join(map(str, capability)) if capability else None,
                "precisions": {p: gpu_support(p, capability) for p in PRECISIONS},
            }
            for index, (name, capability) in enumerate(accelerators(backend))
        ),
    ]
    return {
        "torch": None,
        "threads": os.cpu_count(),
        "cpu": {
            "model": model,
            "architecture": platform.machine().lower(),
            "cores": os.cpu_count(),
            "flags": [flag for flag in known if flag in flags()],
        },
        "devices": devices,
    }


if __name__ == "__main__":
    print(json.dumps(describe(), indent=2))
