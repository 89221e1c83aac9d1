"""Blocks on the machines of a Ray cluster: which machines are chosen, and how many places each of them has.

https://docs.ray.io/en/latest/ray-core/actors.html. No other folder of halfstep imports Ray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfstep import codec
from halfstep.comparison.cluster.connection import check, connected
from halfstep.comparison.cluster.remote import Remote
from halfstep.comparison.cluster.resources import places, wanted
from halfstep.comparison.model import environment as model
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.request import SAME
from halfstep.errors import UsageError
from halfstep.files import json_text
from halfstep.version import __version__

#: seconds that a place may take to be ready, as others may use the resources that it needs
READY = 120.0

#: what machines of one kind have in common
_KIND = (*SAME, "cores")


@dataclass(frozen=True)
class Cluster:
    """The machines of one kind that a comparison uses."""

    environment: Environment  #: the description of one of them; its ``cluster`` says how many there are
    runners: list[Remote]  #: a place for each block that runs at the same time


@contextlib.contextmanager
def cluster(on: str, resources: str, blocks: int, program: str, folder: Path) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine; at the end, stop what was started.

    Args:
        on: as ``parse_on`` returns it; ``ray`` alone goes to the cluster that ``RAY_ADDRESS`` names, if it is set.
        resources: as ``parse_resources`` returns it.
        blocks: how many there are; no more places than that are used.
        program: the path of the program; empty for a module.
        folder: the comparison's, which is not sent.

    Raises:
        UsageError: Ray is not installed, cannot be reached, or has no room; the program is not in the current folder.
    """
    check(on, program)
    with connected(on, folder) as ray:
        yield _choose(ray, on, resources, blocks)


def _choose(ray: Any, on: str, resources: str, blocks: int) -> Cluster:
    """The places on machines of one kind: the kind with the most places.

    Raises:
        UsageError: no machine has what a block needs, or another version of halfstep.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    room: dict[str, tuple[dict[str, float], int]] = {}
    for node in nodes:
        want = wanted(resources, node["Resources"], gpus)
        if number := places(want, node["Resources"]):
            room[node["NodeID"]] = want, number
    if not room:
        given = resources or ("gpu=1" if gpus else "all processors of a machine")
        raise UsageError(
            f"--on {on}: no machine of the cluster has {given} for a block; give less by --resources, e.g. cpu=2."
        )
    first = {name: Remote(ray, name, want) for name, (want, _) in room.items()}
    ready = {name: one.about() for name, one in first.items() if one.ready(READY)}
    if not ready:
        raise UsageError(
            f"--on {on}: others use what a block needs on all {len(room)} machines of the cluster; wait for them, or "
            "give less by --resources."
        )
    _check_versions(on, ready)
    kinds: dict[str, list[str]] = {}
    for name, about in ready.items():
        kinds.setdefault(_kind(about), []).append(name)
    chosen = max(kinds.values(), key=lambda names: sum(room[name][1] for name in names))
    for name in [name for name in first if name not in chosen]:
        first.pop(name).end()
    # One place on each machine before a second one anywhere.
    order = [(i, name) for name in chosen for i in range(1, room[name][1])]
    runners = [first[name] for name in chosen][:blocks]
    for _, name in sorted(order)[: max(0, blocks - len(chosen))]:
        runners.append(Remote(ray, name, room[name][0]))
    for spare in [first[name] for name in chosen][blocks:]:
        spare.end()
    most = max(sum(runner.node == name for runner in runners) for name in chosen)
    used = model.Cluster(
        machines=len({runner.node for runner in runners}),
        other_machines=tuple(sorted(_name(ready[n]) for n in ready if n not in chosen)),
        busy_machines=len(room) - len(ready),
    )
    beside = model.BlocksAtOnce(most) if most > 1 else None
    return Cluster(replace(ready[chosen[0]], cluster=used, side_by_side=beside), runners)


def _kind(about: Environment) -> str:
    return json_text({key: codec.write(getattr(about, key)) for key in _KIND}, sort_keys=True)


def _name(about: Environment) -> str:
    device = about.devices[-1]
    return device.name if device.device != "cpu" else about.cpu or ""


def _check_versions(on: str, ready: Mapping[str, Environment]) -> None:
    others = sorted({about.halfstep or "" for about in ready.values()} - {__version__})
    if others:
        raise UsageError(
            f"--on {on}: the cluster has halfstep {', '.join(others)}, and this is {__version__}; install the same "
            "on all machines."
        )
