"""The rules: what is seen in a watched trial -> findings. A row a rule, each with its test in the gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from halfstep.diagnosis import remedies
from halfstep.diagnosis.evidence import Case, Event, first_of_each
from halfstep.diagnosis.finding import Fault, Finding, Kind, Remedy, placed, shown
from halfstep.diagnosis.layers import SCALED, layers, overall
from halfstep.diagnosis.shares import shares
from halfstep.formats import get_scalar
from halfstep.loss_scale import DynamicScale

#: of the sum of a layer's gradients, what may be flushed to zero before it is a finding
LOST = 0.1
#: of the weights that have a gradient, how many may stand still
STILL = 0.5
#: skipped steps in a row up to the end, from which on the scale is said not to settle
COLLAPSED = 8
#: skips in a run after which a fixed scale is said to be too high
REPEATED = 2

_NEVER = "not precision's fault: fp32 does the same"


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
        if _gradients(event) and not event["domain"]:
            continue  # may be the loss scale's: judged by the rules of the scale
        if _gradients(event) and (event["module"], event.get("source")) in forward:
            continue  # the slope of a function at the very place where it has no value
        yield _at_an_origin(case, event)


def silent_overflows(case: Case) -> Iterator[Finding]:
    """A result overflowed in the forward pass, and what came after hid it: one over infinity is 0."""
    for event in first_of_each(case.tried.silent()):
        if not case.in_fp32_too(event) and event["infinite"]:
            yield Finding(
                "overflow", 80, **placed(event),
                evidence=f"{_what(event)}; the loss stayed finite, so nothing shows it",
                remedies=_ways(case, event, too=False),
            )  # fmt: skip


def _gradients(event: Event) -> bool:
    return bool(event["direction"] == "backward")


def _at_an_origin(case: Case, event: Event) -> Finding:
    too = case.in_fp32_too(event)
    fault: Fault = "model" if too else "precision"
    said = [_what(event)]
    turned = case.tried.turned(event)
    if turned is not None and turned["operation"] != event["operation"]:
        said.append(f"{turned['operation']} in {shown(turned['module'])} made NaN of it")
    if event["domain"]:
        lost = [e for e in case.tried.all("epsilon") if e["module"] == event["module"]]
        said += [f"{e['value']:g}, added to keep it from zero, is itself 0 in {e['dtype']}" for e in lost[:1]]
    said += [_NEVER] * too
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


def _what(event: Event) -> str:
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
    guard = get_scalar(event["dtype"]).smallest_normal if event["dtype"] in ("fp16", "bf16") else 1e-12
    if event["domain"]:
        change = remedies.code(
            f"keep its argument away from zero with a constant that {event['dtype']} can hold, {guard:.0e} or more"
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
        return (*remedies.wider(case), *remedies.keep(case, event["module"], case.tried.kinds), *change)
    change = remedies.code(
        "mask with a large finite number instead of an infinity, or leave no row wholly masked"
    )
    return (*remedies.keep(case, event["module"], case.tried.kinds), *remedies.wider(case), *change)


def _end(event: Event) -> float:
    return get_scalar(event["dtype"]).largest


def scale_never_settles(case: Case) -> Iterator[Finding]:
    """A dynamic loss scale falls and falls, and steps are skipped to the end."""
    tried, scale = case.tried, case.recipe.loss_scale
    row = tried.skipped_at_the_end
    gone = isinstance(scale, DynamicScale) and row >= COLLAPSED
    backward = [e for e in tried.roots() if _gradients(e) and not e["domain"]]
    if not gone or any(e["direction"] == "forward" or e["domain"] for e in tried.roots()):
        return
    last = backward[-1] if backward else None
    fields = placed(last) if last else _deepest(case)
    lowest = min((s.get("loss_scale", 1.0) for s in tried.record.steps), default=1.0)
    what = f"; at the last of them the gradient of {last['of']} {_what(last)}" if last else ""
    fields["step"] = len(tried.skipped) - row
    yield Finding(
        "scale_collapse", 92, **fields,
        evidence=f"the loss scale fell to {lowest:g} and the last {row} steps were skipped{what}",
        remedies=(*remedies.wider(case), *remedies.keep(case, fields["where"], tried.kinds)),
    )  # fmt: skip


def _deepest(case: Case) -> dict[str, Any]:
    """The module nearest to the loss whose gradient was not finite."""
    states = case.tried.all("state")
    names = states[-1]["parameters"] if states else []
    where = names[-1].rpartition(".")[0] if names else ""
    return {"where": where, "operation": "", "direction": "backward"}


def gradients_overflow(case: Case) -> Iterator[Finding]:
    """Gradients overflow under a scale that does not move, or under none; a dynamic scale only finds its height."""
    tried = case.tried
    events = [e for e in first_of_each(tried.roots()) if _gradients(e) and not e["domain"]]
    repeated = sum(tried.skipped) >= REPEATED or not case.recipe.guards
    if isinstance(case.recipe.loss_scale, DynamicScale) or not repeated:
        return
    for event in events[:3]:
        too = case.in_fp32_too(event)
        serving = overall(case, layers(case))
        scale = serving["advised"] if serving else 1.0
        under = f" under the loss scale {event['scale']:g}" if event["scale"] != 1 else ""
        ways = (*remedies.scaled(case, scale), *remedies.wider(case))
        yield Finding(
            "overflow" if event["infinite"] else "nan_source", 90, **placed(event),
            evidence=f"the gradient of {event['of']} {_what(event)}{under}" + (f"; {_NEVER}" if too else ""),
            remedies=tuple(remedies.code("find out why this gradient is not finite")) if too else ways,
            fault="model" if too else "precision",
        )  # fmt: skip


def gradients_vanish(case: Case) -> Iterator[Finding]:
    """A layer loses a part of its gradient to zero: small numbers weigh little, so the sum of magnitudes counts."""
    found: dict[str, tuple[float, str]] = {}
    for (module, kind), numbers in case.numbers.items():
        format = case.format_of(module, kind)
        if kind in SCALED and format in ("fp16", "bf16"):
            lost = shares(numbers, format, case.tried.scale).lost
            if lost > max(LOST, found.get(module, (0.0, ""))[0]):
                found[module] = lost, kind
    if not found:
        return
    worst = max(found, key=lambda module: found[module][0])
    lost, kind = found[worst]
    serving = overall(case, layers(case))
    scale = serving["advised"] if serving else 65536.0
    which = "weight gradients" if kind == "weight_gradients" else "gradients"
    yield Finding(
        "underflow", 70, worst, "", "backward", 0,
        f"{lost:.0%} of its {which} (by magnitude; the largest is {case.numbers[worst, kind].largest:.2g}) is "
        f"flushed to zero by {case.format_of(worst, kind)} under the loss scale {case.tried.scale:g}",
        (*remedies.scaled(case, scale), *remedies.wider(case)),
        also=tuple(m for m in found if m != worst),
    )  # fmt: skip


def constants_vanish(case: Case) -> Iterator[Finding]:
    """An epsilon of the model's is zero in the format it is added in."""
    blamed = {e["module"] for e in case.tried.roots() if e["domain"]}
    for event in case.tried.all("epsilon"):
        if event["module"] in blamed:
            continue
        row = get_scalar(event["dtype"])
        yield Finding(
            "epsilon_lost", 50, **placed(event),
            evidence=f"{event['value']:g} is 0 in {event['dtype']}, whose smallest number is "
            f"{row.smallest_subnormal:.2g}: it guards nothing",
            remedies=(
                *remedies.code(f"use {row.smallest_normal:.0e} or more"),
                *remedies.keep(case, event["module"], case.tried.kinds),
                *remedies.wider(case),
            ),
        )  # fmt: skip


