"""`halfstep.enable` again, `halfstep.disable` and `halfstep.precision`, at any moment between two steps."""

from __future__ import annotations

import copy
import gc
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

import halfstep
from halfstep.errors import Unsupported, UsageError
from halfstep.session.session import Session

Losses = list[float]

#: what PyTorch itself changes as it is used: it wraps the step of a class when the first instance is made
_PYTORCHS_OWN = (
    "torch._dynamo",
    "torch._inductor",
    "torch.fx",
    "torch.optim",
    "torch.utils.hooks.RemovableHandle",
)


@pytest.fixture(autouse=True)
def nothing_in_force() -> Iterator[None]:
    yield
    halfstep.disable()
    assert Session.current is None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


class Training:
    """A training whose objects are made once, and used in several precisions."""

    def __init__(self, model: Callable[[nn.Module], Any] = lambda model: model, scaler: bool = False) -> None:
        torch.manual_seed(0)
        self.net = Net()
        self.model = model(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.schedule = StepLR(self.optimizer, 3, gamma=0.5)
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaler)
        self.seen: list[float] = []
        self.net.first.weight.register_hook(self._look)
        self.net.last.register_full_backward_hook(lambda module, given, got: self._look(got[0]))
        self.net.norm.weight.register_post_accumulate_grad_hook(lambda weight: self._look(weight.grad))
        self.batches = torch.Generator().manual_seed(1)

    def _look(self, gradient: Tensor) -> None:
        self.seen.append(float(gradient.abs().max()))

    def loss(self) -> Tensor:
        x = torch.randn(32, 8, generator=self.batches)
        loss: Tensor = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss

    def steps(self, count: int) -> Losses:
        losses = []
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = self.loss()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.net.parameters(), 10.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()
            losses.append(float(loss.detach()))
        return losses

    @property
    def state(self) -> list[Tensor]:
        return [t.detach().clone() for t in self.net.state_dict().values()]


def same(one: Training, other: Training) -> bool:
    return (
        all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True)) and one.seen == other.seen
    )


@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32", "bf16:keep=last", "fp16:loss_scale=1024"])
def test_what_was_made_before_trains_as_what_is_made_after(precision: str, scaler: bool) -> None:
    early = Training(scaler=scaler)
    halfstep.enable(precision)
    losses = early.steps(6)
    halfstep.disable()
    halfstep.enable(precision)
    late = Training(scaler=scaler)
    assert losses == late.steps(6)
    assert same(early, late)
    true = [
        seen for seen in early.seen if seen < float("inf")
    ]  # the first scale of fp16 is too high for this loss
    assert 0 < max(true) < 100  # hooks see true gradients, none of a loss scale


@pytest.mark.parametrize(
    "precisions", [["bf16"], ["fp16"], ["bf16", "fp16", "fp32"], ["fp16:keep=first", "bf16"]]
)
def test_after_disable_training_goes_on_as_python_trains(precisions: list[str]) -> None:
    training, plain = Training(), Training()
    for precision in precisions:
        halfstep.enable(precision)
        training.steps(2)
    halfstep.disable()
    plain.net.load_state_dict(training.net.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(training.optimizer.state_dict()))
    plain.schedule.load_state_dict(training.schedule.state_dict())
    plain.batches.set_state(training.batches.get_state())
    training.seen.clear()
    assert training.steps(5) == plain.steps(5)
    assert same(training, plain)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_model_made_under_a_precision_trains_without_it_as_python_does(precision: str) -> None:
    halfstep.enable(precision)
    made_under = Training(scaler=True)
    halfstep.disable()
    plain = Training(scaler=True)
    assert plain.scaler.is_enabled()
    assert made_under.steps(5) == plain.steps(5)
    assert made_under.scaler.state_dict() == plain.scaler.state_dict()
    assert same(made_under, plain)


def test_the_step_of_a_scheduled_optimizer_is_seen_in_every_precision() -> None:
    training = Training()
    for precision in ("fp16", "bf16", "fp16"):
        halfstep.enable(precision)
        training.steps(3)
        assert Session.current is not None
        assert Session.current.takeover is not None
        assert Session.current.takeover.steps == 3


