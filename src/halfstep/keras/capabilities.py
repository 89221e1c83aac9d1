"""What TensorFlow and JAX can do here in each precision, and how that is known.

python -m halfstep.keras.capabilities      # the same as JSON, for a program that must not import them
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from typing import Any

from halfstep.keras.backends import named, running
from halfstep.keras.units import CPU_UNITS, PRECISIONS, cpu_support, flags, gpu_support
from halfstep.machine.cpuinfo import cpuinfo


def best() -> tuple[str, str]:
    """The precision to begin with on the running backend, and why."""
    return running().best()


def describe() -> dict[str, Any]:
    """All of this as one JSON-able object, as ``halfstep.pytorch.capabilities.describe`` gives it."""
    backend = named("tensorflow" if importlib.util.find_spec("tensorflow") else "jax")
    known = sorted(flag for units in CPU_UNITS.values() for flag in units)
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
            for index, (name, capability) in enumerate(backend.accelerators())
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
