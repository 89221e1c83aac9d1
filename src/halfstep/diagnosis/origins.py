"""Where what is not finite began: in the data, in the model, or in the precision."""

from __future__ import annotations

from collections.abc import Iterator

from halfstep.diagnosis import remedies
from halfstep.diagnosis.evidence import Case, Event, first_of_each
from halfstep.diagnosis.finding import Fault, Finding, Kind, Remedy, placed
from halfstep.module_names import shown
from halfstep.precisions.formats import get_scalar

NEVER = "not precision's fault: fp32 does the same"


def from_the_data(case: Case) -> Iterator[Finding]:
    """The model was given what is not finite."""
    inputs = case.tried.all("input")
    if inputs:
        event = inputs[0]
        yield Finding(
            "nan_source", 98, event["module"], "", "forward", event["step"],
            f"the model was called with {event['count']} of {event['elements']} inputs not finite: "
            "the data's fault, in any precision",
            tuple(remedies.code("clean the data: look for NaN and infinities before they reach the model")),
            "data",
        )  # fmt: skip
    elif case.tried.all("arrived") and not case.tried.roots() and case.tried.diverged:
        event = case.tried.all("arrived")[0]
        yield Finding(
            "nan_source", 97, **placed(event),
            evidence="this operation was given numbers that are not finite, and no operation made them: they came "
            "with the data, in any precision",
            remedies=tuple(remedies.code("look for NaN in what is given here, targets included")), fault="data",
        )  # fmt: skip


def origins(case: Case) -> Iterator[Finding]:
    """Where infinities and NaN began, in steps that went wrong on account of them."""
    roots = first_of_each(case.tried.roots())
    forward = {(e["module"], e.get("source")) for e in roots if e["direction"] == "forward"}
    for event in roots:
        if of_gradients(event) and not event["domain"]:
            continue  # may be the loss scale's: judged by the rules of the scale
        if of_gradients(event) and (event["module"], event.get("source")) in forward:
            continue  # the slope of a function at the very place where it has no value
        yield _at_an_origin(case, event)


def silent_overflows(case: Case) -> Iterator[Finding]:
    """A result overflowed in the forward pass, and what came after hid it: one over infinity is 0."""
    for event in first_of_each(case.tried.silent()):
        if not case.in_fp32_too(event) and event["infinite"]:
            yield Finding(
                "overflow", 80, **placed(event),
                evidence=f"{seen(event)}; the loss stayed finite, so nothing shows it",
                remedies=_ways(case, event, too=False),
            )  # fmt: skip


def of_gradients(event: Event) -> bool:
    return bool(event["direction"] == "backward")


def _at_an_origin(case: Case, event: Event) -> Finding:
    too = case.in_fp32_too(event)
    fault: Fault = "model" if too else "precision"
    said = [seen(event)]
    turned = case.tried.turned(event)
    if turned is not None and turned["operation"] != event["operation"]:
        said.append(f"{turned['operation']} in {shown(turned['module'])} made NaN of it")
    if event["domain"]:
        lost = [e for e in case.tried.all("epsilon") if e["module"] == event["module"]]
        said += [f"{e['value']:g}, added to keep it from zero, is itself 0 in {e['dtype']}" for e in lost[:1]]
    said += [NEVER] * too
    return Finding(
        _kind(event), 95 if case.tried.diverged or event["direction"] == "forward" else 90, **placed(event),
        evidence="; ".join(said), remedies=_ways(case, event, too), fault=fault,
    )  # fmt: skip


def _kind(event: Event) -> Kind:
    if event["domain"]:
        return "domain_error"
    return "overflow" if _overflowed(event) else "nan_source"


def _overflowed(event: Event) -> bool:
    """A 16-bit result is infinite where fp32 has a number, or where finite numbers were multiplied or cast."""
    return event["dtype"] in ("fp16", "bf16") and event["infinite"] > 0 and not event["from_infinity"]


def seen(event: Event) -> str:
    if event["domain"]:
        words = event["domain"]["words"]
        of = f" (the gradient of {event['of']})" if event["direction"] == "backward" and event["of"] else ""
        return f"{words} in {event['domain']['count']} places{of}"
    row = get_scalar(event["dtype"]) if event["dtype"] in ("fp16", "bf16") else None
    exact = event["exact"]
    if row is not None and isinstance(exact, float) and exact > row.largest:
        return f"reaches {exact:.3g}; {row.name} ends at {row.largest:.5g}"
    bad = [f"{event['nan']} NaN"] * bool(event["nan"]) + [f"{event['infinite']} infinities"] * bool(
        event["infinite"]
    )
    largest = max((i["largest"] or 0.0 for i in event["inputs"]), default=0.0)
    after = (
        "inputs with infinities in them" if event["from_infinity"] else f"finite inputs up to {largest:.3g}"
    )
    return f"{' and '.join(bad)} in {event['elements']} results, from {after}"


def _ways(case: Case, event: Event, too: bool) -> tuple[Remedy, ...]:
    if event["domain"]:
        # The operation may compute in fp32: what counts is where the constant was lost.
        lost = [e["dtype"] for e in case.tried.all("epsilon") if e["module"] == event["module"]]
        dtype = lost[0] if lost else event["dtype"]
        guard = get_scalar(dtype).smallest_normal if dtype in ("fp16", "bf16") else 1e-12
        change = remedies.code(
            f"keep its argument away from zero with a constant that {dtype} can hold, {guard:.0e} or more"
        )
        if too:
            return tuple(change)
        return (*remedies.keep(case, event["module"], case.tried.kinds), *remedies.wider(case), *change)
    if too:
        return tuple(remedies.code("find out why this result is not finite: no precision mends it"))
    if _overflowed(event):
        change = remedies.code(
            f"scale what goes in, or clamp it, so that the result stays below {_end(event):.5g}"
        )
        ways = remedies.wider(case, event["exact"])
        return (*ways, *remedies.keep(case, event["module"], case.tried.kinds), *change)
    change = remedies.code(
        "mask with a large finite number instead of an infinity, or leave no row wholly masked"
    )
    return (*remedies.keep(case, event["module"], case.tried.kinds), *remedies.wider(case), *change)


def _end(event: Event) -> float:
    return get_scalar(event["dtype"]).largest
