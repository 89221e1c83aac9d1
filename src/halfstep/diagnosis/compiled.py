"""Compares a compiled program with the eager one that was watched: do they differ, and where did NaN begin?

Watching needs eager code: inside a compiled graph no operation can be seen. So the program runs once more in the same
precision, compiled as its author wrote it, and unwatched. The first step of both has the same weights and inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from halfstep.diagnosis.events import Graph, Place, readable
from halfstep.diagnosis.model import CompiledRun, Finding, Remedy
from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.record.events import NonFinite

#: losses of the first step that differ by fewer roundings of the format than this are the same
ROUNDINGS = 64
#: the relative error of one rounding; of bf16 and fp16 half of the largest, so that a whole loss is not "the same"
_ROUNDING = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-9, "fp16": 2.0**-12}


def beside(compiled: Record, eager: Record, precision: str, status: str, reason: str) -> CompiledRun:
    """What the compiled run did, compared with the eager one."""
    ours, theirs = compiled.losses, eager.losses
    pairs = [(a, b) for a, b in zip(ours[:1], theirs[:1], strict=False) if a is not None and b is not None]
    first = pairs[0] if pairs else None
    nonfinite, rounding = compiled.nonfinite or NonFinite(what=""), _rounding(precision)
    told = [event for event in compiled.watched if event["what"] == "graph"]
    graphs = tuple(graph for event in told for graph in readable(Graph, event))
    return CompiledRun(
        status=status,
        reason=reason,
        losses=tuple(loss if _finite(loss) else None for loss in ours),
        first=first,
        differs=None if first is None else _differ(*first, rounding),
        only_compiled=_first_bad(ours, theirs),
        only_eager=_first_bad(theirs, ours),
        began=nonfinite.get("words", ""),
        module=nonfinite.get("module") or "",
        graphs=graphs,
        graph_differs=next((g.graph for g in graphs if not g.error <= ROUNDINGS * rounding), None),
    )


def _finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def _rounding(precision: str) -> float:
    return _ROUNDING.get(parse(precision).compute, _ROUNDING["bf16"])


def _differ(a: float, b: float, rounding: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.isfinite(a) != math.isfinite(b)
    return abs(a - b) > ROUNDINGS * rounding * max(abs(a), abs(b))


def _first_bad(losses: Sequence[float | None], others: Sequence[float | None]) -> int | None:
    """The first step at which the loss is not finite and that of the other run is."""
    for index, (loss, other) in enumerate(zip(losses, others, strict=False)):
        if loss is not None and not math.isfinite(loss) and _finite(other):
            return index
    return None


def findings_of(run: CompiledRun) -> list[Finding]:
    """NaN or an infinity that only the compiled code makes."""
    if run.only_compiled is None:
        return []
    place = Place(step=run.only_compiled, module=run.module, operation="compiled code", direction="forward")
    ways = [Remedy(change="not_compiled", names=(run.module,)), Remedy(change="other_backend")]
    return [Finding.at(place, "nan_source", 99, run, ways, "model")]
