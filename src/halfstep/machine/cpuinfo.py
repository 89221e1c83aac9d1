"""What Linux says about the CPU."""

from __future__ import annotations

from pathlib import Path


def cpuinfo(field: str) -> str:
    """A field of ``/proc/cpuinfo``, such as ``flags``; empty where there is no such file or field."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
