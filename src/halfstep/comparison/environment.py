"""This machine as a comparison describes it."""

from __future__ import annotations

import platform
from datetime import datetime, timezone

from halfstep.comparison.model.environment import Environment
from halfstep.machine.description import describe_machine, installed_versions
from halfstep.version import __version__


def this_machine() -> Environment:
    """The ``environment`` of a comparison that starts now."""
    import psutil

    machine = describe_machine()
    return Environment(
        halfstep=__version__,
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        cpu=machine.cpu.model,
        cpu_flags=machine.cpu.flags,
        cores=machine.cpu.cores,
        memory_bytes=psutil.virtual_memory().total,
        threads=machine.threads,
        frameworks=installed_versions(),
        devices=machine.devices,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
