"""Programs read the loss scaler that their framework makes for fp16, and find it under every recipe.

It rests: losses and gradients are true, so its scale is 1, and one half right after a step that was skipped.
"""

from __future__ import annotations

from itertools import product

import pytest

from .conftest import Ran, Runs

pytestmark = pytest.mark.slow

PROGRAM = "scalers.py"
#: case -> the scale that the program's scaler begins with
CASES = {
    "trainer": 65536.0,
    "subclass": 1024.0,
    "fabric": 65536.0,
    "accelerate": 1024.0,
    "transformers": 65536.0,
}
PACKAGES = {"trainer": "lightning", "subclass": "lightning", "fabric": "lightning"}


def told(ran: Ran) -> dict[str, str]:
    lines = ran.sections["alone"].splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


FP16 = "fp16:init_scale=1024"


@pytest.mark.parametrize(("recipe", "case"), [*product(("fp32", FP16), CASES), ("bf16", "subclass")])
def test_what_is_read_of_a_frameworks_scaler(ran: Runs, case: str, recipe: str) -> None:
    pytest.importorskip(PACKAGES.get(case, case))
    found = told(ran(PROGRAM, recipe, case))
    name = recipe.partition(":")[0]
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[name]
    assert found["out"] == f"torch.{dtype}"
    assert found["scaler"] == "[('GradScaler', False)]"
    third = 0.5 if name == "fp16" else 1.0
    assert found["scales"] == str([1.0, 1.0, third, 1.0, 1.0, 1.0])
    # One overflow and three finite steps, as PyTorch's own scaler would save them.
    assert found["saved"] == ("512.0 3" if name == "fp16" else f"{CASES[case]} 0")


def test_a_plugin_of_lightnings_stays_with_what_the_script_added(ran: Runs) -> None:
    pytest.importorskip("lightning")
    for recipe in ("fp32", FP16):
        assert told(ran(PROGRAM, recipe, "trainer"))["extra"] == "['MixedPrecision', None]"
        assert told(ran(PROGRAM, recipe, "subclass"))["extra"] == "['Own', 6]"


def test_accelerate_tells_which_step_was_skipped(ran: Runs) -> None:
    pytest.importorskip("accelerate")
    found = told(ran(PROGRAM, FP16, "accelerate"))
    assert found["extra"] == "[False, False, True, False, False, False]"
