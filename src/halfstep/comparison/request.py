"""What the user asked to compare, stored beside the records so that a comparison can be resumed and drawn again."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from halfstep import codec
from halfstep.codec import JsonObject
from halfstep.comparison.cluster.resources import parse_on, parse_resources
from halfstep.comparison.fit import FitOption
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.model.recommendation import PREFER, Prefer
from halfstep.comparison.slots import parse_parallel
from halfstep.comparison.statistics.tolerance import Tolerance, parse_tolerance
from halfstep.errors import UsageError
from halfstep.files import is_own, json_text, read_json, write_whole
from halfstep.machine.support import Device
from halfstep.options import RunOptions
from halfstep.passed_on import Keywords
from halfstep.precisions.recipes import parse
from halfstep.trials import Job
from halfstep.words.safe_text import clean

SCHEMA = "halfstep/request/1"

#: options that may change when a comparison is resumed: how much is run, and how it is judged
CHANGEABLE = ("budget", "repeats", "seeds", "time_limit", "tolerance", "prefer", "fit", "memory_limit")


@dataclass(frozen=True)
class Request:
    """What the user asked to compare; the fields are the options of ``halfstep compare``."""

    program: str
    arguments: tuple[str, ...]
    module: bool
    recipes: tuple[str, ...] | None
    options: RunOptions
    repeats: int
    seeds: int
    time_limit: float | None
    launch: str
    folder: Path
    tolerance: Tolerance = field(default_factory=Tolerance)
    prefer: Prefer = "speed"
    fit: FitOption | None = None
    memory_limit: int | None = None
    fresh: bool = False
    parallel: str = ""
    on: str = ""
    resources: str = ""
    #: seconds for all trials, including those added on resuming; None: every trial of the plan is run
    budget: float | None = None
    #: whether trials were added after the verdicts had been seen
    looked_at: bool = False

    @property
    def job(self) -> Job:
        """What the trials have in common."""
        return Job(
            self.program,
            self.arguments,
            self.module,
            self.folder,
            self.options,
            self.time_limit,
            self.launch,
            fresh=self.fresh,
        )

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        return [*(["-m"] if self.module else []), self.program, *self.arguments]

    def option(self, name: str) -> Any:
        """An option by its name, those of every run included."""
        return getattr(self.options if hasattr(self.options, name) else self, name)

    def as_json(self) -> JsonObject:
        """The fields for JSON, together with the options of a run; without the folder, as the file lies in it."""
        own = {n: v for n, v in asdict(self).items() if n not in ("folder", "options")}
        return own | asdict(self.options) | {"tolerance": str(self.tolerance)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], folder: Path) -> Request:
        """The inverse of :meth:`as_json`; lists become tuples again."""
        known = {f.name for f in fields(cls)} - {"options"}
        values: Keywords = {n: tuple(v) if isinstance(v, list) else v for n, v in raw.items() if n in known}
        values["tolerance"] = parse_tolerance([raw["tolerance"]] if raw.get("tolerance") else [])
        values["fit"] = FitOption(**raw["fit"]) if raw.get("fit") else None
        wrong = [name for name, allowed in _ALLOWED.items() if not allowed(values.get(name))]
        if wrong:
            raise ValueError(f"its {wrong[0]} is damaged")
        values["looked_at"] = bool(values.get("looked_at"))
        return cls(**values, folder=folder, options=RunOptions.from_json(raw))


#: the most repeats or seeds: a larger number is a typing mistake
MOST = 1000


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) for text in value)


def _whole(value: Any, most: int = 2**63) -> bool:
    return type(value) is int and 0 < value <= most


#: what each field of a stored request may be
_ALLOWED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("program", "launch"), lambda value: isinstance(value, str)),
    "arguments": _texts,
    "module": lambda value: type(value) is bool,
    **dict.fromkeys(("fresh", "looked_at"), lambda value: value is None or type(value) is bool),
    "parallel": lambda value: value is None or (isinstance(value, str) and parse_parallel(value) == value),
    "on": lambda value: value is None or (isinstance(value, str) and parse_on(value) == value),
    "resources": lambda value: value is None or (isinstance(value, str) and parse_resources(value) == value),
    "recipes": lambda value: value is None or (_texts(value) and bool(value) and all(map(parse, value))),
    "memory_limit": lambda value: value is None or _whole(value),
    **dict.fromkeys(("repeats", "seeds"), lambda value: _whole(value, MOST)),
    "time_limit": lambda value: value is None or (type(value) in (int, float) and 0 < value < math.inf),
    "budget": lambda value: value is None or (type(value) in (int, float) and 0 < value < math.inf),
    "prefer": lambda value: value in PREFER,
}


@dataclass(frozen=True)
class Stored:
    """A stored request: what was asked, the working folder, the program's digest, and the machine."""

    request: Request
    cwd: str
    digest: str | None
    environment: Environment


