"""Blocks on the machines of a Ray cluster: an actor for each place, which holds its resources and runs its trials.

https://docs.ray.io/en/latest/ray-core/actors.html. Nothing else of halfstep imports Ray.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfstep.comparison.blocks import PlaceLost
from halfstep.comparison.cluster.node import News, Node, Written
from halfstep.comparison.cluster.resources import places, wanted
from halfstep.comparison.request import SAME
from halfstep.errors import UsageError
from halfstep.trials import Job, Outcome, Trial
from halfstep.trials.outcome import records_at
from halfstep.trials.place import Stop
from halfstep.trials.run import OnStep
from halfstep.version import __version__
from halfstep.words.safe_text import clean

#: seconds for which a place may take to be ready, as others may hold what it needs; and one that was lost
READY = 120.0
READY_AGAIN = 20.0

#: where a head node listens for ray://HOST
CLIENT_PORT = 10001

#: seconds between two looks whether a trial is to be stopped
_POLL = 1.0

#: where there is no cluster to go to: Ray's switch for machines that form none, with which all of one listens on the
#: loopback device alone (a loopback ``_node_ip_address`` is replaced by the outer one); and seconds for which Ray waits
#: for itself to start, as on a busy machine its own 30 are too few
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_raylet_start_wait_time_s": "120"}

#: what is not sent to the machines
_LEFT_OUT = ("/.git", "/.venv", "**/__pycache__", "/halfstep-out")

#: what machines of one kind have in common
_KIND = (*SAME, "cores")


@dataclass(frozen=True)
class Cluster:
    """A cluster as a comparison uses it: machines of one kind.

    Attributes:
        environment: one of them, as a comparison describes its machine, and under ``cluster`` how many there are.
        runners: a place for each block that runs at the same time.
    """

    environment: dict[str, Any]
    runners: list[Remote]


@contextlib.contextmanager
def cluster(on: str, resources: str, blocks: int, program: str, folder: Path) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine, and end what was begun there.

    Args:
        on: as ``parse_on`` returns it; ``ray`` alone goes to the cluster that ``RAY_ADDRESS`` names, if it is set.
        resources: as ``parse_resources`` returns it.
        blocks: how many there are: no more places are taken.
        program: the path of the program; empty for a module.
        folder: the comparison's, which is not sent.

    Raises:
        UsageError: Ray is not installed, not reached, or has no room; the program is not in the current folder.
    """
    check(on, program)
    address = on if on != "ray" else os.environ.get("RAY_ADDRESS", "")
    with _environment({} if address else _ALONE):
        import ray  # reads what it finds there once

        try:
            _connect(ray, on, address, folder)
            yield _choose(ray, on, resources, blocks)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables, where the user has not set them otherwise."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def check(on: str, program: str) -> None:
    """Whether a cluster can be asked at all, before anything is begun.

    Args:
        on, program: as :func:`cluster` takes them.

    Raises:
        UsageError: Ray is not installed; the program is not in the current folder.
    """
    inside(program)
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            f"--on {on} needs Ray; install it by `pip install 'halfstep[ray]'`, here and on the cluster's machines."
        )


def inside(program: str) -> str:
    """The program's path from the current folder, which is what Ray sends.

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


def _connect(ray: Any, on: str, address: str, folder: Path) -> None:
    left_out = [*_LEFT_OUT]
    with contextlib.suppress(ValueError):
        left_out.append(f"/{folder.resolve().relative_to(Path.cwd().resolve()).as_posix()}")
    how: dict[str, Any] = {
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
    except Exception as error:  # Ray has no class of its own for this
        raise UsageError(
            f"--on {on}: Ray could not be used at {address or 'this machine'} ({_first_line(error)}); see to it that "
            "`ray status` works there, and that both have the same versions of Ray and Python."
        ) from None


def _knock(on: str, address: str) -> None:
    """See whether anyone listens at an address: Ray itself would try for many minutes.

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
            "that `ray start --head` tells."
        ) from None


