"""Lines to adopt, pasted into a script that runs without halfstep's precision, run what the trial ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halfstep.comparison.advice.adopt import OWN_WORDS, Script, adopt

from .adopted import frameworks
from .conftest import BACKENDS, LOOPS, Turn

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


def test_fp16_in_a_loop_without_a_tape_is_halfsteps_whose_scale_it_needs(
    in_turn: Callable[[str], dict[str, Turn]],
) -> None:
    takeover = in_turn("jax")[f"loop-{LOOPS[-1]}"].record.takeover
    script = Script.of(takeover)
    assert script == Script("keras", loop=True)
    assert (
        adopt("fp16", script) == 'import halfstep; halfstep.enable("fp16")   # the first line of the script'
    )
    assert "mixed_bfloat16" in adopt("bf16", script)