def digest(request: Request) -> str | None:
    """SHA-256 of the program's file; None for a module, a directory, or a file that cannot be read."""
    try:
        return None if request.module else hashlib.sha256(Path(request.program).read_bytes()).hexdigest()
    except OSError:
        return None


def save(request: Request, environment: Environment, cwd: str | None = None) -> None:
    """Write ``request.json`` into the comparison's folder; ``cwd`` is the folder it was started in, by default this."""
    stored = {
        "schema": SCHEMA,
        "cwd": os.getcwd() if cwd is None else cwd,
        "program_sha256": digest(request),
        "environment": codec.write(environment),
        "request": request.as_json(),
    }
    request.folder.mkdir(parents=True, exist_ok=True)
    write_whole(request.folder / "request.json", json_text(stored))


def stored(folder: Path) -> Stored:
    """The request that was written into ``folder``. Raises UsageError if none is there, or it cannot be read."""
    path = folder.absolute() / "request.json"
    try:
        raw = read_json(path)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r}")
        request = Request.from_json(raw["request"], folder.absolute())
        digest = raw["program_sha256"]
        environment = codec.read(Environment, raw["environment"])
        if not (isinstance(raw["environment"], dict) and isinstance(digest, str | None)):
            raise ValueError("its environment or digest is damaged")
        if request.recipes is None and not environment.devices:
            raise ValueError("its environment has no device")
        return Stored(request, str(raw["cwd"]), digest, environment)
    except OSError as error:
        raise UsageError(
            f"No comparison was begun in {str(folder)!r} ({error.strerror}); give a folder that `halfstep compare` "
            "made."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(
            f"{str(path)!r} is not a request of this version ({clean(str(error))[:200]}); start a new comparison."
        ) from None


def check_owner(folder: Path) -> None:
    """Check that the folder belongs to this user, as it says which program and launcher are run.

    Raises:
        UsageError: it belongs to another user.
    """
    for path in (folder, folder / "request.json"):
        if path.exists() and not is_own(path.stat()):
            raise UsageError(
                f"{str(path)!r} belongs to another user, and says which program is run; start a comparison of your "
                "own, or draw that one with `halfstep report`."
            )


def resumed(old: Stored, given: Mapping[str, Any]) -> Request:
    """The stored request, changed by what the user gave on resuming it.

    Args:
        given: options (by the names of the request's fields) that were given again.

    Raises:
        UsageError: an option differs that would change the trials, or the program or folder has changed.
    """
    for name, value in given.items():
        before = old.request.option(name)
        if name not in CHANGEABLE and value != before:
            option = name.replace("_", " ")
            raise UsageError(
                f"The comparison in {str(old.request.folder)!r} was made with {option} {_said(before)}, not "
                f"{_said(value)}; leave that out to resume it, or start a new comparison."
            )
    if os.getcwd() != old.cwd:
        raise UsageError(
            f"The comparison in {str(old.request.folder)!r} was started in {old.cwd!r}; resume it from there."
        )
    if digest(old.request) != old.digest:
        raise UsageError(
            f"{old.request.program!r} has changed since the comparison in {str(old.request.folder)!r} was started; "
            "start a new comparison."
        )
    return _changed(old, {n: v for n, v in given.items() if n in CHANGEABLE})


def _changed(old: Stored, given: Keywords) -> Request:
    """With the options that may change. A new budget is added to the time already spent.

    Adding trials after the verdicts were seen sets ``looked_at``.

    Raises:
        UsageError: seeds or repeats were given for a comparison with a budget, which decides on them itself.
    """
    more = [n for n in ("seeds", "repeats") if n in given and given[n] != getattr(old.request, n)]
    if more and (old.request.budget is not None or "budget" in given):
        raise UsageError(
            f"--{more[0]} {given[more[0]]} was given for a comparison with --budget, which decides on seeds and "
            "repeats itself; give --budget more time instead."
        )
    if given.get("budget") is not None:
        given["budget"] += old.environment.seconds or 0.0
    planned = old.request.budget is None and (more or given.get("budget") is not None)
    return replace(old.request, **given, looked_at=old.request.looked_at or bool(planned))


def _said(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    return text or "none"


#: fields of the environment that must not change, so that new trials can be compared with the earlier ones
SAME = {"cpu": "processor", "frameworks": "frameworks", "devices": "devices", "python": "Python"}


def check_machine(old: Environment, new: Environment) -> None:
    """Check that the machine is the one that the comparison was started on.

    Raises:
        UsageError: another processor, device, Python, or version of a framework.
    """
    for key, name in SAME.items():
        then, now = getattr(old, key), getattr(new, key)
        if then and then != now:
            raise UsageError(
                f"The comparison was begun elsewhere or with other versions ({name}: {_brief(then)} there, "
                f"{_brief(now)} here); resume it there, or start a new comparison."
            )


def _brief(value: str | Mapping[str, str] | tuple[Device, ...] | None) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {v}" for name, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(device.name for device in value) or "none"
    return str(value)