def _choose(ray: Any, on: str, resources: str, blocks: int) -> Cluster:
    """The places on machines of one kind, of which there are the most.

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
            f"--on {on}: others hold what a block needs on all {len(room)} machines of the cluster; wait for them, or "
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
    about = dict(ready[chosen[0]])
    about["cluster"] = {
        "machines": len({runner.node for runner in runners}),
        "other_machines": sorted(_name(ready[n]) for n in ready if n not in chosen),
        "busy_machines": len(room) - len(ready),
    }
    if most > 1:
        about["side_by_side"] = {"blocks": most, "cores": None}
    return Cluster(about, runners)


def _kind(about: dict[str, Any]) -> str:
    return json.dumps({key: about[key] for key in _KIND}, sort_keys=True, default=str)


def _name(about: dict[str, Any]) -> str:
    device = about["devices"][-1]
    return str(device.get("name") if device.get("device") != "cpu" else about["cpu"])


def _check_versions(on: str, ready: dict[str, dict[str, Any]]) -> None:
    others = sorted({about["halfstep"] for about in ready.values()} - {__version__})
    if others:
        raise UsageError(
            f"--on {on}: the cluster has halfstep {', '.join(others)}, and this is {__version__}; install the same "
            "on all machines."
        )


class Remote:
    """A place on a machine of the cluster.

    Args:
        ray: the package.
        node: the machine's name in Ray.
        want: what it gets of the machine.
    """

    def __init__(self, ray: Any, node: str, want: dict[str, float]) -> None:
        self.node = node
        self._ray, self._want = ray, want
        self._actor = self._made()

    def _made(self) -> Any:
        rest = {name: amount for name, amount in self._want.items() if name not in ("CPU", "GPU")}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = NodeAffinitySchedulingStrategy(self.node, soft=False)
        kind = self._ray.remote(Node).options(
            num_cpus=self._want.get("CPU", 0),
            num_gpus=self._want.get("GPU", 0),
            resources=rest,
            scheduling_strategy=where,
            max_concurrency=2,  # a trial is stopped while its news are waited for
        )
        return kind.remote()

    def about(self) -> dict[str, Any]:
        """The machine, as :meth:`Node.about` has it."""
        found: dict[str, Any] = self._ray.get(self._actor.about.remote())
        return found

    def ready(self, seconds: float) -> bool:
        """Whether it has what it needs within so many seconds; it is ended where not."""
        try:
            self._ray.get(self._actor.__ray_ready__.remote(), timeout=seconds)
        except self._ray.exceptions.RayError:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Give back what it holds."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)

    def run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        """As :class:`~halfstep.comparison.blocks.Runner` has it: what the trial writes is written here, too.

        Raises:
            PlaceLost: its machine, or Ray's process there, is gone.
        """
        try:
            return self._run(job, trial, on_step, stop)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of ours there
        except self._ray.exceptions.RayError:
            self.end()
            self._actor = self._made()
            raise PlaceLost(self.ready(READY_AGAIN)) from None

    def _run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        there = job if job.module else replace(job, program=inside(job.program))
        told: list[str] = []
        self._get(self._actor.begin.remote(there, trial), stop, told)
        while True:
            news: News = self._get(self._actor.news.remote(), stop, told)
            for written in news.written:
                _write(job.record(trial).parent, written)
            if news.step is not None:
                on_step(*news.step)
            if news.ended is not None:
                record, ranks = records_at(job.record(trial))
                end = news.ended
                return Outcome(
                    trial, end.status, end.reason, end.exit_code, record, ranks, end.seconds
                ).trusted()

    def _get(self, answer: Any, stop: Stop, told: list[str]) -> Any:
        """Wait for an answer, and meanwhile tell the trial to stop where it is to: kindly, then at once."""
        while True:
            try:
                stop.check()
            except KeyboardInterrupt as by:
                if len(told) < 1 + stop.at_once:
                    told.append(str(by))
                    self._actor.stop.remote(str(by))
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                return self._ray.get(answer, timeout=_POLL)


def _write(folder: Path, written: Written) -> None:
    """Put what a trial wrote there into the file of the same name here."""
    path = folder / Path(written.name).name
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(written.offset)
        file.seek(written.offset)
        file.write(written.data)


def _first_line(error: Exception) -> str:
    """What an error says in a line: its first one, or where that only announces others, the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return clean(lines[-1] if lines[0].endswith(":") else lines[0])[:200].rstrip(".")
