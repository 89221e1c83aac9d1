"""The rules: what is seen in a watched trial -> findings. One function per rule, each with its test in the gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from halfstep.diagnosis import remedies
from halfstep.diagnosis.events import (
    SIXTEEN_BIT,
    Epsilon,
    NumberKind,
    OptimizerEps,
    Origin,
    Place,
    State,
    Sum,
    Update,
)
from halfstep.diagnosis.evidence import Case, first_of_each
from halfstep.diagnosis.layers import SCALED, layers, overall
from halfstep.diagnosis.model import Collapse, Finding, NotFinite, Remedy, Vanished
from halfstep.diagnosis.operands import operands_are_clamped, operands_vanish
from halfstep.diagnosis.origins import from_the_data, origins, silent_overflows
from halfstep.diagnosis.shares import shares
from halfstep.precisions.formats import get_scalar
from halfstep.precisions.loss_scale import DynamicScale

#: the share of the sum of a layer's gradients that may be flushed to zero before it is a finding
LOST = 0.1
#: the share of the weights with a gradient that may stand still
STILL = 0.5
#: how many skipped steps in a row, up to the end, mean that the scale does not settle
COLLAPSED = 8
#: how many skipped steps mean that a fixed scale is too high
REPEATED = 2


def scale_never_settles(case: Case) -> Iterator[Finding]:
    """A dynamic loss scale keeps falling, and steps are skipped up to the end."""
    tried, roots = case.tried, case.tried.roots()
    skipped = tried.skipped_at_the_end
    if not isinstance(case.recipe.loss_scale, DynamicScale) or skipped < COLLAPSED:
        return
    if any(root.direction == "forward" or root.domain for root in roots):
        return
    last = next((root for root in reversed(roots) if root.direction == "backward"), None)
    place = replace(last or _nearest_to_the_loss(case), step=len(tried.skipped) - skipped)
    lowest = min((s.get("loss_scale", 1.0) for s in tried.record.steps), default=1.0)
    ways = [*remedies.wider(case), *remedies.keep(case, place.module)]
    yield Finding.at(place, "scale_collapse", 92, Collapse(lowest, skipped, last), ways)


def _nearest_to_the_loss(case: Case) -> Place:
    """The module nearest to the loss whose gradient was not finite."""
    named = [name for state in case.tried.all(State)[-1:] for name in state.parameters[-1:]]
    module = named[0].rpartition(".")[0] if named else ""
    return Place(step=0, module=module, direction="backward")


def gradients_overflow(case: Case) -> Iterator[Finding]:
    """Gradients overflow under a fixed scale, or under none; a dynamic scale that overflows is still being found."""
    tried = case.tried
    repeated = sum(tried.skipped) >= REPEATED or not case.recipe.guards
    if isinstance(case.recipe.loss_scale, DynamicScale) or not repeated:
        return
    found = [
        root for root in first_of_each(tried.roots()) if root.direction == "backward" and not root.domain
    ]
    for origin in found[:3]:
        too = case.in_fp32_too(origin)
        scaled = remedies.scaled(case, _serving(case, otherwise=1.0))
        yield Finding.at(
            origin,
            "overflow" if origin.infinite else "nan_source",
            90,
            NotFinite(origin, of_scale=True, in_fp32_too=too),
            [Remedy(change="find_gradients_cause")] if too else [*scaled, *remedies.wider(case)],
            "model" if too else "precision",
        )


def _serving(case: Case, otherwise: float) -> float:
    """The loss scale that serves every layer."""
    found = overall(case, layers(case))
    return found.advised if found and found.advised else otherwise


def gradients_vanish(case: Case) -> Iterator[Finding]:
    """A part of a layer's gradient becomes zero. Small numbers matter little, so the sum of magnitudes counts."""
    found: dict[str, tuple[float, NumberKind]] = {}
    for (module, kind), numbers in case.numbers.items():
        format = case.format_of(module, kind)
        if kind in SCALED and format in SIXTEEN_BIT:
            lost = shares(numbers, format, case.tried.scale).lost
            if lost > max(LOST, found[module][0] if module in found else 0.0):
                found[module] = lost, kind
    if not found:
        return
    worst = max(found, key=lambda module: found[module][0])
    lost, kind = found[worst]
    largest = case.numbers[worst, kind].largest
    yield Finding.at(
        Place(step=0, module=worst, direction="backward"),
        "underflow",
        70,
        Vanished(lost, kind, largest, case.format_of(worst, kind), case.tried.scale),
        [*remedies.scaled(case, _serving(case, otherwise=65536.0)), *remedies.wider(case)],
        also=(module for module in found if module != worst),
    )


def constants_vanish(case: Case) -> Iterator[Finding]:
    """An epsilon of the model's is zero in the format it is added in."""
    blamed = {root.module for root in case.tried.roots() if root.domain}
    for lost in case.tried.all(Epsilon):
        if lost.module not in blamed:
            change = Remedy(change="larger_epsilon", figure=get_scalar(lost.dtype).smallest_normal)
            ways = [change, *remedies.keep(case, lost.module), *remedies.wider(case)]
            yield Finding.at(lost, "epsilon_lost", 50, lost, ways)


def optimizer_eps_vanishes(case: Case) -> Iterator[Finding]:
    """Adam's ``eps`` is zero in the format of its state."""
    divided = any(origin.direction == "step" for origin in case.tried.all(Origin))
    for eps in case.tried.all(OptimizerEps):
        first, *rest = eps.modules or ("",)
        smallest = get_scalar(eps.dtype).smallest_normal
        change = Remedy(change="larger_optimizer_eps", names=(eps.type,), figure=smallest)
        yield Finding.at(
            Place(step=eps.step, module=first, operation=eps.type, direction="step"),
            "epsilon_lost",
            96 if divided else 60,
            replace(eps, divided=divided),
            [*remedies.fp32_weights(case), change],
            also=rest,
        )


def weights_stand_still(case: Case) -> Iterator[Finding]:
    """weight + update == weight, in a 16-bit weight; one that is rounded stochastically moves in the mean."""
    if case.recipe.stochastic:
        return
    updates: dict[str, Update] = {}
    for update in case.tried.all(Update):
        so_far = updates.get(update.parameter, replace(update, lost=0, due=0))
        updates[update.parameter] = replace(
            so_far, lost=so_far.lost + update.lost, due=so_far.due + update.due
        )
    still = [update for update in updates.values() if update.due and update.lost > STILL * update.due]
    if not still:
        return
    worst = max(still, key=lambda update: update.lost / update.due)
    yield Finding.at(
        Place(step=worst.step, module=worst.module, operation=worst.optimizer, direction="step"),
        "lost_update",
        65,
        worst,
        [*remedies.fp32_weights(case), Remedy(change="learning_rate")],
        also=dict.fromkeys(update.module for update in still if update is not worst),
    )


def sums_saturate(case: Case) -> Iterator[Finding]:
    """A 16-bit sum stops growing."""
    for found in case.tried.all(Sum):
        ways = [
            *remedies.keep(case, found.module),
            *remedies.fp32_weights(case),
            Remedy(change="sum_in_fp32"),
        ]
        yield Finding.at(found, "saturated_sum", 75, found, ways)


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
