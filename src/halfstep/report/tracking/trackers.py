"""The trackers that halfstep knows, and how ``--track`` names them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from halfstep.errors import UsageError


@dataclass(frozen=True)
class Tracker:
    """A tracker."""

    name: str  #: for ``--track``; also the name of the package, and of halfstep's extra
    variable: str = ""  #: the environment variable that says where it writes; empty if it has none
    #: whether it accepts an address such as ``http://host:5000`` instead of a folder
    takes_address: bool = False


TRACKERS = {
    tracker.name: tracker
    for tracker in (
        Tracker("tensorboard"),
        Tracker("mlflow", "MLFLOW_TRACKING_URI", takes_address=True),
        Tracker("wandb", "WANDB_DIR"),
    )
}

#: variables that keep a tracker from reporting to its makers
_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}

#: variable -> the folder of wandb's other files; the last one is set only if wandb is offline, as online it has to find
#: the user's own configuration
_WANDB = {
    "WANDB_DATA_DIR": "data",
    "WANDB_CACHE_DIR": "cache",
    "WANDB_ARTIFACT_DIR": "artifacts",
    "WANDB_CONFIG_DIR": "config",
}


def environment(tracker: Tracker, place: str, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a tracker's process: ``given``, and variables that it lacks.

    With these a tracker writes only below ``place``, and wandb sends nothing without WANDB_API_KEY or WANDB_MODE.
    """
    added = dict(_QUIET)
    if tracker.name == "wandb":
        online = "WANDB_API_KEY" in given or given.get("WANDB_MODE", "offline") != "offline"
        added |= {} if online else {"WANDB_MODE": "offline"}
        folders = [name for name in _WANDB if not (online and name == "WANDB_CONFIG_DIR")]
        added |= {name: os.path.join(place, _WANDB[name]) for name in folders}
    return {**added, **given}


@dataclass(frozen=True)
class Target:
    """A tracker, and the folder or address that was given for it; empty if none was."""

    tracker: Tracker
    given: str = ""

    def place(self, out: Path, environment: Mapping[str, str] = os.environ) -> str:
        """Where it writes: what was given, else what its variable names, else the comparison's folder ``out``."""
        named = self.given or environment.get(self.tracker.variable, "")
        if named and self.tracker.takes_address and ":" in named:
            return named
        return str(Path(named).absolute() if named else out.absolute() / "tracking" / self.tracker.name)

    def is_inside(self, out: Path) -> bool:
        """Whether it writes into the comparison's folder, as no other place is named."""
        return self.place(out) == Target(self.tracker).place(out, {})


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """What ``--track`` was given: ``tensorboard``, or ``tensorboard=FOLDER``.

    Raises:
        UsageError: there is no such tracker, it is not installed, its folder is empty, or it is named twice.
    """
    found: dict[str, Target] = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if name not in TRACKERS or (equals and not given):
            raise UsageError(
                f"--track was given {text!r}; give {', '.join(TRACKERS)}, or one with the folder that it writes "
                "into, as in tensorboard=runs."
            )
        if name in found:
            raise UsageError(f"--track names {name} twice; name it once.")
        if not _is_installed(name):
            raise UsageError(
                f"--track {name} needs the package {name}, which is not installed; pip install 'halfstep[{name}]'."
            )
        found[name] = Target(TRACKERS[name], given)
    return tuple(found.values())


def _is_installed(package: str) -> bool:
    """Whether there is such a package; a mere folder of that name, as wandb leaves one, has no origin."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
