"""A compiled program, beside the eager one that was watched: whether they differ, and where what is not finite began.

Watching needs eager code: inside a compiled graph no operation can be seen. So the program runs once more in the same
precision, compiled as its author has it and unwatched. The first step of both has the same weights and inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from halfstep.diagnosis.finding import Finding, Remedy
from halfstep.module_names import shown
from halfstep.precisions.recipes import parse
from halfstep.record import Record

#: losses of the first step that differ by fewer roundings of the format than this are the same
ROUNDINGS = 64
#: the largest relative error of one rounding
_ROUNDING = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-9, "fp16": 2.0**-12}


@dataclass(frozen=True)
class CompiledRun:
    """What the compiled program did, step by step beside the eager one.

    Attributes:
        status: how its trial ended, and ``reason``.
        losses: of its steps; None where there was none, or it was not finite.
        first: the losses of the first step, compiled and eagerly; None where one of them is not known.
        differs: whether these differ by more than :data:`ROUNDINGS` roundings; None where that is not known.
        only_compiled: the first step at which the compiled loss is not finite and the eager one is; None for no step.
        only_eager: the first at which it is the other way round.
        began: where the compiled run's first loss that is not finite began, in words; empty where it is not known.
        module: that module's path.
    """

    status: str
    reason: str
    losses: tuple[float | None, ...]
    first: tuple[float, float] | None
    differs: bool | None
    only_compiled: int | None
    only_eager: int | None
    began: str
    module: str

    def as_json(self) -> dict[str, Any]:
        """As the diagnosis object has it."""
        return asdict(self)


def beside(compiled: Record, eager: Record, precision: str, status: str, reason: str) -> CompiledRun:
    """The compiled run's record beside the eager one's."""
    ours, theirs = compiled.losses, eager.losses
    pairs = [(a, b) for a, b in zip(ours[:1], theirs[:1], strict=False) if a is not None and b is not None]
    first = pairs[0] if pairs else None
    nonfinite = compiled.nonfinite
    return CompiledRun(
        status=status,
        reason=reason,
        losses=tuple(loss if _finite(loss) else None for loss in ours),
        first=first,
        differs=None if first is None else _differ(*first, _rounding(precision)),
        only_compiled=_first_bad(ours, theirs),
        only_eager=_first_bad(theirs, ours),
        began=str(nonfinite.get("words", "")),
        module=str(nonfinite.get("module", "")),
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
    """The first step at which a loss is there and not finite, and the other's is finite."""
    for index, (loss, other) in enumerate(zip(losses, others, strict=False)):
        if loss is not None and not math.isfinite(loss) and _finite(other):
            return index
    return None


def findings_of(run: CompiledRun) -> list[Finding]:
    """NaN or an infinity that compiled code alone makes."""
    if run.only_compiled is None:
        return []
    place = run.began or f"in {shown(run.module)}"
    text = (
        f"only in compiled code: the loss is not finite from step {run.only_compiled + 1} on, and began {place}; "
        "the same program, run eagerly in this precision, has a finite loss there"
    )
    module = shown(run.module, "the part")
    remedies = (
        Remedy(f"leave {module} out of compiling (`torch.compiler.disable`), and report it to PyTorch"),
        Remedy("try another backend (`backend='aot_eager'`) to see whether the code generator is to blame"),
    )
    step = run.only_compiled
    return [Finding("nan_source", 99, run.module, "compiled code", "forward", step, text, remedies, "model")]


def notes_of(run: CompiledRun) -> list[str]:
    """What a reader has to know of the two."""
    told = ["it was run once more, compiled and unwatched"]
    if run.first is None:
        told.append(f"which made no loss to compare ({run.reason or run.status})")
    else:
        a, b = run.first
        verdict = "they differ" if run.differs else "the same to within rounding"
        told.append(f"on the same first step the loss is {a:.6g} compiled and {b:.6g} eagerly: {verdict}")
        if run.differs and math.isfinite(a) and math.isfinite(b):
            told.append("compiled code draws other random numbers (dropout), which is a difference, too")
    if run.only_eager is not None:
        told.append(
            f"eagerly alone the loss is not finite at step {run.only_eager + 1}: the findings are of that"
        )
    return ["; ".join(told)]
