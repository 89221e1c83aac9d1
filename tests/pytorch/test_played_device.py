"""What the played device takes for true of a GPU. Each rule runs on the played one, and under ``-m gpu`` on a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from .played_device import Device, Event, Graph, Memory, Stream, play


class Played:
    """The rules' questions, put to the played device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        play(monkeypatch)
        self._memory = Memory()

    def event(self) -> Any:
        """An event recorded behind work that takes its time."""
        made = torch.cuda.Event(enable_timing=True)
        made.record(None)
        return made

    def event_beside(self) -> Any:
        """The same, in another stream."""
        made = torch.cuda.Event(enable_timing=True)
        made.record(Stream())
        return made

    def finish(self) -> None:
        """Let the device do all that was launched."""
        for event in Event.made:
            event.synchronize()

    def captured(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """(a graph of ``work``, its result)."""
        graph = Graph()
        with graph.capture():
            return graph, graph.launch(work)

    def while_capturing(self, forbidden: Callable[[Any, Tensor], Any]) -> None:
        event, tensor = self.event(), torch.ones(()).as_subclass(Device)
        with Graph().capture():
            forbidden(event, tensor)

    def memory(self) -> Any:
        """What tells of the device's memory."""
        return self._memory

    def allocate(self, size: int) -> Callable[[], None]:
        """Take ``size`` bytes; what is returned frees them."""
        self._memory.allocate(size)
        return lambda: self._memory.free(size)

    def graph_that_needs(self, size: int) -> Callable[[], None]:
        """Capture a graph; what is returned replays it."""
        self._memory.capture(size)
        return self._memory.replay


class Real:
    """The rules' questions, put to a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._a = torch.randn(8192, 8192, device="cuda")
        self._side = torch.cuda.Stream()

    def event(self) -> Any:
        for _ in range(20):
            self._a = self._a @ self._a / 1e4
        made = torch.cuda.Event(enable_timing=True)
        made.record(torch.cuda.current_stream())
        return made

    def event_beside(self) -> Any:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            return self.event()

    def finish(self) -> None:
        torch.cuda.synchronize()

    def captured(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
        graph.replay()
        return graph, result

    def while_capturing(self, forbidden: Callable[[Any, Tensor], Any]) -> None:
        event, tensor = self.event(), torch.ones((), device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.ones(3, device="cuda").mul_(2)
            forbidden(event, tensor)

    def memory(self) -> Any:
        return torch.cuda

    def allocate(self, size: int) -> Callable[[], None]:
        held = [torch.empty(size, dtype=torch.uint8, device="cuda")]
        return held.clear

    def graph_that_needs(self, size: int) -> Callable[[], None]:
        def work() -> Tensor:
            return torch.ones(size // 4, device="cuda").mul_(2).sum()

        graph, _ = self.captured(work)
        torch.cuda.synchronize()
        return graph.replay  # type: ignore[no-any-return]


KINDS = [
    pytest.param(Played, id="played"),
    pytest.param(
        Real,
        id="real",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


@pytest.fixture(params=KINDS)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return request.param(monkeypatch)


def scalar(value: float) -> Tensor:
    return torch.full((), value, device="cuda" if torch.cuda.is_available() else "cpu")


def test_an_event_comes_when_the_work_before_it_is_done(gpu: Any) -> None:
    event = gpu.event()
    assert not event.query()
    gpu.finish()
    assert event.query()


def test_the_time_between_events_that_have_not_come_is_an_error(gpu: Any) -> None:
    first, second = gpu.event(), gpu.event()
    with pytest.raises(RuntimeError):
        first.elapsed_time(second)
    gpu.finish()
    assert first.elapsed_time(second) > 0


def test_an_event_may_be_waited_for(gpu: Any) -> None:
    event = gpu.event()
    event.synchronize()
    assert event.query()


def test_a_graphs_result_is_overwritten_by_its_next_replay(gpu: Any) -> None:
    source = scalar(1.0)
    graph, result = gpu.captured(lambda: source * 2)
    alias, copied = result.detach(), result.to(torch.float64, copy=True)
    source.fill_(3.0)
    graph.replay()
    gpu.finish()
    assert (float(alias), float(copied)) == (6.0, 2.0)


@pytest.mark.parametrize(
    "forbidden", [lambda event, tensor: event.synchronize(), lambda event, tensor: tensor.item()]
)
def test_nothing_is_waited_for_while_a_graph_is_captured(
    gpu: Any, forbidden: Callable[[Any, Tensor], Any]
) -> None:
    with pytest.raises((RuntimeError, torch.AcceleratorError)):
        gpu.while_capturing(forbidden)


def test_an_event_in_another_stream_may_come_after_a_later_one(gpu: Any) -> None:
    beside = gpu.event_beside()
    here = torch.cuda.Event(enable_timing=True)
    here.record()
    here.synchronize()
    assert here.query()
    assert not beside.query()
    with pytest.raises(RuntimeError):
        beside.elapsed_time(here)
    gpu.finish()
    beside.elapsed_time(here)


#: a size that PyTorch's allocator takes from the device by itself, not from a block that it has
LARGE = 64 * 2**20


def test_a_peak_begins_anew_at_what_is_held(gpu: Any) -> None:
    memory, free = gpu.memory(), gpu.allocate(LARGE)
    memory.reset_peak_memory_stats()
    held = memory.memory_allocated()
    assert memory.max_memory_allocated() == held >= LARGE
    free()
    assert memory.max_memory_allocated() == held
    assert memory.memory_allocated() == held - LARGE


def test_what_is_freed_stays_reserved(gpu: Any) -> None:
    memory, free = gpu.memory(), gpu.allocate(LARGE)
    reserved = memory.memory_reserved()
    free()
    assert memory.memory_reserved() == reserved >= LARGE


def test_a_replay_allocates_nothing_and_its_memory_is_reserved(gpu: Any) -> None:
    """Peak memory is read from what is reserved where a graph has a pool."""
    memory = gpu.memory()
    replay = gpu.graph_that_needs(LARGE)
    memory.reset_peak_memory_stats()
    before = memory.memory_allocated()
    replay()
    gpu.finish()
    assert memory.max_memory_allocated() == before
    assert memory.memory_reserved() >= before + LARGE
    assert {tuple(segment["segment_pool_id"]) for segment in memory.memory_snapshot()} - {(0, 0)}
