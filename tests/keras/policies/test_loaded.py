"""A model goes on from its file in another precision: the recipe's policy, the weights and the slots that were saved."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from ..conftest import BACKENDS, GOING_ON, Turn

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", BACKENDS)]

Run = Callable[[str], dict[str, Turn]]
POLICIES = {"fp32": "float32", "fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def test_every_precision_goes_on_with_the_weights_and_slots_of_the_one_before(
    in_turn: Run, backend: str
) -> None:
    runs = [in_turn(backend)[f"{index}-{recipe}"] for index, recipe in enumerate(GOING_ON)]
    for before, after in pairwise(runs):
        assert after.facts["found"] == before.facts["left"]
        assert after.facts["found in HDF5"] == before.facts["left"][:6], (
            "the weights: of slots Keras restores none"
        )
    iterations = [run.facts["left"][6] for run in runs]  # after three kernels and three biases
    assert iterations == [3, 6, 9, 12], "no step was skipped, and each goes on counting"


def test_the_recipes_policy_wins_over_the_files_and_a_layers_own_stays(in_turn: Run, backend: str) -> None:
    for index, recipe in enumerate(GOING_ON):
        run, recipe = in_turn(backend)[f"{index}-{recipe}"], recipe.split(":")[0]
        # A file of float32 does not tell which of its layers were meant to stay there.
        head = "float32" if index == 0 or "fp32" in recipe else POLICIES[recipe]
        assert run.facts["policies"] == {"hidden": POLICIES[recipe], "more": POLICIES[recipe], "head": head}
        if (backend, recipe) != (
            "torch",
            "fp16",
        ):  # there Keras itself computes a small product in fp32 on a CPU
            assert recipe in run.record.sample["matmul_flops"]
