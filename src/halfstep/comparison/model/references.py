"""Where a figure stands in a comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

#: tables whose rows a figure can stand in
Table = Literal["verdicts", "trials", "fit_batch.rows"]


@dataclass(frozen=True)
class EvidenceRef:
    """The place of a figure in the comparison: a table, the index of a row, and the way to the figure from there.

    As text it is ``verdicts[1].speed_ratio`` or ``trials[0].time_shares.products``; the empty text is no figure.
    """

    table: Table | None = None
    row: int = 0
    path: tuple[str | int, ...] = ()

    @property
    def field(self) -> str | int:
        """The row's field that the figure stands in."""
        return self.path[0] if self.path else ""

    def as_text(self) -> str:
        """As JSON has it."""
        row = "" if self.table is None else f"{self.table}[{self.row}]"
        return row + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path)

    @classmethod
    def from_text(cls, text: str) -> EvidenceRef:
        """The inverse of :meth:`as_text`. Raises ValueError if the text is no reference."""
        if not text:
            return cls()
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ValueError(text)
        way = _STEP.findall(found[3])
        table: Any = found[1]
        return cls(table, int(found[2]), tuple(int(index) if index else name for name, index in way))


_REFERENCE = re.compile(r"(verdicts|trials|fit_batch\.rows)\[(\d{1,9})\]((?:\.[\w-]+|\[\d{1,9}\])*)")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")
