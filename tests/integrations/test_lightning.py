"""A Lightning script with a Trainer of any precision runs in the chosen one."""

from __future__ import annotations

import pytest
import torch

from .conftest import Ran, Runs, assert_close

pytest.importorskip("lightning")
pytestmark = pytest.mark.slow

PROGRAM = "lightning_loops.py"
OWN = ("32-true", "bf16-mixed", "64-true")
UNDER = {"fp32": "bf16-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def test_as_is_prints_the_same(ran: Runs, plain: Ran) -> None:
    assert ran(PROGRAM, "as-is", *OWN).sections == plain.sections


def test_fp32_is_what_a_trainer_without_a_precision_runs(ran: Runs, plain: Ran) -> None:
    assert ran(PROGRAM, "fp32", UNDER["fp32"]).sections["alone"] == plain.sections["32-true"]


#: losses printed -> (products in a pass, passes a step, how many of them): what bounds them
BOUNDED = {
    "": (2, 2, 32),  # clipped by norm, two batches a step
    " in 3 epochs clipped by value": (2, 1, 48),
    # Softplus moves by no more than its argument; two of them are bounded like a squared error of size 1, and the
    # generator's loss goes through three products.
    " of two optimizers:": (3, 1, 64),
    # Two steps of four evaluations. Later its curvature, a quotient of differences between batches, decides: a
    # difference in the last bit may turn a direction round, in any precision.
    " of LBFGS:": (2, 1, 8),
}


@pytest.mark.parametrize("of", BOUNDED)
@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_sixteen_bits_stay_close_to_float64(ran: Runs, plain: Ran, recipe: str, of: str) -> None:
    products, passes, many = BOUNDED[of]
    losses, exact = ran(PROGRAM, recipe, UNDER[recipe]).losses(of=of), plain.losses("64-true", of)
    assert len(losses) >= many
    assert_close(losses[:many], exact[:many], recipe, products, passes)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(under: tuple[str, Ran], plain: Ran) -> None:
    """To the bit: weights, Adam's moments, the learning rate and the loss scale come back."""
    for run, section in ((under[1], "alone"), (plain, "32-true")):
        whole = run.losses(section, " in 3 epochs clipped by value")
        assert run.losses(section, " in 2 epochs clipped by value") == whole[:32]
        assert run.losses(section, " resumed") == whole[32:]


@pytest.mark.long
def test_weights_with_a_remainder_come_back_from_a_checkpoint(ran: Runs) -> None:
    run = ran(PROGRAM, "bf16-lean", UNDER["bf16"])
    whole = run.losses("alone", " in 3 epochs clipped by value")
    assert run.losses("alone", " in 2 epochs clipped by value") == whole[:32]
    assert run.losses("alone", " resumed") == whole[32:]
    assert run.record.stored is not None
    assert "remainder16" in run.record.stored.weights


def test_what_ran_is_what_was_asked_for(under: tuple[str, Ran]) -> None:
    recipe, ran = under
    dtype = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}[recipe]
    for what in ("clipped by norm, accumulated:", "resumed:", "LBFGS:"):
        assert f"{what} {dtype} " in ran.sections["alone"]
    assert ran.record.sample["matmul_flops"].keys() == {recipe}
    assert ran.record.own_amp == [f"Trainer(precision={UNDER[recipe]!r})"]
    assert ran.record.takeover["framework"] == "lightning"
    assert (ran.record.takeover["clipping"], ran.record.takeover["passes"]) == ("norm", 2)


def test_a_bad_step_changes_nothing_where_the_loss_is_scaled(ran: Runs, plain: Ran) -> None:
    told = ran(PROGRAM, "fp16", UNDER["fp16"]).sections["alone"]
    for how, first in (("", "net.0.weight"), (" by hand", "0.weight")):
        assert f"a bad step{how} changed []\n" in told
        assert f"a bad step{how} changed ['{first}', " in plain.sections["32-true"]


def test_logged_figures_are_in_the_record(ran: Runs) -> None:
    found = ran(PROGRAM, "fp32", UNDER["fp32"])
    logged = found.record.logged
    assert {"train_loss", "val_loss", "d_loss", "g_loss"} <= logged.keys()
    # 2 epochs of 16 batches, 2 a step, logged at every 4th step: batches 8, 16, 24 and 32.
    steps = [step for step, _ in logged["train_loss"][:4]]
    values = [value for _, value in logged["train_loss"][:4]]
    assert steps == [4, 8, 12, 16]
    assert values == pytest.approx([found.losses()[i] for i in (7, 15, 23, 31)], rel=1e-8)
    assert [step for step, _ in logged["val_loss"][:2]] == [8, 16]


def test_the_loss_scale_rides_in_lightnings_checkpoint(ran: Runs) -> None:
    found = ran(PROGRAM, "fp16", UNDER["fp16"])
    checkpoint = torch.load(found.folder / "half.ckpt", weights_only=False)
    state = checkpoint["optimizer_states"][0]["halfstep"]
    assert state["loss_scale"] >= 1
    assert state["loss_scale"] == 2.0 ** round(torch.tensor(state["loss_scale"]).log2().item())
