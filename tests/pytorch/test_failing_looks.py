"""What only looks never breaks a program: failures planted in each look, and tensors that no look can make sense of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.recording.recorder import Recorder
from halfstep.pytorch.watching.watch import Watch
from halfstep.record import NullWriter, Record, Writer, read
from halfstep.record.ran import Ran
from halfstep.takeover.base import EnoughSteps
from halfstep.words.ran import in_force_words

from .conftest import Begin

_RECORDING, _WATCHING = "halfstep.pytorch.recording.", "halfstep.pytorch.watching."

#: a function that a look needs, and what the record lacks without it
RECORDING = {
    "recorder.read": "losses",
    "recorder.Recorder._of_the_step": "losses",
    "recorder.known": "steps",
    "recorder.HostClock.lap": "seconds per step",
    "recorder.StepLines.write": "steps",
    "step_sampler.StepSampler._begin": "the close look at a step",
    "step_sampler.StepSampler._end_profile": "the close look at a step",
    "step_sampler.parameters_of": "memory by part",
    "sample.memory_of": "memory by part",
    "activations._storage": "activations",
    "activations.KeptTensors.begin": "activations",
    "activations.KeptTensors.end": "activations",
    "activations.graph": "activations",
    "stored.StoredMeter.called": "what is stored",
    "profiler.Profiler.begin": "products by format",
    "profiler._ExperimentalConfig": "products by format",
    "profile.count": "products by format",
    "profile.read": "shares of a step's time",
    "timeline.kinds": "shares of a step's time",
    "step_sampler.Listening.begin": "products in fp32 units",
    "step_sampler.Listening.end": "products in fp32 units",
}
WATCHING = {
    "operations.plan": "watching: operations",
    "operations.is_finite": "watching: operations",
    "operations.user_line": "watching: operations",
    "modules.tensors_in": "watching: the module that runs",
    "watch.tensors_in": "watching: inputs of the model",
    "watch.batched": "watching: outputs of modules",
    "watch.Tally.add": "watching: sizes of numbers",
    "watch.all_finite": "watching: steps",
    "watch.get_scalar": "watching: optimizers",
    "watch.Tally.fields": "watching: sizes of numbers per step",
}


def training(steps: int = 5) -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 4)).to(torch.bfloat16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = net(torch.randn(16, 8, dtype=torch.bfloat16)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def planted(*args: Any, **kwargs: Any) -> Any:
    raise LookupError("planted")


def run(begin: Begin, path: Path, program: Callable[[], Any], watch: bool = False) -> tuple[Any, Record]:
    takeover = begin("as-is", Writer(path / "record"), watch=watch)
    result = program()
    takeover.close()
    return result, read(path / "record")


@pytest.mark.parametrize("place", RECORDING)
def test_a_failure_in_recording(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    expected = training()
    monkeypatch.setattr(_RECORDING + place, planted)
    losses, record = run(begin, tmp_path, training)
    assert losses == expected
    assert "LookupError: planted" in record.absent[RECORDING[place]]
    if RECORDING[place] != "steps":
        assert len(record.steps) == len(losses)
    whole = {**record.sample, **record.sample.get("memory", {})}
    lacks = {
        "products by format": "matmul_flops",
        "shares of a step's time": "time_shares",
        "activations": "activations",
    }
    if figure := lacks.get(RECORDING[place]):
        assert figure not in whole


@pytest.mark.parametrize("place", WATCHING)
def test_a_failure_in_watching(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    expected = training()
    monkeypatch.setattr(_WATCHING + place, planted)
    losses, record = run(begin, tmp_path, training, watch=True)
    assert losses == expected
    assert "LookupError: planted" in record.absent[WATCHING[place]]
    assert record.losses == losses


@pytest.mark.parametrize("watch", [False, True])
def test_meters_and_finding_where_it_began(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: bool
) -> None:
    """The two looks that a healthy program of two layers does not call: meters of the machine, and the search for NaN."""

    def diverging() -> list[float]:
        weight = nn.Parameter(torch.ones(4))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        for _ in range(4):
            (weight.sum() * float("inf")).backward()
            optimizer.step()
        return [float(x) for x in weight.nan_to_num(7.0).detach()]

    expected = diverging()
    monkeypatch.setattr(_WATCHING + "nan_origin.forward", planted)
    takeover = begin("as-is", Writer(tmp_path / "record"), watch=watch, tick=planted)
    assert diverging() == expected
    takeover.close()
    absent = read(tmp_path / "record").absent
    assert "planted" in absent["peak memory and energy"]
    assert watch or "planted" in absent["where what is not finite began"]


@pytest.mark.parametrize("place", ["weights_by_format", "ProductCounter", "Listening.begin", "Listening.end"])
def test_a_failure_in_the_brief_look_of_a_run_that_nobody_records(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The last line of the run gives the reason."""
    expected, writer = training(), NullWriter()
    monkeypatch.setattr(f"{_RECORDING}brief_look.{place}", planted)
    takeover = begin("as-is", writer)
    assert training() == expected
    takeover.close()
    ran = Ran.of(writer.kept)
    if place == "weights_by_format":
        assert "LookupError: planted" in writer.kept.stored.absent["weights"]
        assert ran.products == {"bf16": 1.0}
    else:
        assert "what ran was not measured: LookupError: planted" in in_force_words("bf16", ran)
        assert ran.weights == ("bf16",)


