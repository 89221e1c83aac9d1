"""Of several frameworks that a program imports, the one that trains gives a run its words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from halfstep.session.frameworks import Frameworks

TORCH, KERAS = 0, 1


@pytest.mark.parametrize(
    ("steps", "in_use", "trains"),
    [
        ((3, 0), (True, True), TORCH),
        ((0, 3), (True, True), KERAS),
        ((0, 0), (True, False), TORCH),  # TensorBoard has imported TensorFlow, and Keras with it
        ((0, 0), (True, True), KERAS),  # torch came on the way to keras
    ],
)
def test_the_framework_that_trains(steps: tuple[int, int], in_use: tuple[bool, bool], trains: int) -> None:
    takeovers = [SimpleNamespace(steps=s, in_use=u) for s, u in zip(steps, in_use, strict=True)]
    frameworks = Frameworks.__new__(Frameworks)
    frameworks.takeovers = takeovers  # type: ignore[assignment]
    assert frameworks.training is takeovers[trains]
