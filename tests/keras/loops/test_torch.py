"""PyTorch loops of a script's own with an optimizer of Keras's under fp16."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ..conftest import Checked

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("own", [False, True], ids=["plain", "LossScaleOptimizer"])
def test_a_step_that_overflows_changes_nothing_and_the_script_sees_no_scale_but_its_own(
    checked: Callable[[str], Checked], own: bool
) -> None:
    facts = checked("torch").facts["loops"][own]
    assert all(facts["unchanged_by_a_bad_step"]), "weights, slots and moving statistics"
    assert facts["unchanged_by_a_good_step"].count(True) == 1, "only the learning rate stays as it is"
    assert facts["largest_gradient"] < (100 * 64 if own else 100)


def test_its_steps_are_recorded(checked: Callable[[str], Checked]) -> None:
    record = checked("torch").record
    good, bad, again = (step for step in record.steps if step["step"] in range(12, 15))
    losses = checked("torch").facts["loops"][0]["losses"]
    assert (good["loss"], again["loss"]) == pytest.approx((losses[0], losses[2]), rel=1e-6)
    assert not math.isfinite(float(bad["loss"]))
    assert [s["skipped"] for s in (good, bad, again)] == [False, True, False]
    assert [s["loss_scale"] for s in (good, bad, again)] == [1024, 1024, 512]
