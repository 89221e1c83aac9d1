"""Where infinities and NaN began: in the data, in the model, or in the precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from halfstep.diagnosis import remedies
from halfstep.diagnosis.events import SIXTEEN_BIT, Epsilon, Given, Origin
from halfstep.diagnosis.evidence import Case, first_of_each
from halfstep.diagnosis.model import Finding, Kind, NotFinite, Remedy
from halfstep.precisions.formats import get_scalar


def from_the_data(case: Case) -> Iterator[Finding]:
    """The model was given infinities or NaN."""
    given = case.tried.all(Given)
    inputs = [event for event in given if event.count is not None]
    if inputs:
        place = replace(inputs[0], direction="forward")
        yield Finding.at(place, "nan_source", 98, inputs[0], [Remedy(change="clean_data")], "data")
    elif given and not case.tried.roots() and case.tried.diverged:
        yield Finding.at(given[0], "nan_source", 97, given[0], [Remedy(change="look_at_given")], "data")


def origins(case: Case) -> Iterator[Finding]:
    """Where infinities and NaN began, in steps that went wrong on account of them."""
    roots = first_of_each(case.tried.roots())
    forward = {(root.module, root.source) for root in roots if root.direction == "forward"}
    for root in roots:
        if root.direction == "backward" and root.domain is None:
            continue  # the loss scale may be the cause: its own rules judge that
        if root.direction == "backward" and (root.module, root.source) in forward:
            continue  # the slope of a function where the function itself has no value
        yield _at_an_origin(case, root)


def silent_overflows(case: Case) -> Iterator[Finding]:
    """A result overflowed in the forward pass, and what came after hid it: one over infinity is 0."""
    for origin in first_of_each(case.tried.silent()):
        if not case.in_fp32_too(origin) and origin.infinite:
            seen = NotFinite(origin, hidden=True)
            yield Finding.at(
                origin, "overflow", 80, seen, _ways(case, origin, _lost(case, origin), too=False)
            )


def _at_an_origin(case: Case, origin: Origin) -> Finding:
    too, lost, turned = case.in_fp32_too(origin), _lost(case, origin), case.tried.turned(origin)
    if turned is not None and turned.operation == origin.operation:
        turned = None
    return Finding.at(
        origin,
        _kind(origin),
        95 if case.tried.diverged or origin.direction == "forward" else 90,
        NotFinite(origin, turned=turned, lost=lost, in_fp32_too=too),
        _ways(case, origin, lost, too),
        "model" if too else "precision",
    )


def _lost(case: Case, origin: Origin) -> Epsilon | None:
    """The constant that was to keep the argument of the operation from zero, and is zero itself."""
    same = (e for e in case.tried.all(Epsilon) if origin.domain is not None and e.module == origin.module)
    return next(same, None)


def _kind(origin: Origin) -> Kind:
    if origin.domain is not None:
        return "domain_error"
    return "overflow" if _overflowed(origin) else "nan_source"


def _overflowed(origin: Origin) -> bool:
    """A 16-bit result is infinite where fp32 has a number, or where finite numbers were multiplied or cast."""
    return origin.dtype in SIXTEEN_BIT and origin.infinite > 0 and not origin.from_infinity


def _ways(case: Case, origin: Origin, lost: Epsilon | None, too: bool) -> Sequence[Remedy]:
    kept = remedies.keep(case, origin.module)
    if origin.domain is not None:
        # The operation may compute in fp32: what counts is where the constant was lost.
        dtype = lost.dtype if lost is not None else origin.dtype
        guard = get_scalar(dtype).smallest_normal if dtype in SIXTEEN_BIT else 1e-12
        change = Remedy(change="guard", names=(dtype,), figure=guard)
        return [change] if too else [*kept, *remedies.wider(case), change]
    if too:
        return [Remedy(change="find_cause")]
    if _overflowed(origin):
        change = Remedy(change="clamp", figure=get_scalar(origin.dtype).largest)
        return [*remedies.wider(case, origin.exact), *kept, change]
    return [*kept, *remedies.wider(case), Remedy(change="mask")]
