"""The largest batches that fit, as the evidence of advice for memory: which precision fits more than the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Batches:
    """What ``--fit-batch`` has found; without it, nothing is known of any precision.

    Attributes:
        name: what is counted: ``images``; ``batch`` where it has no name.
        rows: for each precision its place in the comparison's list and its row.
    """

    name: str
    rows: Mapping[str, tuple[int, Mapping[str, Any]]]

    @classmethod
    def of(cls, fit: Mapping[str, Any] | None) -> Batches:
        """From the comparison object's ``fit_batch``."""
        rows = () if fit is None else enumerate(fit["rows"])
        return cls("" if fit is None else fit["name"], {row["precision"]: (i, row) for i, row in rows})

    def largest(self, precision: str) -> int:
        """The largest batch seen to fit; 0 where none was."""
        return self._row(precision).get("largest") or 0

    def fits_more(self, precision: str, baseline: str) -> bool:
        """Whether a batch fits that is no smaller than one seen to be too large for the baseline."""
        too_large = self._row(baseline).get("fails_at")
        return too_large is not None and self.largest(precision) >= too_large

    def known(self, precision: str, baseline: str) -> bool:
        """Whether there is something to tell of both."""
        return bool(
            self.largest(precision) and (self.largest(baseline) or self._row(baseline).get("fails_at"))
        )

    def words(self, precision: str, baseline: str) -> str:
        """``a batch of 248 images fits, 1.94× fp32's 128``."""
        own, base, counted = self.largest(precision), self.largest(baseline), self.name
        head = f"a batch of {own:,}{'' if counted == 'batch' else f' {counted}'} fits"
        if not base:
            return f"{head}, of which {baseline} fits not even {self._row(baseline)['fails_at']:,}"
        return (
            f"{head}, as in {baseline}" if own == base else f"{head}, {own / base:.2f}× {baseline}'s {base:,}"
        )

    def evidence(self, precision: str) -> str:
        """The figure that the words rest on."""
        return f"fit_batch.rows[{self.rows[precision][0]}].largest"

    def _row(self, precision: str) -> Mapping[str, Any]:
        return self.rows.get(precision, (0, {}))[1]


NO_BATCHES = Batches.of(None)
