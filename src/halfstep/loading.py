"""A comparison read back from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halfstep.compare import SCHEMA
from halfstep.errors import UsageError


class Comparison:
    """A comparison read back from its folder: ``data`` is the object that ``--json`` writes."""

    def __init__(self, data: dict[str, Any], folder: Path) -> None:
        self.data = data
        self.folder = folder

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One row a trial."""
        return list(self.data["trials"])

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """One row a precision."""
        return list(self.data["verdicts"])

    @property
    def recommendation(self) -> dict[str, Any]:
        """Which precision to use, the reasons, and the lines that make it permanent."""
        return dict(self.data["recommendation"])

    def __repr__(self) -> str:
        return f"<halfstep comparison of {' '.join(self.data['program']['command'])}: {self.recommendation['text']}>"


def load(folder: str | Path) -> Comparison:
    """Read the comparison that ``halfstep compare --out FOLDER`` wrote.

    Raises:
        UsageError: no comparison there, or of another schema.
    """
    path = Path(folder) / "comparison.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"No comparison in {str(folder)!r} ({error.strerror}); give a folder that `halfstep compare --out` wrote."
        ) from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{str(path)!r} is not a comparison ({error.msg}); run `halfstep compare` again."
        ) from None
    if data.get("schema") != SCHEMA:
        raise UsageError(
            f"{str(path)!r} has schema {data.get('schema')!r}; this version of halfstep reads {SCHEMA!r}."
        )
    return Comparison(data, path.parent)
