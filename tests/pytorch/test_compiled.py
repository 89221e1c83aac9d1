"""A compiled model trains in the recipe as the eager one does, and what it does is seen."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from halfstep.pytorch.recording.profile import _sorted
from halfstep.pytorch.recording.timeline import kinds

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
    ),
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit:DeprecationWarning"
    ),  # PyTorch's own, on import of inductor
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor:UserWarning"
    ),  # while dynamo wraps tensors
]


class Seen(nn.Module):
    """Passes on what it is given, and keeps its dtype in mind."""

    dtype: torch.dtype | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dtype = x.dtype
        return x


def losses(compiled: bool, steps: int = 4) -> tuple[list[float], torch.dtype | None]:
    """The losses, and the dtype inside the model; what comes out of it is fp32 in every recipe."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4), Seen())
    fast = torch.compile(net) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    x = torch.randn(16, 8)
    found = []
    for _ in range(steps):
        out = fast(x)
        assert out.dtype is torch.float32
        loss = (out - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            fast(x)
        found.append(loss.item())
    return found, net[4].dtype


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "dtype", "roundoff"),
    [
        ("fp32", torch.float32, 2.0**-24),
        ("bf16", torch.bfloat16, 2.0**-9),
        ("fp16:init_scale=256", torch.float16, 2.0**-12),
        ("bf16:keep=3", torch.float32, 2.0**-9),
    ],
)
def test_compiled_as_eager(begin, recipe: str, dtype: torch.dtype, roundoff: float) -> None:
    """Compiled code rounds in other places: a few roundings of the output a step, over four steps, squared."""
    torch.compiler.reset()
    begin(recipe)
    eager, inside = losses(compiled=False)
    compiled, inside_compiled = losses(compiled=True)
    assert (inside, inside_compiled) == (dtype, dtype)
    assert compiled == pytest.approx(eager, rel=4 * 2 * 8 * roundoff)
    assert compiled[-1] < compiled[0]


def trained(batches: list[torch.Tensor], compiled: str) -> list[torch.Tensor]:
    """The weights after a step for each of ``batches``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)

    def step(batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        (net(batch).float() - 1).square().mean().backward()
        update()

    update = torch.compile(optimizer.step) if compiled == "the optimizer" else optimizer.step
    run = torch.compile(step) if compiled == "the whole step" else step
    for batch in batches:
        run(batch)
    return [p.detach() for p in net.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the whole step", "the optimizer"])
def test_a_compiled_step_is_skipped_as_an_eager_one(begin, what: str) -> None:
    """Step 2 of 5 overflows: the weights must go the way of the eager program, which leaves it out.

    Compiled kernels round in other places: a few fp32 roundings a step, magnified by AdamW's division to at most its rate
    of 0.01 times the relative error of a gradient, 2^-12 * 8.
    """
    x = torch.randn(16, 8)
    batches = [x * float("inf") if index == 2 else x for index in range(5)]
    torch.compiler.reset()
    takeover = begin("fp16:init_scale=256")
    eager = trained(batches, compiled="nothing")
    assert takeover.scaling.skipped == 1
    compiled = trained(batches, compiled=what)
    assert takeover.scaling.skipped == 2
    for ours, theirs in zip(compiled, eager, strict=True):
        assert (ours - theirs).abs().max() <= 5 * 0.01 * 8 * 2.0**-12


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
@pytest.mark.parametrize("what", ["the whole step", "the optimizer"])
def test_a_compiled_optimizer_stays_compiled_and_its_steps_are_counted(
    begin, what: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 the weights are, bit by bit, those of the program without halfstep; nothing around the step is compiled."""
    from torch._dynamo import convert_frame

    files: list[str] = []
    own = torch.optim.AdamW.step
    while own.__code__.co_name != "_use_grad":  # of takeovers that are over, too: their classes stay wrapped
        own = own.__wrapped__

    def weights() -> list[torch.Tensor]:
        monkeypatch.setattr(torch.optim.AdamW, "step", own)
        torch.compiler.reset()
        batches = [torch.linspace(-scale, scale, 128).reshape(16, 8) for scale in range(1, 5)]
        return trained(batches, compiled=what)

    compile_inner = convert_frame._compile

    def watching(code, *args, **kwargs):
        files.append(code.co_filename)
        return compile_inner(code, *args, **kwargs)

    plain = weights()
    takeover = begin(recipe)
    monkeypatch.setattr(convert_frame, "_compile", watching)
    ours = weights()
    assert takeover.steps == 4
    assert any(name.endswith("adam.py") for name in files)
    assert not any(name.endswith(("step.py", "verdict.py", "recorder.py")) for name in files)
    if recipe == "fp32":
        assert all(map(torch.equal, ours, plain))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_graph_of_a_compiled_optimizer_is_no_model(begin, wrapped: bool) -> None:
    """It holds weights and the count of steps, and a rate that is a tensor enters it: they keep their dtypes."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        def run(*args):
            return graph(*args)

        return run if wrapped else graph

    def losses(dtype: torch.dtype) -> list[float]:
        torch.manual_seed(0)
        torch.compiler.reset()
        net = nn.Linear(8, 4).to(dtype)
        optimizer = torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        step = torch.compile(optimizer.step, backend=backend)
        found = []
        for _ in range(4):
            loss = net(torch.ones(4, 8, dtype=dtype)).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            step()
            schedule.step()
            found.append(loss.item())
        return found

    by_hand = losses(torch.bfloat16)
    assert by_hand[-1] < by_hand[0]
    begin("bf16-true")
    assert losses(torch.float32) == by_hand


@pytest.mark.slow
def test_a_compiled_backward_pass_adds_to_true_gradients(begin) -> None:
    """``torch.compile`` of the pass itself, which meets gradients that are there already."""
    from torch._dynamo import compiled_autograd

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        torch.compiler.reset()
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        for _ in range(3):
            loss = net(torch.linspace(-1, 1, 12).reshape(3, 4)).square().mean()
            with compiled_autograd._enable(torch.compile(backend="eager")):
                loss.backward()
        return [p.grad for p in net.parameters()]

    plain = gradients()
    begin("fp32:loss_scale=1024")
    assert all(map(torch.equal, gradients(), plain))


def test_compiled_code_is_work_in_both_directions() -> None:
    compiled = torch.compile(lambda x: x.sin().exp().sum())
    x = torch.randn(100, requires_grad=True)
    compiled(x).backward()
    with torch.autograd.profiler.profile() as profile:
        compiled(x).backward()
    host, _ = _sorted(profile.kineto_results.events())
    every = [(event.name, kind) for thread in host.values() for event, kind in kinds(thread)]
    assert [kind for name, kind in every if "CompiledFxGraph" in name] == ["other", "other"]
