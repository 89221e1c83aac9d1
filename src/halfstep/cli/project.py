"""``[tool.halfstep]`` in the pyproject.toml of the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

from halfstep.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,no-redef,unused-ignore]


def required_by_project(folder: Path | None = None) -> tuple[str, ...]:
    """What the project requires of its comparisons: ``require``, a list of texts as ``--require`` takes them.

    Raises:
        UsageError: the table holds something else; a file that is no TOML is other tools' to complain of.
    """
    try:
        project = tomllib.loads(((folder or Path()) / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return ()
    tool = project.get("tool")
    table = tool.get("halfstep", {}) if isinstance(tool, dict) else {}
    required = table.get("require", []) if isinstance(table, dict) else None
    if (
        not isinstance(required, list)
        or not all(isinstance(text, str) for text in required)
        or {*table} - {"require"}
    ):
        raise UsageError(
            f"[tool.halfstep] in pyproject.toml holds {table!r}; it may hold require, a list of texts such as "
            "'bf16: no worse, speed >= 1.2'."
        )
    return tuple(required)
