"""Steps of fused optimizers, whose verdict is read late: nothing but the waiting differs. A CPU plays the GPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from halfstep.pytorch.loss_scaling import backward as backward_passes
from halfstep.pytorch.loss_scaling import finite_cache as tested
from halfstep.pytorch.loss_scaling import gradients, scale, step
from halfstep.pytorch.loss_scaling import pending_flag as verdict
from halfstep.pytorch.loss_scaling.pending_flag import Captured
from halfstep.record import Writer

from ..played_device import Event, Reads

SCALED = "fp32:loss_scale=dynamic:init_scale=1024:growth_interval=5"
FUSED = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, fused=True),
}
#: calm steps, then bad ones, alone and in a row
FACTORS = (
    [1.0] * (scale.CALM + 1) + [float("inf")] + [1.0] * (scale.CALM + 3) + [float("nan")] * 2 + [1.0] * 12
)
BAD = [index for index, factor in enumerate(FACTORS) if factor != 1.0]
#: the last bad step of a burst is made under a scale that has moved: it is read at once
LATE = [BAD[0], BAD[1]]

LATE_AND_AT_ONCE = pytest.mark.parametrize("devices", [{"cpu"}, set()], ids=["late", "at once"])


@pytest.fixture
def late(device: None, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Fused optimizers on the CPU are let skip by themselves; the flags whose verdicts were left for later."""
    found: list[Tensor] = []

    class Noted(verdict.Verdict):
        def __init__(self, flag: Tensor) -> None:
            super().__init__(flag)
            found.append(flag)

    monkeypatch.setattr(tested, "Verdict", Noted)
    monkeypatch.setattr(verdict, "DEVICES", {"cpu"})
    monkeypatch.setattr(
        gradients, "gradient_kernels", lambda: None
    )  # a GPU's gradients are PyTorch's to unscale
    return found


def made(optimizer: Callable[..., Any] = FUSED["AdamW"]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    return net, optimizer(net.parameters())


def backward(net: nn.Module, factor: float = 1.0) -> None:
    (net(torch.linspace(-1, 1, 24).reshape(6, 4)).square().mean() * factor).backward()


def train(net: nn.Module, optimizer: Any, factors: list[float], clip: bool = False) -> None:
    for factor in factors:
        optimizer.zero_grad()
        backward(net, factor)
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()


def outcome(takeover: Any, net: nn.Module, optimizer: Any) -> list[Any]:
    """All that a step may change, as plain numbers."""
    state = optimizer.state_dict()
    tensors = [
        [v.tolist() if isinstance(v, Tensor) else v for v in s.values()] for s in state["state"].values()
    ]
    skips = [(skip.step, skip.scale) for skip in takeover.scaling.skips.since]
    return [
        [p.tolist() for p in net.parameters()],
        tensors,
        state["halfstep"],
        skips,
        takeover.scaling.loss_scale,
    ]


@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("optimizer", FUSED.values(), ids=FUSED)
def test_steps_read_late_are_bit_identical_to_steps_read_at_once(
    begin, late: list[Tensor], monkeypatch: pytest.MonkeyPatch, optimizer: Callable[..., Any], clip: bool
) -> None:
    found = []
    for devices in ({"cpu"}, set()):
        monkeypatch.setattr(verdict, "DEVICES", devices)
        takeover = begin(SCALED)
        net, optimizer_ = made(optimizer)
        train(net, optimizer_, FACTORS, clip)
        found.append(outcome(takeover, net, optimizer_))
        assert [skip.step for skip in takeover.scaling.skips.since] == BAD
        takeover.remove()
    assert found[0] == found[1]
    assert len(late) >= 8
    assert sum(bool(flag) for flag in late) == len(LATE), "bad steps in a row are read at once"


def test_a_calm_step_reads_nothing_and_the_next_pass_waits_once(begin, late: list[Tensor]) -> None:
    begin(SCALED)
    net, optimizer = made()
    train(net, optimizer, [1.0] * scale.CALM)
    for factor in (1.0, 1.0, float("inf")):
        waits = Event.waits
        optimizer.zero_grad()
        backward(net, factor)
        assert Event.waits == waits + (len(late) > 0), "for the verdict on the step before"
        waits = Event.waits
        with Reads() as reads:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            before = [p.detach().clone() for p in net.parameters()]
            optimizer.step()
        assert (reads.count, Event.waits) == (0, waits)
        moved = [not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True)]
        assert moved == [factor == 1.0] * 4
    assert len(late) == 3


