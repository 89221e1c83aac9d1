"""The largest batches that fit, as the evidence of advice for memory: which precision fits more than the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halfstep.comparison.model.fit import Fit, FitRow
from halfstep.comparison.model.references import EvidenceRef


@dataclass(frozen=True)
class Batches:
    """What ``--fit-batch`` has found; empty without it."""

    name: str  #: what is counted: ``images``; ``batch`` where the user gave no name
    rows: Mapping[str, tuple[int, FitRow]]  #: precision -> (its place in the comparison's list, its row)

    @classmethod
    def of(cls, fit: Fit | None) -> Batches:
        """From the comparison object's ``fit_batch``."""
        fit = fit or Fit(rows=())
        return cls(fit.name, {row.precision: (i, row) for i, row in enumerate(fit.rows)})

    def largest(self, precision: str) -> int:
        """The largest batch that fitted; 0 if none did."""
        return self.row(precision).largest or 0

    def fits_more(self, precision: str, baseline: str) -> bool:
        """Whether a batch fits that was too large for the baseline."""
        too_large = self.row(baseline).fails_at
        return too_large is not None and self.largest(precision) >= too_large

    def known(self, precision: str, baseline: str) -> bool:
        """Whether something is known of both."""
        return bool(self.largest(precision) and (self.largest(baseline) or self.row(baseline).fails_at))

    def evidence(self, precision: str) -> EvidenceRef:
        """Where the largest batch of a precision stands."""
        return EvidenceRef("fit_batch.rows", self.rows[precision][0], ("largest",))

    def row(self, precision: str) -> FitRow:
        """What was found of a precision."""
        return self.rows.get(precision, (0, FitRow()))[1]


NO_BATCHES = Batches.of(None)
