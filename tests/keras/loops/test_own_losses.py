"""Losses are recorded of training that tells Keras of none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..conftest import BACKENDS, Turn

pytestmark = pytest.mark.slow

Run = Callable[[str], dict[str, Turn]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_a_train_step_that_has_its_own_word_for_it(in_turn: Run, backend: str) -> None:
    turn = in_turn(backend)["own losses"]
    assert turn.record.losses == pytest.approx(turn.facts, rel=1e-6)
    assert len(turn.facts) == 3


def test_of_a_model_that_torch_optim_trains(in_turn: Run) -> None:
    turn = in_turn("torch")["torch.optim"]
    assert turn.record.losses == pytest.approx(turn.facts["losses"], rel=1e-6)
    assert set(turn.facts["dtypes"]) == {"torch.float32"}, "logits, loss and weights"
    assert turn.facts["computed"] == ["bfloat16", "float32"]
    assert turn.record.sample["matmul_flops"] == {"bf16": 2 * 2 * 16 * 8 * 4, "fp32": 3 * 2 * 16 * 4 * 4}
    assert not turn.record.region, "the precision is in the layers, and the loss is not"
