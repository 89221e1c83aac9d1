"""What the played device takes for true of a GPU. Each rule runs on the played one, and under ``-m gpu`` on a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from .played_device import Device, Event, Graph, play


class Played:
    """The rules' questions, put to the played device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        play(monkeypatch)

    def event(self) -> Any:
        """An event recorded behind work that takes its time."""
        made = torch.cuda.Event(enable_timing=True)
        made.record(None)
        return made

    def finish(self) -> None:
        """Let the device do all that was launched."""
        Event.arrived = len(Event.recorded)

    def captured(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """(a graph of ``work``, its result)."""
        graph = Graph()
        with graph.capture():
            return graph, graph.launch(work)

    def while_capturing(self, forbidden: Callable[[Any, Tensor], Any]) -> None:
        event, tensor = self.event(), torch.ones(()).as_subclass(Device)
        with Graph().capture():
            forbidden(event, tensor)


class Real:
    """The rules' questions, put to a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._a = torch.randn(8192, 8192, device="cuda")

    def event(self) -> Any:
        for _ in range(20):
            self._a = self._a @ self._a / 1e4
        made = torch.cuda.Event(enable_timing=True)
        made.record(torch.cuda.current_stream())
        return made

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_allocates_nothing_and_its_memory_is_reserved() -> None:
    """Played in ``tests/meters``: peak memory is read from what is reserved where a graph has a pool."""
    a = torch.randn(1024, 1024, device="cuda")
    graph, result = Real.captured(None, lambda: (a @ a) @ (a @ a))  # type: ignore[arg-type]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() == before
    pools = {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}
    assert pools - {(0, 0)}, result
