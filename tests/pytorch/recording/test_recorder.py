"""What recording reads off the device, and when: nothing before it has arrived."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from halfstep.pytorch.recording.arriving import CudaClock, Pending
from halfstep.pytorch.recording.recorder import Recorder
from halfstep.pytorch.watching.nan_origin import NanOrigin
from halfstep.record import Writer, read
from halfstep.takeover.base import PROFILED_STEP

from ..no_looks import NoLooks
from ..played_device import Device, Event, Graph, Reads, Stream


def reads_of_a_step(steps: int = 3) -> list[int]:
    """Reads of each of the steps after the ones that are looked at, by whatever is in force."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    counts = []
    for index in range(PROFILED_STEP + 1 + steps):
        with Reads() as reads:
            optimizer.zero_grad()
            net(torch.ones(2, 4)).float().square().mean().backward()
            optimizer.step()
        if index > PROFILED_STEP:
            counts.append(reads.count)
    return counts


@pytest.mark.parametrize("precision", ["as-is", "fp32", "bf16", "fp16"])
def test_recording_reads_the_loss_and_nothing_else(
    begin, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU twice per step: before the backward pass, whether it is finite, and for the line.

    What halfstep reads is hidden from the modes of a program; here a mode is to see it.
    """
    monkeypatch.setattr("halfstep.pytorch.unseen.unseen", contextlib.nullcontext)
    plain = begin(precision)
    own = reads_of_a_step()
    plain.remove()
    begin(precision, Writer(tmp_path / "record.jsonl"))
    assert reads_of_a_step() == [reads + 2 for reads in own]


def test_steps_of_the_next_fold_count_where_python_still_holds_the_last_ones_optimizer(begin) -> None:
    """A learning-rate scheduler refers back to its optimizer: such rings live until Python looks for them."""
    takeover = begin("fp32")
    gc.disable()
    try:
        for _ in range(3):
            weight = nn.Parameter(torch.ones(2))
            optimizer = torch.optim.SGD([weight], lr=0.1)
            optimizer.ring = optimizer
            for _ in range(2):
                weight.sum().backward()
                optimizer.step()
    finally:
        gc.enable()
    assert takeover.steps == 6


def test_threads_that_each_train_a_model_make_their_steps_side_by_side(begin, tmp_path: Path) -> None:
    """The one that ends first leaves the other's last step uncounted; a step has its own thread's loss."""
    losses: dict[str, list[float]] = {"first": [], "second": []}
    both = threading.Barrier(2)

    def train(name: str, size: float, steps: int, before_last: Callable[[], object]) -> None:
        net = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for step in range(steps):
            if step == 7:
                before_last()
            loss = net(torch.full((4, 2), size)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            losses[name].append(loss.item())
            if step < 7:
                both.wait()  # no pass of the one is over before the other's
            if name == "second" and step == 0:
                stepped.wait()
            optimizer.step()
            stepped.set()

    takeover = begin("fp32", Writer(tmp_path / "record"))
    stepped = threading.Event()
    first = threading.Thread(target=train, args=("first", 1.0, 8, lambda: None))
    second = threading.Thread(target=train, args=("second", 2.0, 10, first.join))
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join()
    takeover.close()
    assert takeover.steps == 10
    assert read(tmp_path / "record").losses == [*losses["first"], *losses["second"][8:]]


@pytest.mark.parametrize("precision", ["as-is", "fp32", "bf16", "fp16"])
def test_a_complex_output_is_no_loss(begin, tmp_path: Path, precision: str) -> None:
    """A pass may start from one, if it is given a gradient."""
    takeover = begin(precision, Writer(tmp_path / "record.jsonl"))
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    (weight.sum() * 2).backward(torch.tensor(1 + 0j))
    optimizer.step()
    takeover.close()
    steps = [event for event in written(tmp_path / "record.jsonl") if event["event"] == "step"]
    assert [(step["loss"], step["skipped"]) for step in steps] == [(None, False)]
    assert weight.tolist() == [0j] * 3


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Launches(TorchDispatchMode):
    """What is launched on a GPU: operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if name not in ("detach", "view", "empty", "reshape", "alias"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def train(recorder: Recorder, losses: list[float]) -> None:
    for loss in losses:
        recorder.backward([torch.tensor(loss).as_subclass(Device)])
        recorder.step(False, 1.0)


def test_a_gpus_losses_are_written_when_they_have_arrived(device: None, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    recorder = Recorder(Writer(path), lambda index: False, NoLooks())
    train(recorder, [3.0, 2.0])
    assert written(path) == []  # the device has done nothing yet, and nobody waited
    assert {event.stream for event in Event.recorded} == {("stream of", torch.device("cpu"))}, (
        "the losses' own"
    )
    Event.arrived = len(Event.recorded)
    train(recorder, [1.0])
    assert [line["loss"] for line in written(path)] == [3.0, 2.0]
    assert Event.waits == 0
    recorder.close()  # the program is over: now it may wait
    assert [line["loss"] for line in written(path)] == [3.0, 2.0, 1.0]
    assert Event.waits > 0


def test_a_loss_that_a_cuda_graph_overwrites_is_recorded_as_it_was(device: None, tmp_path: Path) -> None:
    """With accumulation, the second replay of a step writes its loss where the first one's is."""
    path = tmp_path / "record.jsonl"
    recorder = Recorder(Writer(path), lambda index: False, NoLooks())
    batch, graph = torch.tensor(0.0), Graph()
    with graph.capture():
        loss = graph.launch(lambda: batch * 1)
        recorder.backward(
            [loss.as_subclass(Device)]
        )  # of no replay: nothing may be waited for, nothing is recorded
    for step in range(2):
        for value in (3.0, 0.5):
            batch.fill_(value + step)
            graph.replay()
            recorder.backward([loss.as_subclass(Device)])
        recorder.step(False, 1.0)
    recorder.close()
    assert [line["loss"] for line in written(path)] == [3.5, 5.5]


def test_one_loss_takes_two_launches(device: None, tmp_path: Path) -> None:
    recorder = Recorder(Writer(tmp_path / "record.jsonl"), lambda index: False, NoLooks())
    loss = torch.tensor(1.0).as_subclass(Device)
    with Launches() as launches:
        recorder.backward([loss])
        recorder.step(False, 1.0)
    assert launches.names == ["_to_copy", "copy_"]


def test_a_step_counts_for_the_meters_when_its_work_is_done(device: None, tmp_path: Path) -> None:
    """A host may be many steps ahead of its GPU: joules are of the steps that were done."""
    done: list[int] = []
    recorder = Recorder(Writer(tmp_path / "record.jsonl"), lambda index: False, NoLooks(), done.append)
    train(recorder, [3.0, 2.0, 1.0])
    assert done == []
    Event.arrived = len(Event.recorded)
    train(recorder, [1.0])
    assert done == [0, 1, 2]


def test_an_earlier_event_in_another_stream_may_come_after_the_later_one(device: None) -> None:
    """CUDA raises where one of the two has not come, and both are asked for, not the later one alone."""
    clock, side = CudaClock(torch.device("cpu")), Stream()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda device: side)
        clock.lap()
    elapsed = clock.lap()
    Event.arrived = len(Event.recorded)
    assert isinstance(elapsed(False), Pending)
    side.finish()
    assert isinstance(elapsed(False), float)


def test_the_end_of_a_program_waits_for_steps_in_two_streams(device: None) -> None:
    clock, side = CudaClock(torch.device("cpu")), Stream()
    clock.lap()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda device: side)
        elapsed = clock.lap()
    assert isinstance(elapsed(True), float)


def test_a_loss_on_another_device_is_not_looked_at_before_the_first_bad_step() -> None:
    """A tensor of the meta device has no value: to read it is an error."""
    loss = torch.empty((), device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        float(loss)
    NanOrigin(lambda *args, **fields: None, lambda: 0, NoLooks()).before_backward([loss])


def test_the_devices_reads_are_seen_by_this_test(device: None) -> None:
    loss = torch.tensor(1.0).as_subclass(Device)
    with pytest.raises(AssertionError, match="item"):
        loss.item()
    with pytest.raises(AssertionError, match="waits for the device"):
        torch.empty(()).copy_(loss)


@pytest.mark.parametrize("precision", ["as-is", "fp32", "fp16"])
def test_a_loss_scale_written_by_hand_is_no_part_of_the_loss(begin, tmp_path: Path, precision: str) -> None:
    """It grows and falls, and begins with a power of two: losses times it could not be compared."""
    takeover = begin(precision, Writer(tmp_path / "record.jsonl"))
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.125)
    scale, losses = 2.0**15, []
    for _ in range(3):
        loss = weight.square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss * scale / 2).backward()
        assert weight.grad is not None
        weight.grad /= scale / 2
        optimizer.step()
        scale *= 1.001
    takeover.close()
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    recorded = [line["loss"] for line in lines if line["event"] == "step"]
    assert recorded == pytest.approx([loss / 2 for loss in losses], rel=2**-22)
    assert [line["text"] for line in lines if line["event"] == "warning"] == [
        "a loss is multiplied by 32768 before its backward pass, which is taken for a loss scale of the script's: losses "
        "are recorded without it"
    ]


