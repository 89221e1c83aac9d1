"""The columns of the table in the terminal, in Markdown, on the page and in a notebook.

To add a column, add a :class:`Column` here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report.reading import why_absent


@dataclass(frozen=True)
class Column:
    """A figure of each precision."""

    name: str  #: the heading
    unit: str  #: the figure's unit; ``×`` for a ratio to the baseline
    #: gives the figure of a row; None if it is absent
    figure: Callable[[PrecisionRow], Spread | Ratio | None]
    absent: Callable[[PrecisionRow], str | None]  #: gives the reason why it is absent
    higher_is_better: bool = False  #: for a ratio, whether more is better

    @property
    def is_ratio(self) -> bool:
        """Whether it compares the row with the baseline."""
        return self.unit == "×"


#: the most important first: a narrow terminal shows those that fit
COLUMNS = (
    Column("step time", "s", lambda row: row.step_time, lambda row: row.step_time_absent),
    Column(
        "speed", "×", lambda row: row.speed_ratio, lambda row: row.step_time_absent, higher_is_better=True
    ),
    Column("peak memory", "B", lambda row: row.peak_memory, lambda row: row.peak_memory_absent),
    Column("memory ratio", "×", lambda row: row.memory_ratio, lambda row: row.peak_memory_absent),
)
#: only if energy was metered; the page writes the ratio beside the figure
ENERGY_COLUMNS = (
    Column("energy per step", "J", lambda row: row.energy, lambda row: row.energy_absent),
    Column("energy ratio", "×", lambda row: row.energy_ratio, lambda row: row.energy_absent),
)
FINAL_LOSS = Column("final loss", "", lambda row: row.final, why_absent)
