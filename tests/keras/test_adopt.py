"""Lines to adopt, pasted into a script that runs without halfstep's precision, run what the trial ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halfstep.comparison.adopt import OWN_WORDS

from .adopted import frameworks
from .conftest import BACKENDS, Turn

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backend", BACKENDS)
def test_adopted_lines_run_the_dtypes_of_the_trial(
    in_turn: Callable[[str], dict[str, Turn]], backend: str
) -> None:
    found = in_turn(backend)
    for framework in frameworks(backend):
        for recipe in OWN_WORDS[framework]:
            trial, adopted = (found[f"{framework}-{recipe}{how}"].record for how in ("", "-adopted"))
            assert trial.takeover["framework"] == adopted.takeover["framework"] == framework
            assert trial.sample["matmul_flops"] == adopted.sample["matmul_flops"], recipe
            assert recipe.removesuffix("-true") in trial.sample["matmul_flops"], recipe
            scaled = {step.get("loss_scale", 1) > 1 for step in adopted.steps}
            assert scaled == {recipe == "fp16"}, "fp16 is adopted with its loss scale"
