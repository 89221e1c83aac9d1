"""``[tool.halfstep]`` in the pyproject.toml of the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

from halfstep.comparison.requirements import Term, parse_requirements
from halfstep.errors import UsageError
from halfstep.files import opened

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,no-redef,unused-ignore]


#: how many characters of the table an error message shows at most
_SHOWN = 200


def required_by_project(folder: Path | None = None) -> tuple[Term, ...]:
    """What the project requires of its comparisons: ``require``, a list of texts as ``--require`` takes them.

    Raises:
        UsageError: the table holds something else. A file that is no TOML is ignored: other tools report it.
    """
    try:
        return parse_requirements(_texts((folder or Path()) / "pyproject.toml"))
    except UsageError as error:
        raise UsageError(f"[tool.halfstep] in pyproject.toml: {error}") from None


def _texts(path: Path) -> tuple[str, ...]:
    try:
        with opened(path) as file:
            project = tomllib.loads(file.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    tool = project.get("tool")
    table = tool.get("halfstep", {}) if isinstance(tool, dict) else {}
    required = table.get("require", []) if isinstance(table, dict) else None
    if (
        not isinstance(required, list)
        or not all(isinstance(text, str) for text in required)
        or {*table} - {"require"}
    ):
        held = table if isinstance(table, dict) else tool.get("halfstep")
        shown = repr(held) if len(repr(held)) <= _SHOWN else f"{repr(held)[:_SHOWN]}…"
        raise UsageError(
            f"it holds {shown}; it may hold require, a list of texts such as 'bf16: no worse, speed >= 1.2'."
        )
    return tuple(required)
