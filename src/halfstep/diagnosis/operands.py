"""What an emulated format does to the operands of products: too much of them flushed to zero, or clamped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from halfstep.diagnosis import remedies
from halfstep.diagnosis.events import NumberKind, Place
from halfstep.diagnosis.evidence import Case, Rounding
from halfstep.diagnosis.model import Finding, Kind, Operands, Remedy

#: of the magnitude of an operand, what may be flushed to zero, or lie beyond the largest number, before it is a finding
LOST = 0.1


def operands_vanish(case: Case) -> Iterator[Finding]:
    """Numbers too small for the scale that the largest of their tensor or block sets.

    In the forward pass all vectors count the same: a dot product that has lost a factor is wrong, however large others
    are. Gradients count by magnitude: the small ones of a batch add little to the sum.
    """

    def share(kind: NumberKind, seen: Rounding) -> float:
        if kind == "gradients":
            return seen.lost / (seen.magnitude or 1.0)
        return seen.emptied / (seen.vectors or 1)

    yield from _worst(case, "underflow", 72, share, lambda seen: seen.flushed)


def operands_are_clamped(case: Case) -> Iterator[Finding]:
    """Numbers beyond the format's largest at their scale: an MX scale is a power of two, and may be too small."""

    def share(kind: NumberKind, seen: Rounding) -> float:
        return seen.clamped / (seen.magnitude or 1.0)

    yield from _worst(case, "overflow", 71, share, lambda seen: seen.overflowing)


def _worst(
    case: Case,
    found: Kind,
    severity: int,
    share: Callable[[NumberKind, Rounding], float],
    hit: Callable[[Rounding], int],
) -> Iterator[Finding]:
    shares = {key: share(key[1], seen) for key, seen in case.tried.rounded.items()}
    bad = sorted((key for key in shares if shares[key] > LOST), key=lambda key: -shares[key])
    if not bad:
        return
    module, kind = bad[0]
    seen = case.tried.rounded[bad[0]]
    direction = "backward" if kind == "gradients" else "forward"
    yield Finding.at(
        Place(step=seen.step, module=module, direction=direction),
        found,
        severity,
        Operands(shares[bad[0]], kind, seen.format, hit(seen), seen.nonzero),
        [*remedies.finer(case), Remedy(change="even_sizes")],
        also=dict.fromkeys(m for m, _ in bad if m != module),
    )
