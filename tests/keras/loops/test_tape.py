"""TensorFlow loops with a GradientTape under fp16, eager and in tf.function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ..conftest import Checked, Turn
from ..rounding import U, gradient_of_squares

pytestmark = pytest.mark.slow

Run = Callable[[str], Checked]


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_step_that_overflows_changes_nothing(checked: Run, how: str) -> None:
    facts = checked("tensorflow").facts["tapes"][how]
    assert all(facts["unchanged_by_a_bad_step"]), "weights, slots and moving statistics"
    assert facts["unchanged_by_a_good_step"].count(True) == 1, "only the learning rate stays as it is"


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_the_script_sees_no_scale(checked: Run, how: str) -> None:
    """The loss is of the order of y's variance and so are gradients of a network of this size: not a thousandfold."""
    facts = checked("tensorflow").facts["tapes"][how]
    assert 0 < facts["loss"] < 100
    assert 0 < facts["largest_gradient"] < 100


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gradients_are_true_also_where_the_script_scales_by_itself(
    checked: Run, in_turn: Callable[[str], dict[str, Turn]], precision: str
) -> None:
    """Nothing is scaled twice, and nothing is left scaled."""
    facts = checked("tensorflow").facts if precision == "fp16" else in_turn("tensorflow")[precision].facts
    tapes = facts["tapes"]
    x, y = np.array(tapes["x"]), np.array(tapes["y"]).ravel()
    exact, bound = gradient_of_squares(x, y, np.ones(4), U[precision])
    for found in tapes["linear"]:
        assert (np.abs(np.array(found) - exact) <= bound + 4 * U["fp32"]).all()


def test_steps_inside_a_graph_are_recorded_one_by_one(checked: Run) -> None:
    facts, record = checked("tensorflow").facts["tapes"], checked("tensorflow").record
    three, two = facts["many"]
    losses = record.losses[-5:]
    assert losses[2] == pytest.approx(three, rel=1e-6)
    assert losses[4] == pytest.approx(two, rel=1e-6)
    assert len(set(losses)) == 5, "a line of its own for each step, although only two calls were made"
