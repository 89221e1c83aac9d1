"""A profiled step of real training, and a script that uses the profiler itself."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from halfstep.pytorch.profile import Profile


def profiled(step) -> dict:
    profile = Profile()
    profile.begin()
    step()
    return profile.end()


def test_products_take_the_time_of_a_step_of_products() -> None:
    a = torch.randn(700, 700)
    seen = profiled(lambda: [a @ a for _ in range(5)])
    assert seen["time_shares"]["products"] > 0.9
    assert sum(seen["time_shares"].values()) == pytest.approx(1)
    assert seen["profiled"]["operations"] == 5
    assert seen["profiled"]["device"] == "cpu"


def test_sleeping_is_the_hosts_time() -> None:
    seen = profiled(lambda: (time.sleep(0.2), torch.ones(3) + 1))
    assert seen["time_shares"]["host"] > 0.9
    assert seen["profiled"]["seconds"] >= 0.2


def test_loading_data_is_told_from_training() -> None:
    class Slow(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> torch.Tensor:
            time.sleep(0.2)
            return torch.ones(4)

    seen = profiled(lambda: [x * 2 for x in DataLoader(Slow())])
    assert seen["time_shares"]["data"] > 0.8


def test_an_optimizers_step_and_casts_are_told_apart() -> None:
    model = nn.Linear(1500, 1500)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(2, 1500)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).square().mean()
        loss.backward()
        optimizer.step()

    step()
    shares = profiled(step)["time_shares"]
    assert {"products", "casts", "optimizer", "other"} <= set(shares)
    assert shares["optimizer"] > shares["casts"] > 0.005


def test_a_profiler_of_the_scripts_own_is_left_alone() -> None:
    with torch.profiler.profile() as own:
        seen = profiled(lambda: torch.ones(2).sin())
    assert seen == {"time_shares_absent": "the script's own profiler was running"}
    assert "aten::sin" in {event.key for event in own.key_averages()}


def test_a_profiler_that_the_script_starts_in_the_step_wins(capfd: pytest.CaptureFixture[str]) -> None:
    profile = Profile()
    profile.begin()
    with torch.profiler.profile() as own:
        torch.ones(2).cos()
    assert profile.end() == {"time_shares_absent": "the script started a profiler of its own in the step"}
    assert "aten::cos" in {event.key for event in own.key_averages()}
    assert profiled(lambda: torch.ones(2).sin())["profiled"]["operations"] > 0  # and all is as it was


def test_nothing_is_said_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    profiled(lambda: torch.ones(2).sin())
    assert capfd.readouterr() == ("", "")
