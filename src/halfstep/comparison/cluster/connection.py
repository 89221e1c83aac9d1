"""Connects to a Ray cluster, or starts one on this machine; and checks what can be checked before that."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from halfstep.errors import UsageError
from halfstep.passed_on import Keywords
from halfstep.words.safe_text import clean

#: where a head node listens for ray://HOST
CLIENT_PORT = 10001

#: for a cluster on this machine alone: Ray's switch for systems without clusters of several machines, which makes all
#: its processes listen on the loopback device only (Ray replaces a loopback ``_node_ip_address`` by the outer one); and
#: the seconds for which Ray waits for its own start, as its default of 30 is too short on a busy machine
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_raylet_start_wait_time_s": "120"}

#: what is not sent to the machines
_LEFT_OUT = ("/.git", "/.venv", "**/__pycache__", "/halfstep-out")


def check(on: str, program: str) -> None:
    """Check what is needed to use a cluster, before anything is started.

    Args:
        on: as ``parse_on`` returns it.
        program: the path of the program; empty for a module.

    Raises:
        UsageError: Ray is not installed; the program is not in the current folder.
    """
    inside(program)
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            f"--on {on} needs Ray; install it by `pip install 'halfstep[ray]'`, here and on the cluster's machines."
        )


def inside(program: str) -> str:
    """The program's path relative to the current folder, which Ray sends to the machines.

    Raises:
        UsageError: it is elsewhere.
    """
    if not program:
        return program
    path = os.path.relpath(program)
    if path.split(os.sep)[0] == os.pardir or os.path.isabs(path):
        raise UsageError(
            f"{program!r} is not in the current folder, which is all that --on sends to other machines; start from a "
            "folder that has it."
        )
    return path


@contextlib.contextmanager
def connected(on: str, folder: Path) -> Iterator[Any]:
    """The package ``ray``, connected to a cluster, or to one on this machine that ends with this context.

    Args:
        on: as ``parse_on`` returns it; ``ray`` alone goes to the cluster that ``RAY_ADDRESS`` names, if it is set.
        folder: the comparison's, which is not sent.

    Raises:
        UsageError: the cluster is not reached.
    """
    address = on if on != "ray" else os.environ.get("RAY_ADDRESS", "")
    with _environment({} if address else _ALONE):
        import ray  # reads the environment at its import

        try:
            _connect(ray, on, address, folder)
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables within this context, except those that the user has set."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _connect(ray: Any, on: str, address: str, folder: Path) -> None:
    left_out = [*_LEFT_OUT]
    with contextlib.suppress(ValueError):
        left_out.append(f"/{folder.resolve().relative_to(Path.cwd().resolve()).as_posix()}")
    how: Keywords = {
        "runtime_env": {"working_dir": os.getcwd(), "excludes": left_out},
        "log_to_driver": False,
        "logging_level": "error",
    }
    if re.fullmatch(r"ray://([^:\]]+|\[.*\])", address):
        address += f":{CLIENT_PORT}"
    if address:
        how["address"] = address
        _knock(on, address)
    else:
        how |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**how)
    except Exception as error:  # Ray has no special class for this
        raise UsageError(
            f"--on {on}: Ray could not be used at {address or 'this machine'} ({_first_line(error)}); check that "
            "`ray status` works there, and that both have the same versions of Ray and Python."
        ) from None


def _knock(on: str, address: str) -> None:
    """Check that something listens at an address; Ray itself would try for many minutes.

    Raises:
        UsageError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # auto, or another word that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--on {on}: nobody listens at {host}:{port} ({_first_line(error)}); start Ray there, or give the address "
            "that `ray start --head` prints."
        ) from None


def _first_line(error: Exception) -> str:
    """One line of an error's message: the first; or the last, if the first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return clean(lines[-1] if lines[0].endswith(":") else lines[0])[:200].rstrip(".")
