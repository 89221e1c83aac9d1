"""A profiled step of real training, and a script that uses the profiler itself."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.autograd import profiler as autograd_profiler
from torch.utils.data import DataLoader

from halfstep.pytorch.recording.profile import NO_KERNELS, Profile, read

from ..no_looks import NoLooks


def profiled(step) -> dict:
    profile = Profile(NoLooks())
    profile.begin()
    profile.next_step()
    step()
    return profile.end()


def test_products_take_the_time_of_a_step_of_products() -> None:
    a = torch.randn(700, 700)
    seen = profiled(lambda: [a @ a for _ in range(5)])
    assert set(seen["time_shares"]) == {"products", "host"}
    assert seen["time_shares"]["products"] > 0
    assert sum(seen["time_shares"].values()) == pytest.approx(1)
    assert seen["profiled"]["operations"] == 5
    assert seen["profiled"]["device"] == "cpu"


def test_without_a_gpus_kernels_the_hosts_time_is_not_taken_for_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    asked: dict = {}
    real = autograd_profiler.profile

    def on_a_cpu(**options: object) -> object:
        asked.update(options)
        return real(**{**options, "use_device": None})

    monkeypatch.setattr(autograd_profiler, "profile", on_a_cpu)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    seen = profiled(lambda: torch.ones(3) @ torch.ones(3))
    # Without Kineto, which is the default of this class, PyTorch records no kernel.
    assert (asked["use_device"], asked["use_kineto"]) == ("cuda", True)
    assert seen["time_shares_absent"] == NO_KERNELS
    assert "time_shares" not in seen


def test_sleeping_is_the_hosts_time() -> None:
    seen = profiled(lambda: (time.sleep(0.2), torch.ones(3) + 1))
    # A sleep lasts at least as long as was asked for, whatever else the machine does.
    assert seen["time_shares"]["host"] * seen["profiled"]["seconds"] >= 0.2


def test_loading_data_is_told_from_training() -> None:
    class Slow(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> torch.Tensor:
            time.sleep(0.2)
            return torch.ones(4)

    seen = profiled(lambda: [x * 2 for x in DataLoader(Slow())])
    assert seen["time_shares"]["data"] * seen["profiled"]["seconds"] >= 0.2


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
    assert all(share > 0 for share in shares.values())


def test_a_profiler_of_the_scripts_own_is_left_alone() -> None:
    with torch.profiler.profile() as own:
        seen = profiled(lambda: torch.ones(2).sin())
    reason = "the script's own profiler was running"
    assert seen == {"absent": reason, "time_shares_absent": reason}
    assert "aten::sin" in {event.key for event in own.key_averages()}


def test_a_profiler_that_the_script_starts_in_the_step_wins(capfd: pytest.CaptureFixture[str]) -> None:
    profile = Profile(NoLooks())
    profile.begin()
    profile.next_step()
    with torch.profiler.profile() as own:
        torch.ones(2).cos()
    fields = profile.end()
    assert fields["matmul_flops"] == {}
    assert fields["time_shares_absent"] == "the script started a profiler of its own in the step"
    assert "aten::cos" in {event.key for event in own.key_averages()}
    assert profiled(lambda: torch.ones(2).sin())["profiled"]["operations"] > 0  # and all is as it was


PROFILED = """
import torch
from halfstep.takeover.looks import Looks
from halfstep.pytorch.recording.profile import Profile
profile = Profile(Looks(print))
profile.begin()
profile.next_step()
torch.ones(2).sin()
assert profile.end()["profiled"]["operations"] > 0
"""


def test_nothing_is_said_on_stderr() -> None:
    """In a process of its own: whoever uses the profiler first decides what Kineto says in all that follow."""
    done = subprocess.run([sys.executable, "-c", PROFILED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


LEFT_ALONE = """
import torch
from halfstep.takeover.looks import Looks
from halfstep.pytorch.recording.profile import Profile
profile = Profile(Looks(print))
profile.begin()
torch.ones(2).sin()
"""


def test_a_profiler_that_nobody_ends_ends_with_the_program() -> None:
    """It is stopped while PyTorch is still there: later its observers are called where there are none."""
    done = subprocess.run([sys.executable, "-c", LEFT_ALONE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Kineto:
    """An event as the profiler gives it on a machine with a GPU; times in ns."""

    def __init__(
        self, name: str, start: int, end: int, thread: int = 1, own: int = 0, launched_by: int = 0
    ) -> None:
        self._fields = (name, start, end, thread, own, launched_by)

    def name(self) -> str:
        return self._fields[0]

    def start_ns(self) -> int:
        return self._fields[1]

    def end_ns(self) -> int:
        return self._fields[2]

    def start_thread_id(self) -> int:
        return self._fields[3]

    def correlation_id(self) -> int:
        return self._fields[4]

    def linked_correlation_id(self) -> int:
        return self._fields[5]

    def is_user_annotation(self) -> bool:
        return self.name().startswith("Optimizer.")

    def device_type(self) -> object:
        kinds = torch._C._autograd.DeviceType
        return kinds.CUDA if self._fields[5] or self._fields[3] == 0 else kinds.CPU


def test_a_gpus_kernels_are_told_by_the_operation_that_launched_them_in_any_thread() -> None:
    """Backward runs in a thread of autograd's own; the GPU repeats annotations, which are no work."""
    events = [
        Kineto("halfstep: step begins", 0, 10),
        Kineto("aten::addmm", 20, 40, own=5),
        Kineto("aten::layer_norm", 40, 60, own=6),
        Kineto("aten::_to_copy", 60, 70, own=7),
        Kineto("aten::copy_", 62, 68, own=8),
        Kineto("aten::mm", 80, 90, thread=2, own=9),
        Kineto("Optimizer.step#AdamW.step", 100, 200),
        Kineto("aten::_foreach_add_", 110, 120, own=10),
        Kineto("halfstep: step ends", 510, 520),
        Kineto("gemm", 50, 150, thread=0, launched_by=5),
        Kineto("norm", 150, 200, thread=0, launched_by=6),
        Kineto("cast", 200, 210, thread=0, launched_by=8),
        Kineto("gemm", 210, 310, thread=0, launched_by=9),
        Kineto("adam", 310, 390, thread=0, launched_by=10),
        Kineto("Optimizer.step#AdamW.step", 310, 390, thread=0),
    ]
    seen = read(events)
    busy = {"products": 200, "other": 50, "casts": 10, "optimizer": 80}
    expected = {kind: time_ / 500 for kind, time_ in busy.items()} | {"host": (500 - 340) / 500}
    assert seen["time_shares"] == pytest.approx(expected)
    assert seen["profiled"] == {
        "seconds": 500e-9,
        "device": "cuda",
        "operations": 5,
        "median_operation_seconds": 80e-9,
    }


def test_a_profile_without_its_marks_is_absent() -> None:
    assert read([Kineto("aten::mm", 0, 1)]) == {
        "time_shares_absent": "the profiler lost the marks of the step"
    }
