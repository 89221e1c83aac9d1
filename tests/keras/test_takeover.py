"""fp16 in Keras on each backend: what the program sees of itself, against exact arithmetic and against its record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .conftest import BACKENDS, Checked
from .rounding import U, gradient_of_squares

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", BACKENDS)]

Run = Callable[[str], Checked]


def test_the_policy_is_the_recipes_whatever_the_script_sets(checked: Run, backend: str) -> None:
    facts, record = checked(backend).facts, checked(backend).record
    assert facts["policy"] == facts["policy_after_the_scripts_own"] == "mixed_float16"
    assert record.own_amp == [
        "set_dtype_policy('mixed_bfloat16')",
        *(["LossScaleOptimizer"] if backend != "jax" else []),
    ]
    assert record.takeover["framework"] in ("keras", "tensorflow")
    assert record.takeover["backend"] == backend


def test_layers_of_another_dtype_keep_it_and_so_do_those_that_the_user_names(
    checked: Run, backend: str
) -> None:
    dtypes = checked(backend).facts["dtypes"]
    assert dtypes == {
        "dense": ["float16", "float32"],
        "batch_normalization": ["float16", "float32"],
        "kept_layer": ["float32", "float32"],
        "own_dtype": ["float32", "float32"],
    }


@pytest.mark.parametrize("which", ["one_step", "one_step_own"])
def test_one_step_is_that_of_float64_within_the_rounding_of_fp16(
    checked: Run, backend: str, which: str
) -> None:
    """Also for a train_step that knows nothing of loss scales, in which Keras would divide true gradients by one."""
    facts = checked(backend).facts
    x, y, w = (np.array(facts["data"][name]) for name in "xyw")
    gradient, bound = gradient_of_squares(x, y, w, U["fp16"])
    exact = w - gradient
    assert (np.abs(np.array(facts[which]) - exact) <= bound + 2 * U["fp32"] * np.abs(exact)).all()


def test_a_step_that_overflows_changes_nothing_and_is_counted(checked: Run, backend: str) -> None:
    facts, record = checked(backend).facts, checked(backend).record
    assert facts["optimizer"] == ["Adam", True, 0.999, 0.5], (
        "as the script compiled it, and what it sets is set"
    )
    assert all(facts["unchanged_by_a_bad_step"]), "weights, slots and moving statistics"
    assert facts["unchanged_by_a_good_step"].count(True) == 1, "only the learning rate stays as it is"
    assert [step["skipped"] for step in record.steps[:10]] == [False] * 8 + [True, False]
    assert record.end["skipped_steps"] == sum(step["skipped"] for step in record.steps)


def test_the_scale_grows_and_falls_as_the_recipe_says(checked: Run, backend: str) -> None:
    facts, record = checked(backend).facts, checked(backend).record
    scales = [step["loss_scale"] for step in record.steps[:10]]
    assert scales == [1024] * 4 + [2048] * 4 + [4096, 2048]
    assert (facts["scale_after_fit"], facts["scale_after_a_bad_step"]) == (4096, 2048)


def test_the_losses_are_those_of_the_steps_and_the_metrics_are_logged(checked: Run, backend: str) -> None:
    """Keras's loss of an epoch is the mean over its steps, whose loss the script never sees scaled."""
    facts, record = checked(backend).facts, checked(backend).record
    history = facts["history"]
    epochs = np.array(record.losses[:8]).reshape(2, 4).mean(axis=1)
    np.testing.assert_allclose(epochs, history["loss"], rtol=1e-6)
    for name in ("loss", "mae", "val_loss", "val_mae"):
        assert record.logged[name] == [(4, history[name][0]), (8, history[name][1])]


def test_what_ran_is_counted(checked: Run, backend: str) -> None:
    """4 rows a step: the first layer (4 x 8, no gradient for its input) in fp16, the two that are kept in fp32."""
    record = checked(backend).record
    first, kept, last = 2 * 4 * 4 * 8, 2 * 4 * 8 * 8, 2 * 4 * 8
    flops = record.sample["matmul_flops"]
    assert sum(flops.values()) == 2 * first + 3 * kept + 3 * last
    assert flops["fp16"] == 2 * first
    assert record.sample["samples"] == 4
    assert record.steps[1]["sampled"]


def test_memory_is_that_of_the_variables(checked: Run, backend: str) -> None:
    memory = checked(backend).record.sample["memory"]
    trained = 4 * 8 + 8 + 8 + 8 + 8 * 8 + 8 + 8 + 1
    assert memory["gradients"] == 4 * trained
    assert memory["weights"] == 4 * (trained + 2 * 8)
    slots = 2 * 4 * trained
    assert slots <= memory["optimizer"] <= slots + 64, "Adam's two moments, and a few counters"
