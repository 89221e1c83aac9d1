"""Lightning under its old name, Fabric, and a compiled model in Lightning's Trainer, in the chosen precision."""

from __future__ import annotations

import shutil

import pytest

from .conftest import Runs, assert_close

pytest.importorskip("lightning")
pytest.importorskip("pytorch_lightning")
pytestmark = pytest.mark.long

PROGRAM = "lightning_corners.py"
#: no step is skipped to find the scale, so that float64 makes the same steps
RECIPES = {"bf16": "bf16", "fp16": "fp16:init_scale=1024"}


EVERY = [(case, recipe) for case in ("old-name", "fabric") for recipe in ("bf16", "fp16")]


@pytest.mark.parametrize(
    ("case", "recipe"),
    [
        *EVERY,
        pytest.param(
            *("compiled", "fp16"),
            marks=pytest.mark.skipif(
                shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"
            ),
        ),
    ],
)
def test_the_recipe_runs_and_stays_close_to_float64(ran: Runs, case: str, recipe: str) -> None:
    found, exact = ran(PROGRAM, RECIPES[recipe], case), ran(PROGRAM, None, "old-name-double")
    assert found.record.sample["matmul_flops"].keys() == {recipe}
    assert_close(found.losses(), exact.losses(), recipe, products=2, passes=1)


def test_a_trainer_that_asks_for_float64_has_it(ran: Runs) -> None:
    """Under a recipe as under python, to the bit."""
    found, exact = ran(PROGRAM, "bf16", "old-name-double"), ran(PROGRAM, None, "old-name-double")
    assert found.losses() == exact.losses()
    assert found.record.sample["matmul_flops"].keys() == {"fp64"}


@pytest.mark.parametrize("case", ["old-name", "fabric"])
def test_the_record_tells_the_framework_its_flag_and_its_figures(ran: Runs, case: str) -> None:
    found = ran(PROGRAM, RECIPES["fp16"], case)
    framework, what, steps = {
        "old-name": ("lightning", "Trainer", [4, 8, 12, 16]),
        "fabric": ("fabric", "Fabric", list(range(1, 17))),
    }[case]
    assert found.record.takeover["framework"] == framework
    assert (found.record.takeover["clipping"], found.record.takeover["passes"]) == ("norm", 1)
    assert found.record.own_amp == [f"{what}(precision='bf16-mixed')"]
    logged = found.record.logged["train_loss"]
    assert [step for step, _ in logged] == steps
    assert [value for _, value in logged] == pytest.approx([found.losses()[s - 1] for s in steps], rel=1e-8)


def test_what_fabric_has_set_up_gives_float32_and_a_bad_step_changes_nothing(ran: Runs) -> None:
    for recipe, bad in (("fp16", "a bad step changed []\n"), ("bf16", "a bad step changed ['0.weight', ")):
        told = ran(PROGRAM, RECIPES[recipe], "fabric").sections["alone"]
        assert "out torch.float32\n" in told
        assert "under a plugin of the script's own torch.float32\n" in told
        assert bad in told


def test_as_is_is_pythons(ran: Runs) -> None:
    assert ran(PROGRAM, "as-is", "fabric").sections == ran(PROGRAM, None, "fabric").sections
