"""What halfstep replaces can be called by the names of arguments that Keras, TensorFlow and JAX give it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import BACKENDS, Turn


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("recipe", "scale"), [("fp16", 2.0**16), ("bf16", 2.0**15)])
def test_every_replacement_takes_the_arguments_of_what_it_replaces(
    in_turn: Callable[[str], dict[str, Turn]], backend: str, recipe: str, scale: float
) -> None:
    facts = in_turn(backend)[f"keywords-{recipe}"].facts
    assert facts["names"] == []
    assert (facts["scale"], facts["input"], facts["layer"]) == (scale, "float32", 1 + 1 + 2 + 3)
    assert facts.get("function", 6) == 2 * 3
    assert facts.get("stateless", [1, 0.5]) == [1, 1 - 0.5 * 1], (
        "ones times a kernel of ones; a step of SGD by its weights"
    )