def test_a_bad_step_is_skipped_although_the_model_was_made_before() -> None:
    training = Training()
    halfstep.enable("fp16:loss_scale=1024")
    training.steps(2)
    before = training.state
    training.optimizer.zero_grad()
    (training.loss() * float("inf")).backward()
    training.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, training.state, strict=True))
    assert halfstep.skipped_steps() == 1


def test_the_same_precision_again_is_a_no_op() -> None:
    halfstep.enable("fp16", steps=100)
    session = Session.current
    halfstep.enable("fp16", steps=100)
    assert Session.current is session
    halfstep.enable("fp16")
    assert Session.current is not session


def test_disable_without_a_precision_is_a_no_op() -> None:
    halfstep.disable()
    halfstep.disable()


def snapshot() -> dict[tuple[str, str], Any]:
    """Every name of PyTorch's modules and classes, and what stands for it."""
    found: dict[tuple[str, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in (
            "torch",
            "copy",
            "threading",
            "random",
            "numpy",
            __name__.split(".")[0],
        ):
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = value
            if isinstance(value, type) and str(vars(value).get("__module__")).startswith("torch"):
                owner = f"{value.__module__}.{value.__qualname__}"
                found.update({(owner, key): v for key, v in list(vars(value).items())})
    return found


def settings() -> dict[str, Any]:
    devices = ("cpu", "cuda", "ipu")
    return {
        "autocast": [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices],
        "cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.get_default_dtype(),
        "tf32": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "tag": torch.compiler.config.cache_key_tag,
        "finders": list(sys.meta_path),
        "profiler": torch._C._autograd._profiler_enabled(),
        "dispatcher": {
            name: torch._C._dispatch_dump_table(name)
            for name in torch._C._dispatch_get_all_op_names()
            if name.startswith("aten::")
        },
    }


@pytest.mark.parametrize("precisions", [["bf16"], ["fp16"], ["fp32"], ["bf16:keep=first", "fp16", "bf16"]])
def test_disable_leaves_every_name_and_kernel_of_pytorch_as_it_was(precisions: list[str]) -> None:
    warnings.simplefilter("ignore")
    Training().steps(1)
    halfstep.enable("fp32")  # what halfstep and the compiler import at first stays imported
    halfstep.disable()
    names, before = snapshot(), settings()
    for precision in precisions:
        halfstep.enable(precision, seed=3)
        Training().steps(4)
    assert snapshot()["torch.autograd", "backward"] is not names["torch.autograd", "backward"]
    halfstep.disable()
    after = snapshot()
    changed = [
        key
        for key, value in names.items()
        if after.get(key) is not value and not key[0].startswith(_PYTORCHS_OWN) and after.get(key) != value
    ]
    assert changed == []
    assert settings() == before
    kept = [key for key, value in names.items() if _is_ours(value)]  # by other tests of this process
    ours = [
        key
        for key, value in after.items()
        if _is_ours(value) and not key[0].startswith("tests.") and key not in kept
    ]
    assert ours == []


def _is_ours(value: object) -> bool:
    return isinstance(value, types.FunctionType) and "/halfstep/" in value.__code__.co_filename


def test_names_that_were_imported_follow_the_precision() -> None:
    plain = clip_grad_norm_, grad
    halfstep.enable("fp16")
    assert clip_grad_norm_ is not plain[0]
    assert grad is torch.autograd.grad is not plain[1]
    halfstep.disable()
    assert (clip_grad_norm_, grad) == plain == (torch.nn.utils.clip_grad_norm_, torch.autograd.grad)


@pytest.mark.parametrize("before", [True, False])
def test_an_autocast_kept_as_an_object_goes_by_the_precision_in_force(before: bool) -> None:
    context = torch.autocast("cpu", torch.bfloat16)
    x = torch.ones(4, 4)
    halfstep.enable("fp16")
    context = context if before else torch.autocast("cpu", torch.bfloat16)
    with context:
        assert (x @ x).dtype is torch.float16
    halfstep.enable("fp32")
    with context:
        assert (x @ x).dtype is torch.float32
    halfstep.disable()
    with context:
        assert (x @ x).dtype is torch.bfloat16
    assert (x @ x).dtype is torch.float32


def operands(model: Callable[[Tensor], Any]) -> set[torch.dtype]:
    """The dtypes that a model's own ``relu`` sees."""
    Spy.seen.clear()
    model(torch.ones(4, 8))
    return set(Spy.seen)


class Spy(nn.Module):
    seen: list[torch.dtype] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        Spy.seen.append(x.dtype)
        return self.last(x)


@pytest.mark.parametrize("as_function", [False, True])
def test_what_is_compiled_is_compiled_anew(as_function: bool) -> None:
    model = Spy()

    def call(x: Tensor) -> Any:
        return model(x)

    compiled: Any = torch.compile(call if as_function else model, backend="eager")
    assert operands(compiled) == {torch.float32}
    for precision, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.items():
        halfstep.enable(precision)
        assert operands(compiled) == {dtype}
    halfstep.enable("fp16")
    halfstep.disable()
    assert operands(compiled) == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16:init_scale=64"])
def test_a_compiled_model_made_before_trains_as_one_made_after(precision: str) -> None:
    def compiled(model: nn.Module) -> Any:
        return torch.compile(model, backend="aot_eager")

    early = Training(compiled)
    early.steps(1)
    halfstep.enable(precision)
    late = Training(compiled)
    late.net.load_state_dict(early.net.state_dict())
    late.optimizer.load_state_dict(copy.deepcopy(early.optimizer.state_dict()))
    late.schedule.load_state_dict(early.schedule.state_dict())
    late.batches.set_state(early.batches.get_state())
    early.seen.clear()
    assert early.steps(4) == late.steps(4)
    assert same(early, late)
    halfstep.disable()
    assert early.steps(4) == late.steps(4)


@pytest.mark.parametrize("then", ["fp16:loss_scale=256", "bf16", None])
def test_a_graph_outlives_the_switch(then: str | None) -> None:
    training = Training()
    halfstep.enable("fp16:loss_scale=1024")
    training.steps(1)
    loss = training.loss()
    loss.register_hook(training._look)
    halfstep.disable() if then is None else halfstep.enable(then)
    training.seen.clear()
    training.optimizer.zero_grad()
    loss.backward()
    assert training.seen[0] == 1.0  # the gradient of the loss itself, unscaled
    gradients = [p.grad.clone() for p in training.net.parameters() if p.grad is not None]
    training.optimizer.step()
    assert len(gradients) == 6
    assert all(g.isfinite().all() and g.abs().max() < 100 for g in gradients)


class Interrupting:
    """A hook that interrupts the backward pass once, as the stop button of a notebook does."""

    def __init__(self) -> None:
        self.armed = True

    def __call__(self, gradient: Tensor) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16:init_scale=64"])
@pytest.mark.parametrize("then", ["disable", "go on", "switch"])
def test_an_interrupted_backward_pass_leaves_nothing_behind(precision: str, after: int, then: str) -> None:
    """The profiler and other looks are under way in the third step."""
    interrupted, plain = Training(), Training()
    halfstep.enable(precision)
    assert interrupted.steps(after) == plain.steps(after)
    hook = interrupted.net.first.weight.register_hook(Interrupting())
    state = interrupted.batches.get_state()
    with pytest.raises(KeyboardInterrupt):
        interrupted.steps(1)
    hook.remove()
    interrupted.batches.set_state(state)
    interrupted.net.norm.load_state_dict(plain.net.norm.state_dict())  # the forward pass did run
    interrupted.seen, plain.seen = [], []
    if then == "disable":
        halfstep.disable()
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    elif then == "switch":
        halfstep.enable("fp16:init_scale=64" if precision == "bf16" else "bf16")
    assert not torch._C._autograd._profiler_enabled() or then != "disable"
    assert torch.get_autocast_dtype("ipu") is torch.float16
    assert not torch.is_autocast_enabled("cpu")
    assert interrupted.steps(4) == plain.steps(4)
    assert same(interrupted, plain)


def test_an_interrupt_in_the_forward_pass_leaves_no_region_open() -> None:
    training = Training()
    halfstep.enable("bf16")
    handle = training.net.norm.register_forward_hook(_interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.steps(1)
    handle.remove()
    assert not torch.is_autocast_enabled("cpu")
    halfstep.disable()
    x = torch.ones(2, 2)
    assert (x @ x).dtype is torch.float32


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_precision_is_for_some_lines() -> None:
    model = Spy()
    with halfstep.precision("fp16"):
        assert operands(model) == {torch.float16}
        with halfstep.precision("bf16"):
            assert operands(model) == {torch.bfloat16}
        assert operands(model) == {torch.float16}
    assert operands(model) == {torch.float32}

    @halfstep.precision("bf16")
    def decorated() -> set[torch.dtype]:
        return operands(model)

    assert decorated() == {torch.bfloat16}
    assert decorated() == {torch.bfloat16}
    assert operands(model) == {torch.float32}


def test_after_some_lines_the_loss_scale_goes_on_from_where_it_was() -> None:
    training = Training()
    halfstep.enable("fp16:init_scale=64:growth_interval=2")
    training.steps(4)
    assert Session.current is not None
    scale = Session.current.scale_state
    with halfstep.precision("bf16"):
        training.steps(1)
    assert scale is not None
    assert Session.current.scale_state == scale


def test_after_an_exception_in_some_lines_the_precision_is_what_it_was() -> None:
    model = Spy()
    with pytest.raises(ValueError, match="mine"), halfstep.precision("fp16"):
        raise ValueError("mine")
    assert operands(model) == {torch.float32}


def test_a_precision_that_cannot_be_had_leaves_the_one_before_in_force() -> None:
    model = Spy()
    halfstep.enable("bf16")
    with pytest.raises(Unsupported, match="Precision fp8 cannot run here"):
        halfstep.enable("fp8")
    with pytest.raises(UsageError):
        halfstep.enable("fp17")
    assert operands(model) == {torch.bfloat16}
    halfstep.disable()
    with pytest.raises(Unsupported):
        halfstep.enable("fp8")
    assert Session.current is None
    assert operands(model) == {torch.float32}


def test_16_bit_weights_cannot_be_undone() -> None:
    halfstep.enable("bf16-true")
    halfstep.disable()  # nothing was converted
    model = Spy()
    halfstep.enable("bf16-true")
    assert operands(model) == {torch.bfloat16}
    for call in (halfstep.disable, lambda: halfstep.enable("fp32")):
        with pytest.raises(UsageError) as refused:
            call()
        assert str(refused.value) == (
            "halfstep cannot take precision bf16-true off again here: it has made the weights of a model 16-bit, and "
            "their other bits are gone; restart the program."
        )
    assert operands(model) == {torch.bfloat16}
    del model
    gc.collect()
    halfstep.disable()


def test_inside_of_a_pass_or_a_call_it_is_refused() -> None:
    training = Training()
    halfstep.enable("bf16")
    said: list[str] = []

    def disable(*_: object) -> None:
        with pytest.raises(UsageError) as refused:
            halfstep.disable()
        said.append(str(refused.value))

    for handle in (
        training.net.first.register_forward_hook(disable),
        training.net.first.weight.register_hook(disable),
        training.optimizer.register_step_post_hook(disable),
    ):
        before = len(said)
        training.steps(1)
        handle.remove()
        assert len(said) > before
    assert set(said) == {
        "halfstep cannot take precision bf16 off again here: this is inside a model's call, a backward pass or an "
        "optimizer's step; do it between two steps."
    }


def test_what_was_put_over_ours_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    halfstep.enable("bf16")
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "backward", lambda *args, **kwargs: None)
        with pytest.raises(
            UsageError, match="something else was put in the place of torch.autograd.backward"
        ):
            halfstep.disable()
    halfstep.disable()


def test_a_record_is_of_one_precision(tmp_path: Any) -> None:
    halfstep.enable("bf16", record=str(tmp_path / "record.jsonl"))
    with pytest.raises(UsageError, match="call halfstep.disable\\(\\) first"), halfstep.precision("fp16"):
        pass