def optimizer_eps_vanishes(case: Case) -> Iterator[Finding]:
    """Adam's ``eps`` is zero in the format of its state."""
    for event in case.tried.all("optimizer"):
        row = get_scalar(event["dtype"])
        bad = any(e["direction"] == "step" for e in case.tried.all("origin"))
        after = ": the step divides by zero where the second moment is zero" if bad else ""
        first, *rest = event["modules"] or [""]
        yield Finding(
            "epsilon_lost", 96 if bad else 60, first, event["type"], "step", event["step"],
            f"eps={event['value']:g} is 0 in {event['dtype']}, the format of the optimizer's state{after}",
            (
                *remedies.fp32_weights(case),
                *remedies.code(f"give {event['type']} eps={row.smallest_normal:.0e} or more"),
            ),
            also=tuple(rest),
        )  # fmt: skip


def weights_stand_still(case: Case) -> Iterator[Finding]:
    """weight + update == weight, in a 16-bit weight."""
    totals: dict[str, list[int]] = {}
    first: dict[str, Event] = {}
    for event in case.tried.all("update"):
        lost, due = totals.setdefault(event["parameter"], [0, 0])
        totals[event["parameter"]] = [lost + event["lost"], due + event["due"]]
        first.setdefault(event["parameter"], event)
    still = {name: lost / due for name, (lost, due) in totals.items() if due and lost > STILL * due}
    if not still:
        return
    worst = max(still, key=lambda name: still[name])
    event = first[worst]
    yield Finding(
        "lost_update", 65, event["module"], event["optimizer"], "step", event["step"],
        f"{still[worst]:.0%} of {worst} did not move in a step although it had a gradient: the update is below half "
        f"the last digit of a {event['dtype']} weight",
        (*remedies.fp32_weights(case), *remedies.code("use a larger learning rate")),
        also=tuple(dict.fromkeys(first[n].get("module", "") for n in still if n != worst)),
    )  # fmt: skip


def sums_saturate(case: Case) -> Iterator[Finding]:
    """A 16-bit sum stops growing."""
    for event in case.tried.all("sum"):
        if "additions" in event:
            said = f"after {event['additions']} additions the sum stands still at {event['reached']:.4g}"
        else:
            said = f"off by {event['relative_error']:.0%}: reaches {event['reached']:.4g}, in fp32 {event['exact']:.4g}"
        yield Finding(
            "saturated_sum", 75, **placed(event),
            evidence=f"{said}; what is added is below half the last digit of {event['dtype']}",
            remedies=(
                *remedies.keep(case, event["module"], case.tried.kinds),
                *remedies.fp32_weights(case),
                *remedies.code("sum in fp32: .float(), or dtype=torch.float32"),
            ),
        )  # fmt: skip


#: every rule, in no order: findings are sorted by severity
RULES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    from_the_data,
    origins,
    silent_overflows,
    scale_never_settles,
    gradients_overflow,
    gradients_vanish,
    constants_vanish,
    optimizer_eps_vanishes,
    weights_stand_still,
    sums_saturate,
)
