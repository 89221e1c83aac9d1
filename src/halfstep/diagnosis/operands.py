"""What an emulated format does to the operands of products: too much of them flushed to zero, or clamped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from halfstep.diagnosis import remedies
from halfstep.diagnosis.evidence import Case, Rounding
from halfstep.diagnosis.finding import Finding

#: of the magnitude of an operand, what may be flushed to zero, or lie beyond the largest number, before it is a finding
LOST = 0.1

_NAMES = {"inputs": "what its products are given", "weights": "its weights", "gradients": "its gradients"}


def operands_vanish(case: Case) -> Iterator[Finding]:
    """Numbers too small for the scale that the largest of their tensor or block sets.

    Forward, each vector counts alike, for a dot product that has lost a factor is lost whatever the others are.
    A gradient counts by magnitude: the small ones of a batch add little to the sum.
    """

    def share(kind: str, seen: Rounding) -> float:
        if kind == "gradients":
            return seen.lost / (seen.magnitude or 1.0)
        return seen.emptied / (seen.vectors or 1)

    def words(kind: str, seen: Rounding) -> str:
        per = "by magnitude" if kind == "gradients" else "the mean over vectors, by magnitude"
        return f"is flushed to zero by {seen.format} ({per}; {seen.flushed:,} of {seen.nonzero:,} numbers)"

    yield from _worst(case, "underflow", 72, share, words)


def operands_are_clamped(case: Case) -> Iterator[Finding]:
    """Numbers beyond the format's largest at their scale: MX scales are powers of two, which need not hold it."""

    def words(kind: str, seen: Rounding) -> str:
        numbers = f"{seen.overflowing:,} of {seen.nonzero:,} numbers"
        return f"is cut off: {numbers} lie beyond the largest that {seen.format} has at their scale"

    yield from _worst(case, "overflow", 71, lambda kind, seen: seen.clamped / (seen.magnitude or 1.0), words)


def _worst(
    case: Case,
    found: str,
    severity: int,
    share: Callable[[str, Rounding], float],
    words: Callable[[str, Rounding], str],
) -> Iterator[Finding]:
    shares = {place: share(place[1], seen) for place, seen in case.tried.rounded.items()}
    bad = sorted((place for place in shares if shares[place] > LOST), key=lambda place: -shares[place])
    if not bad:
        return
    module, kind = bad[0]
    seen = case.tried.rounded[bad[0]]
    yield Finding(
        "underflow" if found == "underflow" else "overflow", severity, module, "",
        "backward" if kind == "gradients" else "forward", seen.step,
        f"{shares[bad[0]]:.0%} of {_NAMES[kind]} {words(kind, seen)}",
        (*remedies.finer(case), *remedies.code("bring what is added up to one size, by a norm before this layer")),
        also=tuple(dict.fromkeys(m for m, _ in bad if m != module)),
    )  # fmt: skip
