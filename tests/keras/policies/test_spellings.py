"""Whatever TensorFlow's names for it, a policy that the script sets yields to the recipe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..conftest import Turn


@pytest.mark.slow
def test_every_spelling_of_a_policy_yields_to_the_recipe(in_turn: Callable[[str], dict[str, Turn]]) -> None:
    turn = in_turn("tensorflow")["spellings"]
    assert len(turn.facts) == 10
    assert set(turn.facts.values()) == {"mixed_float16"}
    assert turn.record.own_amp == ["set_dtype_policy('mixed_bfloat16')", "LossScaleOptimizer"]
