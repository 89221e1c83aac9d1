"""What TensorFlow and JAX can do here in each precision, and how that is known.

python -m halfstep.keras.capabilities      # the same as JSON, for a program that must not import them
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform

from halfstep.keras.backends import named, running
from halfstep.keras.units import CPU_UNITS, PRECISIONS, cpu_support, flags, gpu_support
from halfstep.machine.cpuinfo import cpuinfo
from halfstep.machine.support import Device, Machine, Processor


def best() -> tuple[str, str]:
    """The precision to begin with on the running backend, and why."""
    return running().best()


def describe() -> Machine:
    """All of this as one value, as ``halfstep.pytorch.capabilities.describe`` gives it."""
    backend = named("tensorflow" if importlib.util.find_spec("tensorflow") else "jax")
    known = sorted(flag for units in CPU_UNITS.values() for flag in units)
    model = cpuinfo("model name") or platform.processor()
    gpus = (
        Device(
            f"gpu:{index}",
            name,
            ".".join(map(str, capability)) if capability else None,
            {precision: gpu_support(precision, capability) for precision in PRECISIONS},
        )
        for index, (name, capability) in enumerate(backend.accelerators())
    )
    return Machine(
        threads=os.cpu_count(),
        cpu=Processor(
            model=model,
            architecture=platform.machine().lower(),
            cores=os.cpu_count(),
            flags=tuple(flag for flag in known if flag in flags()),
        ),
        devices=(
            Device("cpu", model, None, {name: cpu_support(name, flags()) for name in PRECISIONS}),
            *gpus,
        ),
    )


if __name__ == "__main__":
    from halfstep import codec

    print(json.dumps(codec.write(describe()), indent=2))
