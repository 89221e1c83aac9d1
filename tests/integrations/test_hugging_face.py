"""Accelerate loops and Transformers' Trainer run in the chosen precision, whatever they ask for themselves."""

from __future__ import annotations

import pytest

from .conftest import Ran, Runs, assert_close

pytest.importorskip("accelerate")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

PROGRAM = "hugging_face_loops.py"
OWN = ("no", "bf16", "double")
UNDER = {"fp32": "bf16", "bf16": "fp16", "fp16": "bf16"}


def test_as_is_prints_the_same(ran: Runs, plain: Ran) -> None:
    assert ran(PROGRAM, "as-is", *OWN).sections == plain.sections


def test_fp32_is_what_runs_without_flags(ran: Runs, plain: Ran) -> None:
    assert ran(PROGRAM, "fp32", UNDER["fp32"]).sections["alone"] == plain.sections["no"]


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_accelerated_sixteen_bits_stay_close_to_float64(ran: Runs, plain: Ran, recipe: str) -> None:
    losses = ran(PROGRAM, recipe, UNDER[recipe]).losses()
    assert_close(losses, plain.losses("double"), recipe, products=2, passes=2)


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_trainers_sixteen_bits_stay_close_to_float64(ran: Runs, plain: Ran, recipe: str) -> None:
    losses = ran(PROGRAM, recipe, UNDER[recipe]).losses(of=" of Trainer")
    assert_close(losses, plain.losses("double", " of Trainer"), recipe, products=2, passes=2)


def test_what_ran_is_what_was_asked_for(under: tuple[str, Ran]) -> None:
    recipe, ran = under
    assert ran.record.sample["matmul_flops"].keys() == {recipe}
    own = UNDER[recipe]
    assert ran.record.own_amp == [f"Accelerator(mixed_precision={own!r})", f"TrainingArguments({own}=True)"]
    assert (ran.record.takeover["clipping"], ran.record.takeover["passes"]) == ("norm", 2)


def test_prepared_models_give_float32_for_numpy(under: tuple[str, Ran]) -> None:
    assert "accelerated: torch.float32 " in under[1].sections["alone"]


def test_checkpoints_restore_and_resume(under: tuple[str, Ran]) -> None:
    assert "restored True\n" in under[1].sections["alone"]
    assert "resumed the same: True\n" in under[1].sections["alone"]


@pytest.mark.long
def test_weights_with_a_remainder_come_back_from_checkpoints(ran: Runs) -> None:
    found = ran(PROGRAM, "bf16-lean", UNDER["bf16"])
    assert "restored True\n" in found.sections["alone"]
    assert "resumed the same: True\n" in found.sections["alone"]
    assert found.record.stored is not None
    assert "remainder16" in found.record.stored.weights


def test_a_bad_step_changes_nothing_and_the_script_is_told(ran: Runs, plain: Ran) -> None:
    told = "a bad step changed []\nits learning rate stays True True\n"
    assert told in ran(PROGRAM, "fp16", UNDER["fp16"]).sections["alone"]
    assert told not in plain.sections["no"]


def test_a_bad_step_of_trainer_changes_nothing(ran: Runs, plain: Ran) -> None:
    """Nor the learning rate, which its schedule would have moved."""
    told = ran(PROGRAM, "fp16", UNDER["fp16"]).sections["alone"]
    assert "a bad step of Trainer changed []\n" in told
    assert "a bad step of Trainer changed ['net.0.weight', " in plain.sections["no"]


def test_logged_figures_are_in_the_record(ran: Runs) -> None:
    found = ran(PROGRAM, "fp32", UNDER["fp32"])
    logged = found.record.logged
    assert {"epoch_loss", "loss", "grad_norm", "learning_rate", "eval_loss"} <= logged.keys()
    assert "epoch" not in logged
    assert [value for _, value in logged["epoch_loss"][:3]] == pytest.approx(found.losses()[7::8], rel=1e-8)
    printed = [line for line in found.sections["alone"].splitlines() if line.startswith("eval_loss ")]
    values = [float(line.split()[1]) for line in printed]
    assert [value for _, value in logged["eval_loss"]] == pytest.approx(values, rel=1e-8)
