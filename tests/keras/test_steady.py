"""bf16, with and without options, on each backend: close to float64 within a bound; scalers of the script's own rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .conftest import BACKENDS, STEADY, Turn
from .rounding import U, gradient_of_squares

pytestmark = [pytest.mark.long, pytest.mark.parametrize("backend", BACKENDS)]

Run = Callable[[str], dict[str, Turn]]


@pytest.mark.parametrize("recipe", STEADY)
def test_one_step_is_that_of_float64_within_the_rounding(in_turn: Run, backend: str, recipe: str) -> None:
    facts = in_turn(backend)[recipe].facts
    assert facts["policy"] == "mixed_bfloat16"
    x, y, w = (np.array(facts["data"][name]) for name in "xyw")
    gradient, bound = gradient_of_squares(x, y, w, U["fp32" if "keep" in recipe else "bf16"])
    exact = w - gradient
    for how, found in facts["one_step"].items():
        off = np.abs(np.array(found) - exact)
        assert (off <= bound + 2 * U["fp32"] * np.abs(exact)).all(), how
    if "keep" not in recipe:
        assert (off > 4 * U["fp32"] * np.abs(exact)).any(), "it is not fp32 that ran"


def test_a_scaler_of_the_scripts_own_rests_where_the_recipe_has_no_scale(in_turn: Run, backend: str) -> None:
    turn = in_turn(backend)["bf16"]
    assert turn.facts["scale"] == 2.0**40, "never moved, never used"
    assert {step.get("loss_scale", 1) for step in turn.record.steps} == {1}
    assert "LossScaleOptimizer" in turn.record.own_amp


def test_a_static_scale_is_the_recipes_for_every_scaler(in_turn: Run, backend: str) -> None:
    turn = in_turn(backend)["bf16:loss_scale=1024"]
    assert {step.get("loss_scale", 1) for step in turn.record.steps} == {1024}
    assert turn.facts["scale"] == 1024


def test_layers_that_are_kept_run_in_fp32(in_turn: Run, backend: str) -> None:
    assert set(in_turn(backend)["bf16:keep=dense*"].record.sample["matmul_flops"]) == {"fp32"}
    assert set(in_turn(backend)["bf16"].record.sample["matmul_flops"]) == {"bf16"}


def test_bad_steps_are_skipped_where_that_is_asked_for(in_turn: Run, backend: str) -> None:
    guarded, plain = in_turn(backend)["bf16:skip_nonfinite"], in_turn(backend)["bf16"]
    assert guarded.facts["unchanged_by_a_bad_step"]
    assert not plain.facts["unchanged_by_a_bad_step"]
    assert [sum(step["skipped"] for step in turn.record.steps) for turn in (guarded, plain)] == [1, 0]
    assert {step.get("loss_scale", 1) for step in guarded.record.steps} == {1}
