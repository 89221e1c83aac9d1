"""Diagnoses read back from a folder: one of its own, or a comparison's."""

from __future__ import annotations

import os
from pathlib import Path

from halfstep.codec import JsonObject
from halfstep.diagnosis import SCHEMA
from halfstep.errors import UsageError
from halfstep.files import read_json
from halfstep.trials import safe

NAME = "diagnosis.json"


def holds_comparison(folder: Path) -> bool:
    """Whether a comparison was begun in the folder."""
    return any(os.path.exists(folder / name) for name in ("comparison.json", "request.json"))


def place_in(folder: Path, precision: str) -> Path:
    """Where a comparison's folder keeps the diagnosis of a precision, whose trials have the same names."""
    return folder / "diagnosis" / safe(precision)


def stored(folder: Path) -> list[JsonObject]:
    """The diagnoses in a folder: its own, and those of precisions of a comparison.

    Raises:
        UsageError: one cannot be read, or is of another schema.
    """
    paths = [folder / NAME, *sorted(folder.glob(f"diagnosis/*/{NAME}"))]
    return [_read(path) for path in paths if path.exists()]


def _read(path: Path) -> JsonObject:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{str(path)!r} is not a diagnosis ({error}); run `halfstep diagnose` again, or delete it."
        ) from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{str(path)!r} has schema {schema!r}; this version of halfstep reads {SCHEMA!r}: run `halfstep diagnose` "
            "again, or delete it."
        )
    return dict(found)