def test_a_failure_in_what_the_script_does_and_tells(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clipping and accumulation, and a figure of its own that is no number after all."""

    class Odd:
        __float__ = planted

    def write(recorder: Recorder, event: str, **fields: Any) -> None:
        return planted() if "clipping" in fields else real(recorder, event, **fields)

    def program() -> list[float]:
        if takeover is not None:
            takeover.recorder.logged("odd", Odd())
        return training()

    takeover, expected, real = None, training(), Recorder.write
    monkeypatch.setattr(Recorder, "write", write)
    takeover = begin("as-is", Writer(tmp_path / "record"))
    assert program() == expected
    takeover.close()
    absent = read(tmp_path / "record").absent
    assert "LookupError: planted" in absent["clipping and accumulation"]
    assert "LookupError: planted" in absent["figures of the script's own"]


@pytest.mark.parametrize("place", ["copy.deepcopy", "_run", "_error", "_layers"])
def test_a_failure_in_comparing_compiled_graphs(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def program() -> list[float]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        compiled = torch.compile(net, backend="eager")
        optimizer, found = torch.optim.SGD(net.parameters(), lr=0.1), []
        for _ in range(3):
            loss = compiled(torch.randn(4, 4)).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = program()
    takeover = begin("as-is", Writer(tmp_path / "record"), graphs=True)
    if place == "copy.deepcopy":
        monkeypatch.setattr(_WATCHING + "graphs.copy", SimpleNamespace(deepcopy=planted))
    else:
        monkeypatch.setattr(_WATCHING + "graphs." + place, planted)
    assert program() == expected
    takeover.close()
    absent = read(tmp_path / "record").absent
    assert "LookupError: planted" in absent["compiled graphs beside eager ones"]


@pytest.mark.parametrize("look", ["gradients of modules", "rounding of operands"])
def test_a_failure_in_watching_an_emulated_run(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    def gradients(watch: Watch, kind: str, *args: Any) -> None:
        return planted() if kind == "gradients" else count(watch, kind, *args)

    alone = begin("fp8", emulate=True)
    expected = training()
    alone.remove()
    count = Watch._count
    if look == "gradients of modules":
        monkeypatch.setattr(Watch, "_count", gradients)
    else:
        monkeypatch.setattr(_WATCHING + "watch.Rounded.add", planted)
    takeover = begin("fp8", Writer(tmp_path / "record"), emulate=True, watch=True)
    assert training() == expected
    takeover.close()
    record = read(tmp_path / "record")
    assert "LookupError: planted" in record.absent[f"watching: {look}"]
    assert record.losses == expected


def test_steps_still_end_the_program(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_RECORDING + "recorder.StepLines.write", planted)
    takeover = begin("as-is", Writer(tmp_path / "record"), steps=3)
    with pytest.raises(EnoughSteps):
        training()
    assert takeover.steps == 3


def test_an_error_of_the_programs_own_is_not_caught(begin: Begin, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise LookupError("the program's own")

    begin("as-is", Writer(tmp_path / "record"), watch=True)
    with pytest.raises(LookupError, match="the program's own"):
        Broken()(torch.ones(2))
    assert read(tmp_path / "record").absent == {}


class Refusing(Tensor):
    """A tensor whose methods raise."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in (
            "__get__",
            "detach",
            "backward",
            "sum",
            "mul",
            "__mul__",
            "mean",
        ):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise TypeError(f"{func} is not for this tensor")


