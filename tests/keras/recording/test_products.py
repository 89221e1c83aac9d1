"""Products inside of loops: a recurrent layer's are counted as often as it turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..conftest import Turn


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_recurrent_layers_products_are_counted_at_every_turn(
    in_turn: Callable[[str], dict[str, Turn]], backend: str
) -> None:
    """Both kernels forward and their gradients at 5 turns, and that of the state; none for the input. B = 2, 4 gates."""
    rows, turns, units, features = 2, 5, 4, 3
    by_input, by_state = (2 * rows * turns * n * 4 * units for n in (features, units))
    last = 2 * rows * units
    flops = in_turn(backend)["recurrent"].record.sample["matmul_flops"]
    assert flops == {"bf16": 2 * by_input + 3 * by_state, "fp32": 3 * last}
