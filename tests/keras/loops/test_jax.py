"""JAX loops of a script's own: jax.grad, and an optimizer's stateless_apply or apply."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfstep.record import read

from ...cli.running import halfstep
from ..conftest import LOOPS, Turn, environment, skip_without
from ..rounding import U, gradient_of_squares

pytestmark = pytest.mark.slow

Run = Callable[[str], dict[str, Turn]]
FP16 = LOOPS[-1]


@pytest.mark.parametrize("own", ["plain", "own"])
def test_a_step_that_overflows_changes_nothing_and_the_script_sees_no_scale_but_its_own(
    in_turn: Run, own: str
) -> None:
    facts = in_turn("jax")[f"loop-{FP16}"].facts[own]
    assert all(facts["unchanged_by_a_bad_step"]), "weights, slots and moving statistics"
    assert facts["unchanged_by_a_good_step"].count(True) == 1, "only the learning rate stays as it is"
    assert 0 < facts["loss"] < (100 * 1024 if own == "own" else 100)
    assert 0 < facts["largest_gradient"] < (100 * 1024 if own == "own" else 100)


@pytest.mark.parametrize("recipe", LOOPS)
def test_gradients_are_those_of_float64_within_the_rounding(in_turn: Run, recipe: str) -> None:
    facts = in_turn("jax")[f"loop-{recipe}"].facts
    x, y, w = (np.array(facts["data"][name]) for name in "xyw")
    exact, bound = gradient_of_squares(x, y, w, U[recipe.split(":")[0]])
    gradient, weights = map(np.array, facts["linear"])
    assert (np.abs(gradient - exact) <= bound + 4 * U["fp32"]).all()
    assert np.array_equal(weights, np.float32(w) - np.float32(gradient)), (
        "the very gradient that the script saw"
    )


@pytest.mark.parametrize("recipe", LOOPS)
def test_every_step_is_recorded_also_inside_a_scan(in_turn: Run, recipe: str) -> None:
    turn = in_turn("jax")[f"loop-{recipe}"]
    steps, losses = turn.record.steps, turn.record.losses
    assert losses[0] == pytest.approx(turn.facts["plain"]["loss"], rel=1e-6)
    assert not math.isfinite(float(steps[1]["loss"]))
    assert losses[3:6] == pytest.approx(turn.facts["scan"], rel=1e-6)
    assert [s["skipped"] for s in steps[:7]] == [False, recipe == FP16, *[False] * 5]
    if recipe == FP16:  # halved by the overflow, doubled after four finite steps
        assert [s["loss_scale"] for s in steps[:7]] == [1024, 1024, *[512] * 4, 1024]
        assert [s["loss_scale"] for s in steps[7:]] == [1024, 1024, 512], (
            "the script's own, which is the recipe's"
        )
    assert turn.record.sample["matmul_flops"][recipe.split(":")[0]] >= 2 * 2 * 16 * 4 * 8
    assert turn.record.sample["samples"] == 16


def test_gradients_that_no_optimizer_of_keras_takes_are_told_of(tmp_path: Path) -> None:
    skip_without("keras", "jax")
    script, record = tmp_path / "script.py", tmp_path / "record.jsonl"
    script.write_text("import keras, jax\njax.grad(lambda w: w * w)(1.0)\n")
    done = halfstep(
        "run", "--precision", "fp16", "--record", str(record), str(script), env=environment("jax")
    )
    sentence = (
        "ended without a step of an optimizer of Keras's: what else the gradients of jax.grad went into (optax, an "
        "update by hand) is neither guarded nor recorded; use an optimizer of Keras's, or compile and fit"
    )
    assert f"halfstep: the program {sentence}; precision fp16 was in force" in done.stderr
    assert read(record).end["reason"] == sentence
