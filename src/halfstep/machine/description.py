"""What this machine can do: an installed framework answers in a separate process, as this one imports none.

The framework's module prints a :class:`~halfstep.machine.support.Machine` as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from halfstep import codec
from halfstep.errors import UsageError
from halfstep.machine.frameworks import FRAMEWORKS
from halfstep.machine.support import Machine
from halfstep.program.child import command

#: framework -> the module that describes the machine by it; the first framework that is installed and works is used
_ASKED = {
    "torch": "halfstep.pytorch.capabilities",
    "tensorflow": "halfstep.keras.capabilities",
    "jax": "halfstep.keras.capabilities",
}

#: TensorFlow's C++ side writes to stderr before it can be asked not to
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def describe_machine() -> Machine:
    """This machine's devices, and what each can do in each precision.

    Raises:
        UsageError: none of these frameworks is installed, or none works; the message says why.
    """
    failures = []
    for framework, module in _ASKED.items():
        if FRAMEWORKS[framework].version is None:
            continue
        child = subprocess.run(
            command("-m", module), capture_output=True, text=True, check=False, env={**os.environ, **_QUIET}
        )
        if child.returncode == 0:
            return codec.read(Machine, json.loads(child.stdout))
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        failures.append(f"{framework}: {last[0]}")
    why = "; ".join(failures) or "none of torch, tensorflow and jax is installed"
    oldest = FRAMEWORKS["torch"].oldest_version
    raise UsageError(
        f"No framework can be used by {sys.executable} ({why}); "
        f"install torch {oldest} or later, or keras with a backend."
    )


def installed_versions() -> dict[str, str]:
    """The frameworks that are installed here, by name, found without importing them."""
    versions = {name: framework.version for name, framework in FRAMEWORKS.items()}
    return {name: version for name, version in versions.items() if version is not None}
