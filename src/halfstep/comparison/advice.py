"""From a comparison to a recommendation, by the table of rules.

Each reason names the figure of the comparison object that it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfstep.comparison.adopt import Script, adopt
from halfstep.comparison.batches import Batches
from halfstep.comparison.evidence import Evidence, Prefer, Verdict, ran_of
from halfstep.comparison.reasons import left_over
from halfstep.comparison.rules import RULES


def recommend(
    verdicts: list[Verdict],
    script: Script | None = None,
    prefer: Prefer = "speed",
    fit: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The recommendation for a comparison's verdicts, with its reasons and the lines to adopt it.

    Args:
        verdicts: the comparison object's.
        script: what the lines are to suit.
        prefer: the objective.
        fit: the comparison object's ``fit_batch``, where batches were looked for.
    """
    evidence = Evidence.of(verdicts, prefer, Batches.of(fit))
    rule, found = next((r, answer) for r in RULES if (answer := r.answer(evidence)) is not None)
    told = {reason["evidence"] for reason in found["reasons"]}
    more = [reason for reason in left_over(evidence) if reason["evidence"] not in told]
    precision = found["precision"]
    # What the script does by itself needs no lines.
    script = script or Script()
    slow = any(ran_of(v).in_fp32_units for v in verdicts if v["precision"] == precision)
    code = adopt(precision, script, slow) if precision and precision != "as-is" else None
    return {
        "decided": True,
        **found,
        "reasons": [*found["reasons"], *more],
        "prefer": prefer,
        "rule": rule.name,
        "adopt": None if code is None else {"framework": script.framework, "code": code},
    }