@pytest.mark.parametrize("asked", ["state_dict", "skipped", "last_skipped", "value", "loss_scale", "skips"])
def test_whoever_asks_is_told_of_the_last_step(begin, late: list[Tensor], asked: str) -> None:
    takeover = begin(SCALED)
    net, optimizer = made()
    train(net, optimizer, FACTORS[: BAD[0] + 1])
    assert bool(late[-1]), "the last step was bad, and nobody has read it yet"
    before = 1024 * 2 ** (BAD[0] // 5)
    told: dict[str, Any] = {
        "state_dict": lambda: optimizer.state_dict()["halfstep"]["skipped_steps"],
        "skipped": lambda: takeover.skipped,
        "last_skipped": lambda: int(takeover.last_skipped),
        "value": lambda: takeover.scaling.value * 2 / before,
        "loss_scale": lambda: takeover.scaling.loss_scale.value * 2 / before,
        "skips": lambda: takeover.scaling.skips.count,
    }
    assert told[asked]() == 1


def _hooked(net: nn.Module, optimizer: Any) -> None:
    optimizer.register_step_post_hook(lambda *unused: None)


def _normalised(net: nn.Module, optimizer: Any) -> None:
    net.append(nn.BatchNorm1d(4, affine=False))


def _grown(net: nn.Module, optimizer: Any) -> None:
    extra = nn.Parameter(torch.zeros(()))
    optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones(())
    optimizer.zero_grad = lambda: [setattr(p, "grad", None) for p in net.parameters()]


class Averaging(torch.optim.SGD):
    """An optimizer of somebody's own: what it does after the step, it must not do after a skipped one."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.averaged = True
        return result


@pytest.mark.parametrize("change", [_hooked, _normalised, _grown], ids=lambda change: change.__name__)
def test_what_the_device_cannot_skip_is_read_at_once(
    begin, late: list[Tensor], change: Callable[..., None]
) -> None:
    takeover = begin(SCALED)
    net, optimizer = made()
    train(net, optimizer, [1.0] * (scale.CALM + 2))
    assert late
    late.clear()
    change(net, optimizer)
    train(net, optimizer, [float("inf")])
    assert not late
    assert takeover.scaling._skips.count == 1, "known already"


@pytest.mark.parametrize(
    "optimizer",
    [lambda p: torch.optim.AdamW(p, lr=0.01), lambda p: Averaging(p, lr=0.01, fused=True)],
    ids=["not fused", "subclass"],
)
def test_optimizers_that_cannot_skip_by_themselves_are_read_at_once(
    begin, late: list[Tensor], optimizer: Callable[..., Any]
) -> None:
    begin(SCALED)
    train(*made(optimizer), [1.0] * (scale.CALM + 2))
    assert not late


@LATE_AND_AT_ONCE
def test_a_pass_that_the_script_has_thrown_away_does_not_count(
    begin, late: list[Tensor], monkeypatch: pytest.MonkeyPatch, devices: set[str]
) -> None:
    """Its gradients were not finite, so the script has zeroed them; those that it steps with are finite."""
    monkeypatch.setattr(verdict, "DEVICES", devices)
    takeover = begin(SCALED)
    net, optimizer = made()
    train(net, optimizer, [1.0] * scale.CALM)
    for _ in range(2):
        backward(net, float("inf"))
        optimizer.zero_grad(set_to_none=False)
        backward(net)
        optimizer.step()
        backward(net, float("inf"))
        net[0].weight.grad.zero_()
        for p in list(net.parameters())[1:]:
            p.grad = torch.ones_like(p)
        net[0].weight.sum().backward()
        optimizer.step()
    assert bool(late) is bool(devices)
    assert takeover.skipped == 0


def test_a_flag_is_waited_for_on_its_own_device_and_kept_on_the_host(device: None) -> None:
    """A program may use another device than the current one, and have another default device."""
    flag = torch.zeros(())
    with torch.device("meta"):
        read = verdict.Verdict(flag)
        assert read.finite
    assert [event.stream for event in Event.recorded] == [("stream of", flag.device)]


@pytest.mark.parametrize("way", ["another parameter", "state cleared", "momentum later"])
def test_a_bad_first_step_leaves_no_state_behind(begin, late: list[Tensor], way: str) -> None:
    """A fused SGD takes a momentum that it skipped for written: it has to be told in time."""
    takeover = begin(SCALED)
    used, other = (nn.Parameter(torch.ones(64)) for _ in range(2))
    optimizer = torch.optim.SGD(
        [used, other], lr=0.25, momentum=0.0 if way == "momentum later" else 0.5, fused=True
    )

    def one(weight: nn.Parameter, factor: float = 1.0) -> None:
        optimizer.zero_grad()
        (weight.sum() * factor).backward()
        optimizer.step()

    for _ in range(scale.CALM + 2):
        one(used)
    assert late, "the control: such steps are read late"
    late.clear()
    weight = other if way == "another parameter" else used
    if way == "state cleared":
        optimizer.state.clear()
    if way == "momentum later":
        optimizer.param_groups[0]["momentum"] = 0.5
    before = weight.detach().clone()
    one(weight, float("nan"))
    assert not late
    assert "momentum_buffer" not in optimizer.state.get(weight, {})
    one(weight)
    assert takeover.skipped == 1
    assert torch.equal(weight.detach(), before - 0.25)


def test_gradients_written_after_the_pass_are_tested_as_they_are(begin, late: list[Tensor]) -> None:
    takeover = begin(SCALED)
    net, optimizer = made()
    train(net, optimizer, [1.0] * scale.CALM)
    optimizer.zero_grad()
    backward(net)
    net[2].bias.grad[1] = float("nan")
    before = copy.deepcopy(net.state_dict())
    optimizer.step()
    assert len(late) == 1
    assert takeover.skipped == 1
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@LATE_AND_AT_ONCE
def test_two_optimizers_after_one_pass_move_the_scale_once(
    begin, late: list[Tensor], monkeypatch: pytest.MonkeyPatch, devices: set[str]
) -> None:
    monkeypatch.setattr(verdict, "DEVICES", devices)
    takeover = begin(SCALED)
    net, _ = made()
    first, second = (FUSED["SGD"](layer.parameters()) for layer in (net[0], net[2]))
    for factor in FACTORS[: BAD[0] + 1]:
        first.zero_grad()
        second.zero_grad()
        backward(net, factor)
        first.step()
        second.step()
    assert bool(late) is bool(devices)
    under = 1024.0 * 2 ** (BAD[0] // 5)
    assert takeover.scaling.loss_scale.value == under / 2
    skips = takeover.scaling.skips.since
    assert [(skip.step, skip.scale) for skip in skips] == [(BAD[0], under)] * 2


def test_the_record_is_as_if_every_step_had_been_read_at_once(
    begin, late: list[Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = []
    for devices in ({"cpu"}, set()):
        monkeypatch.setattr(verdict, "DEVICES", devices)
        path = tmp_path / f"{len(lines)}.jsonl"
        takeover = begin(SCALED, Writer(path))
        train(*made(), FACTORS)
        takeover.close()
        takeover.remove()
        events = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [event for event in events if event["event"] == "step"]
        skips = [event for event in events if event["event"] == "skip"]
        lines.append(
            [
                [(e["step"], e["loss"], e["skipped"], e["loss_scale"]) for e in steps],
                [(e["step"], e["scale"]) for e in skips],
            ]
        )
    assert str(lines[0]) == str(lines[1]), "NaN is not equal to itself"
    assert [number for number, _, skipped, _ in lines[0][0] if skipped] == BAD
    assert late


def test_a_device_that_fails_does_not_cost_the_record_its_end(
    begin, late: list[Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After an illegal access CUDA answers every question with an error; the step whose verdict is lost is not told of."""
    takeover = begin(SCALED, Writer(tmp_path / "r.jsonl"))
    train(*made(), [1.0] * (scale.CALM + 4))
    assert late

    def fails(event: Event) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    with monkeypatch.context() as failed:
        failed.setattr(Event, "synchronize", fails)
        failed.setattr(Event, "query", fails)
        takeover.close()
        assert (takeover.steps, takeover.skipped) == (scale.CALM + 4, 0)
    events = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    told = [event["text"] for event in events if event["event"] == "warning"]
    lost = "what was on its way from the device is lost: CUDA error: an illegal memory access was encountered"
    assert lost in told
    steps = [event for event in events if event["event"] == "step"]
    assert 0 < len(steps) < scale.CALM + 4


# --- CUDA graphs ----------------------------------------------------------------------------------------------


@pytest.fixture
def captured(late: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is being captured."""
    monkeypatch.setattr(step, "capturing", lambda: True)


@pytest.fixture
def capture(late: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether whatever happens is being captured."""

    def switch(on: bool) -> None:
        for place in (step, scale, tested, gradients, backward_passes):
            monkeypatch.setattr(place, "capturing", lambda: on)

    return switch


class Operations(TorchDispatchMode):
    """Which operations are run."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.run.append(func._overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("whole", [True, False], ids=["pass and step", "step alone"])
def test_a_captured_step_uses_no_test_from_outside_its_graph(
    begin, capture: Callable[[bool], None], whole: bool
) -> None:
    """In a replay the gradients are others, and the flag of the pass before the capture is stale."""
    begin("fp32:loss_scale=1024")
    net, optimizer = made(FUSED["SGD"])
    train(net, optimizer, [1.0])
    capture(whole)
    optimizer.zero_grad()
    backward(net)
    capture(True)
    with Operations() as operations:
        optimizer.step()
    assert (torch.ops.aten._amp_foreach_non_finite_check_and_unscale_ in operations.run) is not whole
    capture(False)
    backward(net)
    with Operations() as operations:
        optimizer.step()
    assert torch.ops.aten._amp_foreach_non_finite_check_and_unscale_ not in operations.run


def test_nothing_is_waited_for_during_a_capture(
    begin, late: list[Tensor], capture: Callable[[bool], None]
) -> None:
    takeover = begin("fp32:loss_scale=1024")
    net, optimizer = made()
    train(net, optimizer, [1.0] * (scale.CALM + 1) + [float("inf")])
    assert late
    capture(True)
    waits = Event.waits
    train(net, optimizer, [1.0])
    assert Event.waits == waits
    capture(False)
    assert takeover.skipped == 1


def test_constants_of_a_graph_are_its_own(
    capture: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "_CONSTANTS", {})
    here = torch.device("cpu")
    capture(True)
    captured = gradients.constant(0.125, here)
    capture(False)
    after = gradients.constant(0.125, here)
    assert after is not captured
    assert gradients.constant(0.125, here) is after


def test_passes_captured_under_a_dynamic_scale_are_refused(begin, capture: Callable[[bool], None]) -> None:
    begin(SCALED)
    net, _ = made()
    loss = net(torch.ones(1, 4)).sum()
    capture(True)
    for run in (loss.backward, lambda: torch.autograd.grad(loss, list(net.parameters()))):
        with pytest.raises(Captured, match="where a dynamic loss scale cannot move"):
            run()
    assert net[0].weight.grad is None


def test_a_captured_part_of_passes_to_come_is_not_scaled_itself(
    begin, capture: Callable[[bool], None]
) -> None:
    """As in torch.cuda.make_graphed_callables: the gradients that come in later are scaled."""
    begin(SCALED)
    net, _ = made()
    out = net(torch.ones(1, 4))
    capture(True)
    with Operations() as operations:
        torch.autograd.grad(out, list(net.parameters()), torch.ones_like(out), retain_graph=True)
    capture(False)
    scaled = operations.run.count(torch.ops.aten.mul)
    with Operations() as operations:
        torch.autograd.grad(out, list(net.parameters()), torch.ones_like(out))
    assert operations.run.count(torch.ops.aten.mul) == scaled + 1 + len(list(net.parameters()))


def test_a_captured_step_skips_itself_under_a_static_scale(begin, captured: None, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    takeover = begin("fp32:loss_scale=1024", Writer(path))
    net, optimizer = made(FUSED["SGD"])
    train(net, optimizer, [1.0])
    before = copy.deepcopy(net.state_dict())
    optimizer.zero_grad()
    backward(net, float("inf"))
    with Reads() as reads:
        optimizer.step()
    assert reads.count == 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert takeover.steps == 0
    assert path.read_text().count("captures its steps into a CUDA graph") == 1


@pytest.mark.parametrize(
    ("precision", "optimizer", "words"),
    [
        (SCALED, FUSED["SGD"], "where a dynamic loss scale cannot move"),
        (
            "fp32:loss_scale=1024",
            lambda p: torch.optim.SGD(p, lr=0.1),
            "where SGD cannot skip a bad step by itself",
        ),
    ],
    ids=["dynamic", "not fused"],
)
def test_what_a_replay_could_not_do_is_refused(
    begin, captured: None, precision: str, optimizer: Callable[..., Any], words: str
) -> None:
    begin(precision)
    net, optimizer_ = made(optimizer)
    backward(net)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(Captured, match=words):
        optimizer_.step()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_captured_step_without_a_scale_is_pytorchs(begin, captured: None) -> None:
    takeover = begin("fp32")
    net, optimizer = made(lambda p: torch.optim.SGD(p, lr=0.1))
    before = net[0].weight.detach().clone()
    train(net, optimizer, [1.0])
    assert not torch.equal(net[0].weight, before)
    assert takeover.steps == 0


# --- on a GPU -------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"fused": True}, {"fused": True, "capturable": True}], ids=str)
def test_calm_steps_do_not_synchronize_a_gpu(begin, options: dict[str, bool]) -> None:
    takeover = begin("fp16:init_scale=1024")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, **options)
    x = torch.randn(32, 64, device="cuda")

    def one(factor: Tensor) -> None:
        optimizer.zero_grad()
        (net(x).float().square().mean() * factor).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    good, bad = torch.ones((), device="cuda"), torch.full((), float("inf"), device="cuda")
    for _ in range(scale.CALM + 2):
        one(good)
    before = [p.detach().clone() for p in net.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        one(bad)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert takeover.skipped == 1
