"""The rules: what is seen in a watched trial -> findings. A row a rule, each with its test in the gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from halfstep.diagnosis import remedies
from halfstep.diagnosis.evidence import Case, Event, first_of_each
from halfstep.diagnosis.finding import Finding, placed
from halfstep.diagnosis.layers import SCALED, layers, overall
from halfstep.diagnosis.operands import operands_are_clamped, operands_vanish
from halfstep.diagnosis.origins import NEVER, from_the_data, of_gradients, origins, seen, silent_overflows
from halfstep.diagnosis.shares import shares
from halfstep.precisions.formats import get_scalar
from halfstep.precisions.loss_scale import DynamicScale, scale_words

#: of the sum of a layer's gradients, what may be flushed to zero before it is a finding
LOST = 0.1
#: of the weights that have a gradient, how many may stand still
STILL = 0.5
#: skipped steps in a row up to the end, from which on the scale is said not to settle
COLLAPSED = 8
#: skips in a run after which a fixed scale is said to be too high
REPEATED = 2


def scale_never_settles(case: Case) -> Iterator[Finding]:
    """A dynamic loss scale falls and falls, and steps are skipped to the end."""
    tried, scale = case.tried, case.recipe.loss_scale
    row = tried.skipped_at_the_end
    gone = isinstance(scale, DynamicScale) and row >= COLLAPSED
    backward = [e for e in tried.roots() if of_gradients(e) and not e["domain"]]
    if not gone or any(e["direction"] == "forward" or e["domain"] for e in tried.roots()):
        return
    last = backward[-1] if backward else None
    fields = placed(last) if last else _deepest(case)
    lowest = min((s.get("loss_scale", 1.0) for s in tried.record.steps), default=1.0)
    more = f"; at the last of them the gradient of {last['of']} {seen(last)}" if last else ""
    fields["step"] = len(tried.skipped) - row
    yield Finding(
        "scale_collapse", 92, **fields,
        evidence=f"the loss scale fell to {scale_words(lowest)} and the last {row} steps were skipped{more}",
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
    events = [e for e in first_of_each(tried.roots()) if of_gradients(e) and not e["domain"]]
    repeated = sum(tried.skipped) >= REPEATED or not case.recipe.guards
    if isinstance(case.recipe.loss_scale, DynamicScale) or not repeated:
        return
    for event in events[:3]:
        too = case.in_fp32_too(event)
        serving = overall(case, layers(case))
        scale = serving.advised if serving and serving.advised else 1.0
        under = f" under the loss scale {scale_words(event['scale'])}" if event["scale"] != 1 else ""
        ways = (*remedies.scaled(case, scale), *remedies.wider(case))
        yield Finding(
            "overflow" if event["infinite"] else "nan_source", 90, **placed(event),
            evidence=f"the gradient of {event['of']} {seen(event)}{under}" + (f"; {NEVER}" if too else ""),
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
    scale = serving.advised if serving and serving.advised else 65536.0
    which = "weight gradients" if kind == "weight_gradients" else "gradients"
    yield Finding(
        "underflow", 70, worst, "", "backward", 0,
        f"{lost:.0%} of its {which} (by magnitude; the largest is {case.numbers[worst, kind].largest:.2g}) is "
        f"flushed to zero by {case.format_of(worst, kind)} under the loss scale {scale_words(case.tried.scale)}",
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
    operands_vanish,
    operands_are_clamped,
    constants_vanish,
    optimizer_eps_vanishes,
    weights_stand_still,
    sums_saturate,
)
