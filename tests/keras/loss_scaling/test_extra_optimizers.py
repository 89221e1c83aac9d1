"""Optimizers that a train_step steps beside the compiled one: guarded, and the scale follows what they see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..conftest import Turn


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_step_of_two_optimizers_that_overflows_changes_nothing(
    in_turn: Callable[[str], dict[str, Turn]], backend: str
) -> None:
    turn = in_turn(backend)["two optimizers"]
    assert all(turn.facts["unchanged_by_a_bad_step"]), "weights and slots of both"
    assert turn.facts["unchanged_by_good_steps"].count(True) == 2, "only the learning rates stay as they are"
    assert [step["skipped"] for step in turn.record.steps] == [False, True, *[False] * 5]
    # Both halve it in the bad step; doubled after four finite steps.
    assert [step["loss_scale"] for step in turn.record.steps] == [1024, 1024, *[256] * 4, 512]
