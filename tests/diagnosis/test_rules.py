"""Each rule by itself: what is found, and that a step less, a number less or another precision is no finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halfstep.diagnosis import rules
from halfstep.diagnosis.evidence import Case, Evidence
from halfstep.diagnosis.model import Finding
from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.report.words.diagnosis import worded_finding

Rule = Callable[[Case], Iterator[Finding]]


def steps(*skipped: bool, scales: list[float] | None = None) -> list[dict[str, Any]]:
    of = scales or [1.0] * len(skipped)
    return [
        {"event": "step", "step": i, "loss": 1.0, "skipped": was, "loss_scale": scale}
        for i, (was, scale) in enumerate(zip(skipped, of, strict=True))
    ]


def origin(**changed: Any) -> dict[str, Any]:
    """The gradient of one layer is infinite in the first step."""
    made = {
        "event": "watch", "what": "origin", "step": 0, "at": 1, "module": "net.body", "operation": "mm",
        "direction": "backward", "of": "input", "domain": None, "from_infinity": False, "dtype": "fp16", "exact": 7e4,
        "infinite": 3, "nan": 0, "elements": 9, "inputs": [{"largest": 2.0}], "scale": 65536.0,
        "source": "train.py:3", "code": "y = x @ w",
    }  # fmt: skip
    return made | changed


def record(*events: dict[str, Any]) -> Record:
    made = Record(Path("r"))
    for event in events:
        made.add({"event": "watch"} | event)
    return made


def found(
    rule: Rule, precision: str, *events: dict[str, Any], reference: Record | None = None
) -> list[Finding]:
    beside = None if reference is None else Evidence.of(reference)
    return list(map(worded_finding, rule(Case(parse(precision), Evidence.of(record(*events)), beside))))


def place(finding: Finding) -> tuple[str, int, str, str, str, int | None]:
    return finding.kind, finding.severity, finding.where, finding.operation, finding.direction, finding.step


def recipes(finding: Finding) -> list[str | None]:
    return [remedy.recipe for remedy in finding.remedies]


# --- the scale falls and falls -----------------------------------------------------------------------------

FALLING = [2.0**10, *(2.0 ** (9 - i) for i in range(8))]


def test_a_scale_that_falls_to_the_end_collapses_at_eight_skips_in_a_row() -> None:
    events = steps(False, *[True] * 8, scales=FALLING)
    last = origin(step=8, of="weight", module="net.head")
    (collapse,) = found(rules.scale_never_settles, "fp16", *events, origin(step=1), last)
    assert place(collapse) == ("scale_collapse", 92, "net.head", "mm", "backward", 1)
    assert (collapse.source, collapse.code) == ("train.py:3", "y = x @ w")
    assert collapse.evidence == (
        "the loss scale fell to 4 and the last 8 steps were skipped; at the last of them the gradient of weight "
        "reaches 7e+04; fp16 ends at 65504"
    )
    assert recipes(collapse) == ["bf16", "fp16:keep=net.head"]
    assert found(rules.scale_never_settles, "fp16", *events[:-1], last) == []
    assert found(rules.scale_never_settles, "fp16", *events, *steps(False), last) == []
    assert found(rules.scale_never_settles, "fp16:loss_scale=1024", *events, last) == []


def test_a_scale_is_not_blamed_for_what_began_in_the_forward_pass_or_outside_of_a_domain() -> None:
    events = steps(*[True] * 9)
    domain = {"words": "log of zero", "count": 2}
    for other in (
        origin(direction="forward"),
        origin(domain=domain),
        origin(domain=domain, direction="forward"),
    ):
        assert found(rules.scale_never_settles, "fp16", *events, other) == []
        assert found(rules.scale_never_settles, "fp16", *events, other, origin(module="net.head")) == []


def test_without_an_origin_the_module_nearest_to_the_loss_is_named() -> None:
    state = {"what": "state", "step": 8, "weights": True, "parameters": ["net.body.weight", "net.head.bias"]}
    early = state | {"step": 1, "parameters": ["other.weight"]}
    events = steps(*[False] * 10, *[True] * 9)
    (collapse,) = found(rules.scale_never_settles, "fp16", *events, early, state)
    assert place(collapse) == ("scale_collapse", 92, "net.head", "", "backward", 10)
    assert collapse.evidence == "the loss scale fell to 1 and the last 9 steps were skipped"
    (nowhere,) = found(rules.scale_never_settles, "fp16", *steps(*[True] * 9))
    assert (nowhere.where, nowhere.step) == ("", 0)


# --- gradients overflow under a scale that stays -----------------------------------------------------------


def test_gradients_that_overflow_twice_under_a_fixed_scale_are_a_finding() -> None:
    events = steps(True, True, False)
    fixed = "fp16:loss_scale=65536"
    (overflow,) = found(rules.gradients_overflow, fixed, *events, origin())
    assert place(overflow) == ("overflow", 90, "net.body", "mm", "backward", 0)
    assert overflow.evidence == (
        "the gradient of input reaches 7e+04; fp16 ends at 65504 under the loss scale 65,536"
    )
    assert overflow.fault == "precision"
    assert recipes(overflow) == ["fp16", "fp16:loss_scale=1", "bf16"]
    assert found(rules.gradients_overflow, fixed, *steps(True, False, False), origin()) == []
    assert found(rules.gradients_overflow, "fp16", *events, origin()) == []
    assert found(rules.gradients_overflow, fixed, *events, origin(direction="forward")) == []
    assert found(rules.gradients_overflow, fixed, *events, origin(domain={"words": "w", "count": 1})) == []


def test_where_nothing_guards_one_step_is_enough_and_a_nan_is_one() -> None:
    state = {"what": "state", "step": 0, "weights": True, "parameters": []}
    nan = origin(infinite=0, nan=1, exact=None, scale=1, dtype="bf16")
    (source,) = found(rules.gradients_overflow, "bf16", *steps(False), state, nan)
    assert place(source)[:2] == ("nan_source", 90)
    assert source.evidence == "the gradient of input 1 NaN in 9 results, from finite inputs up to 2"
    assert recipes(source) == ["fp32"]


def test_what_fp32_does_too_is_the_models_fault() -> None:
    events, own = steps(True, True), origin(dtype="fp32", exact=None)
    beside = record(*steps(True, True), own)
    (model,) = found(rules.gradients_overflow, "fp16:loss_scale=8", *events, origin(), reference=beside)
    assert (model.fault, recipes(model)) == ("model", [None])
    assert model.evidence.endswith("under the loss scale 65,536; not precision's fault: fp32 does the same")
    elsewhere = record(*steps(True, True), own | {"module": "other"})
    (ours,) = found(rules.gradients_overflow, "fp16:loss_scale=8", *events, origin(), reference=elsewhere)
    assert ours.fault == "precision"


def test_three_places_are_enough() -> None:
    origins = [origin(module=f"net.{i}") for i in (0, 0, 1, 2, 3)]
    places = found(rules.gradients_overflow, "fp16:loss_scale=8", *steps(True, True), *origins)
    assert [finding.where for finding in places] == ["net.0", "net.1", "net.2"]


# --- gradients vanish --------------------------------------------------------------------------------------


def numbers(module: str, kind: str, counts: dict[int, int], dtype: str = "fp16") -> dict[str, Any]:
    total = sum(counts.values())
    return {
        "what": "numbers", "module": module, "kind": kind, "type": "Linear", "dtype": dtype, "scale": 1.0,
        "counts": {str(e): n for e, n in counts.items()}, "largest": 2.0 ** max(counts), "elements": total,
        "counted": total,
    }  # fmt: skip


#: of the sum, half and a hundredth lie below fp16's smallest number, 2^-24
HALF, LITTLE = {-30: 2**10, -20: 1}, {-30: 10, -20: 1}


def test_a_layer_that_loses_more_than_a_tenth_of_its_gradient_is_a_finding() -> None:
    body = numbers("net.body", "gradients", HALF)
    head = numbers("net.head", "weight_gradients", {-30: 2**12, -20: 1})
    fine = numbers("net.fine", "gradients", LITTLE)
    (lost,) = found(rules.gradients_vanish, "fp16", *steps(False), body, head, fine)
    assert place(lost) == ("underflow", 70, "net.head", "", "backward", 0)
    assert lost.also == ("net.body",)
    assert lost.evidence == (
        "80% of its weight gradients (by magnitude; the largest is 9.5e-07) is flushed to zero by fp16 under the loss "
        "scale 1"
    )
    (one,) = found(rules.gradients_vanish, "fp16", *steps(False), body)
    assert one.evidence.startswith("50% of its gradients (by magnitude; ")
    assert recipes(one)[-1] == "bf16"
    assert found(rules.gradients_vanish, "fp16", *steps(False), fine) == []
    assert found(rules.gradients_vanish, "fp16", *steps(False), numbers("net.a", "activations", HALF)) == []
    assert (
        found(rules.gradients_vanish, "fp16", *steps(False), numbers("net.a", "gradients", HALF, "fp32"))
        == []
    )
    assert found(rules.gradients_vanish, "fp16", *steps(False, scales=[2.0**10]), body) == []


def test_of_two_kinds_the_one_that_loses_more_is_told_once() -> None:
    kinds = [numbers("net.a", "gradients", {-30: 2**12, -20: 1}), numbers("net.a", "weight_gradients", HALF)]
    for order in (kinds, kinds[::-1]):
        (lost,) = found(rules.gradients_vanish, "fp16", *steps(False), *order)
        assert lost.evidence.startswith("80% of its gradients")
        assert lost.also == ()
    alike = [numbers("net.a", kind, HALF) for kind in ("weight_gradients", "gradients")]
    (first,) = found(rules.gradients_vanish, "fp16", *steps(False), *alike)
    assert first.evidence.startswith("50% of its weight gradients")


# --- constants, weights and sums ---------------------------------------------------------------------------

EPSILON = {"what": "epsilon", "step": 2, "module": "net.norm", "operation": "add", "direction": "forward",
           "value": 1e-8, "dtype": "fp16", "source": "", "code": ""}  # fmt: skip


def test_an_epsilon_that_is_zero_is_a_finding_unless_its_module_is_blamed_already() -> None:
    (lost,) = found(rules.constants_vanish, "fp16", *steps(False), EPSILON)
    assert place(lost) == ("epsilon_lost", 50, "net.norm", "add", "forward", 2)
    assert lost.evidence == "1e-08 is 0 in fp16, whose smallest number is 6e-08: it guards nothing"
    assert [remedy.text for remedy in lost.remedies] == [
        "use 6e-05 or more", "keep net.norm in fp32", "use bf16, which has the range of fp32",
    ]  # fmt: skip
    blamed = origin(module="net.norm", domain={"words": "division by zero", "count": 1})
    other = EPSILON | {"module": "net.other"}
    left = found(rules.constants_vanish, "fp16", *steps(True), blamed, EPSILON, other)
    assert [finding.where for finding in left] == ["net.other"]
    unblamed = found(rules.constants_vanish, "fp16", *steps(True), origin(module="net.norm"), EPSILON)
    assert [finding.where for finding in unblamed] == ["net.norm"]


@pytest.mark.parametrize(("direction", "severity"), [("step", 96), ("backward", 60)])
def test_an_optimizers_eps_that_is_zero_is_worse_where_a_step_went_wrong(
    direction: str, severity: int
) -> None:
    event = {
        "what": "optimizer",
        "step": 0,
        "type": "Adam",
        "value": 1e-8,
        "dtype": "fp16",
        "modules": ["a", "b", "c"],
    }
    (lost,) = found(rules.optimizer_eps_vanishes, "fp16-true", event, origin(direction=direction))
    assert place(lost) == ("epsilon_lost", severity, "a", "Adam", "step", 0)
    assert lost.also == ("b", "c")
    after = ": the step divides by zero where the second moment is zero" * (severity == 96)
    assert lost.evidence == f"eps=1e-08 is 0 in fp16, the format of the optimizer's state{after}"
    assert [remedy.text for remedy in lost.remedies] == [
        "use fp16: weights and optimizer state stay in fp32", "give Adam eps=6e-05 or more",
    ]  # fmt: skip
    (nobody,) = found(rules.optimizer_eps_vanishes, "fp16", event | {"modules": []})
    assert (nobody.where, nobody.also, recipes(nobody)) == ("", (), [None])


def update(parameter: str, lost: int, due: int, **changed: Any) -> dict[str, Any]:
    module = parameter.rpartition(".")[0]
    made = {"what": "update", "step": 3, "parameter": parameter, "module": module, "optimizer": "SGD", "dtype": "bf16",
            "lost": lost, "due": due}  # fmt: skip
    return made | changed


def test_weights_of_which_more_than_half_stand_still_are_a_finding() -> None:
    """Over all the steps that were looked at; the first of them is the one that is named."""
    events = [
        update("net.a.weight", 6, 10), update("net.a.weight", 6, 10, step=4), update("net.b.weight", 9, 10, step=5),
        update("net.c.weight", 5, 10), update("net.d.weight", 0, 0), update("net.b.bias", 8, 10), update("net.z.weight", 7, 10),
        update("net.a.bias", 6, 10),
    ]  # fmt: skip
    (still,) = found(rules.weights_stand_still, "bf16-true", *events)
    assert place(still) == ("lost_update", 65, "net.b", "SGD", "step", 5)
    assert still.also == ("net.a", "net.b", "net.z")
    assert still.evidence == (
        "90% of net.b.weight did not move in a step although it had a gradient: the update is below half the last "
        "digit of a bf16 weight"
    )
    assert recipes(still) == ["bf16", None]
    assert found(rules.weights_stand_still, "bf16-true", *events[3:5]) == []
    shares = [update("net.a.w", 120, 128), update("net.b.w", 3, 4), update("net.c.w", 800, 1023)]
    (largest,) = found(rules.weights_stand_still, "bf16-true", *shares)
    assert largest.evidence.startswith("94% of net.a.w ")
    over = [update("net.a.weight", 10, 10), update("net.a.weight", 0, 10)]
    assert found(rules.weights_stand_still, "bf16-true", *over) == []


SUM = {"what": "sum", "step": 1, "module": "net.pool", "operation": "sum", "direction": "forward", "reached": 256.0,
       "dtype": "bf16", "source": "", "code": ""}  # fmt: skip


def test_a_sum_that_stops_growing_says_after_how_many_additions_or_how_far_off_it_is() -> None:
    counted, measured = SUM | {"additions": 300}, SUM | {"relative_error": 0.5, "exact": 512.0}
    stopped, off = found(rules.sums_saturate, "bf16", counted, measured)
    assert place(stopped) == place(off) == ("saturated_sum", 75, "net.pool", "sum", "forward", 1)
    below = "; what is added is below half the last digit of bf16"
    assert stopped.evidence == f"after 300 additions the sum stands still at 256{below}"
    assert off.evidence == f"off by 50%: reaches 256, in fp32 512{below}"
    assert recipes(stopped) == ["bf16:keep=net.pool", None]