def test_rewards_are_weights_of_the_loss(begin, tmp_path: Path) -> None:
    """REINFORCE: they move as they like, below zero too, and no gradient underflows under a scale that is left out."""
    takeover = begin("fp16", Writer(tmp_path / "record.jsonl"))
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    rewards = [2000.0, 1.0, -164.0, 2.0**-20, 2.0**-23, 1.0]
    for reward in rewards:
        optimizer.zero_grad()
        (weight.square().mean() * reward).backward()
        assert torch.equal(weight.grad, torch.full((4,), reward / 2))
        assert reward == rewards[0] or takeover.scaling.last_value >= 2.0**15
        optimizer.step()
    takeover.close()
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["event"] == "step"] == rewards


@pytest.mark.parametrize("weight_of_loss", [1000.0, 5000.0, 1e15])
def test_a_weight_of_the_loss_is_part_of_it(begin, tmp_path: Path, weight_of_loss: float) -> None:
    """No loss scale is so small or so large."""
    takeover = begin("fp32", Writer(tmp_path / "record.jsonl"))
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        (weight.square().mean() * weight_of_loss).backward()
        optimizer.step()
    takeover.close()
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["event"] == "step"] == [
        torch.tensor(weight_of_loss).item()
    ] * 3
    assert not [line for line in lines if line["event"] == "warning"]