class Passing(nn.Module):
    """Hands back what it is given, from inside of a module that is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Any) -> Any:
        return x


def under_vmap(net: nn.Module, weight: Tensor) -> Tensor:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    return torch.vmap(lambda row: (net(layer(row)) * 0.5).sum())(weight.expand(6, 4)).mean()


def through_grad(net: nn.Module, weight: Tensor) -> Tensor:
    return torch.func.grad(lambda w: net(w.square()).sum())(weight).sum()


def through_jvp(net: nn.Module, weight: Tensor) -> Tensor:
    return torch.func.jvp(lambda w: net(w.square()).sum(), (weight,), (weight * 2,))[1]


def a_hessian(net: nn.Module, weight: Tensor) -> Tensor:
    return torch.func.hessian(lambda w: net(w.pow(3)).sum())(weight).sum()


def refusing(net: nn.Module, weight: Tensor) -> Tensor:
    net(torch.ones(3).as_subclass(Refusing))
    return weight.sum()


def sparse(net: nn.Module, weight: Tensor) -> Tensor:
    return torch.sparse.mm(net(torch.eye(4).to_sparse()), net(weight.unsqueeze(1))).sum()


def nested(net: nn.Module, weight: Tensor) -> Tensor:
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    net(ragged * 2)
    return weight.sum()


def meta(net: nn.Module, weight: Tensor) -> Tensor:
    net(torch.ones(3, device="meta") * 2)
    return weight.sum()


def complex_numbers(net: nn.Module, weight: Tensor) -> Tensor:
    return torch.fft.fft(net(weight)).abs().square().sum()


def eight_bits(net: nn.Module, weight: Tensor) -> Tensor:
    return weight.sum() * net(torch.ones(3).to(torch.float8_e4m3fn)).float().sum()


def fake(net: nn.Module, weight: Tensor) -> Tensor:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        net(torch.ones(3) @ torch.ones(3, 2))
    return weight.sum()


def own_modes(net: nn.Module, weight: Tensor) -> Tensor:
    """A program that counts its own operations must count none of halfstep's."""
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    class Calls(TorchFunctionMode):
        made = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.made += 1
            return func(*args, **(kwargs or {}))

    with Calls() as calls, FlopCounterMode(display=False) as flops:
        result = net(weight @ torch.ones(4, 4)).sum()
    return result * (calls.made + flops.get_total_flops())


def of_higher_order(net: nn.Module, weight: Tensor) -> Tensor:
    """Raises under a dispatch mode that knows nothing of such operations."""
    from torch.nn.attention.flex_attention import flex_attention

    heads = weight.detach().expand(1, 1, 8, 4)
    attended = flex_attention(heads, heads, heads, score_mod=lambda score, *place: score * 0.5)
    return net(attended * weight).sum()


def of_a_condition(net: nn.Module, weight: Tensor) -> Tensor:
    """PyTorch compiles its branches, and computes no gradient of what is not compiled."""
    torch.compile(net, backend="eager")(weight)
    return net(torch.cond(weight.sum() > 9, torch.sin, torch.square, (weight,))).sum()


def in_autocast(net: nn.Module, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(nn.functional.linear(weight, torch.ones(4, 4)) * 1e3).float().sum()


PROGRAMS = [
    under_vmap,
    through_grad,
    through_jvp,
    a_hessian,
    refusing,
    sparse,
    nested,
    meta,
    complex_numbers,
    eight_bits,
    fake,
    own_modes,
    of_higher_order,
    of_a_condition,
    in_autocast,
]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*(prototype|beta|eager mode|unfused|sparse).*:UserWarning")
@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("loss_of", PROGRAMS)
def test_programs_with_every_kind_of_tensor_are_pythons(
    begin: Begin, tmp_path: Path, loss_of: Callable[[nn.Module, Tensor], Tensor], watch: bool
) -> None:
    """Recorded and watched, losses are bit for bit those of plain python, and no look has failed."""

    def program() -> list[float]:
        torch.manual_seed(0)
        net = Passing()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        losses = []
        for _ in range(4):
            loss = loss_of(net, net.weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    expected = program()
    losses, record = run(begin, tmp_path, program, watch)
    assert losses == expected
    assert record.absent == {}
    assert record.losses == expected
