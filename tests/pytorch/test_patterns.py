"""Every training pattern of ``tests/programs/patterns``, in every precision, against float64.

The bound. A number rounded to a format is off by a factor (1 + d), |d| <= u, the unit roundoff. The patterns' numbers are
positive, so a sum is off by no more than its worst term, and errors only add up along a path:

    first layer h = W1 x + b         W1, x, h rounded:      3 u
    a = tanh(h), 0 < h < 1           condition at most 1:   3 u + 1 = 4 u
    second layer o = W2 a + b        W2, o rounded:         4 u + 2 = 6 u; the loss is computed in fp32
    its gradient g = 2 (o - y) / n   rounded:               6 u + 1 = 7 u
    dW2 = g a                        rounded:               7 u + 4 u + 1 = 12 u
    da = W2 g                        W2, da rounded:        7 u + 2 = 9 u
    dh = da (1 - a²)                 condition of 1 - a² in a at most 2 a² / (1 - a²) < 2.8: 9 u + 2.8 * 4 u + 1 < 22 u
    dW1 = dh x                       x, dW1 rounded:        24 u

24 roundings, then; a program with more says how many and why. A weight w - lr g moves by less than its own size, so it
is off by no more than g. Terms in u² are covered by counting u / (1 - 24 u). Hogwild's threads are looked at separately.
"""

from __future__ import annotations

import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.scale import SharedGradients

from ..cli.running import halfstep, python

FOLDER = Path(__file__).parent.parent / "programs" / "patterns"
PATTERNS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("common", "everything", "hogwild"))
ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}
#: of the patterns' own sums in fp32, compared with those in float64
SUMS = 32 * 2.0**-24


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    torch.set_default_dtype(torch.float32)


def run(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The program's names after it has run, with ``dtype`` as PyTorch's default."""
    torch.set_default_dtype(dtype)
    sys.modules.pop("common", None)
    try:
        return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_default_dtype(torch.float32)


def detached(found: dict[str, Any]) -> list[Tensor]:
    return [result.detach().clone() for result in found["results"]]


@pytest.mark.parametrize("name", PATTERNS)
def test_bit_identical_under_a_scale_in_fp32(begin, name: str) -> None:
    plain = detached(run(name))
    begin("fp32:loss_scale=1024")
    for ours, theirs in zip(detached(run(name)), plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16:init_scale=256"])
def test_within_the_bound_of_float64(begin, name: str, precision: str) -> None:
    found = run(name, torch.float64)
    roundings = found.get("roundings", 24)
    exact = detached(found)
    assert all(e.dtype is torch.float64 for e in exact)
    begin(precision)  # fp16 from a scale that nothing here overflows under: a skipped step shows elsewhere
    u = ROUNDOFF.get(precision.split(":")[0], 2.0**-24)
    bound = roundings * u / (1 - roundings * u) + SUMS
    for index, (ours, reference) in enumerate(zip(detached(run(name)), exact, strict=True)):
        worst = ((ours - reference).abs() / reference.abs().clamp_min(1e-30)).max()
        assert worst <= bound, f"result {index} of shape {tuple(ours.shape)}"


def test_threads_that_share_gradients_are_refused_under_a_scale(begin) -> None:
    begin("fp32:loss_scale=1024")
    with pytest.raises(SharedGradients) as caught:
        run("hogwild")
    assert str(caught.value) == (
        "Two threads use the gradients of the same parameters at once, which a loss scale cannot keep apart; "
        "give each thread a copy of the model, let them take turns with a threading.Lock, or use bf16, "
        "which needs no loss scale."
    )


def test_threads_that_share_gradients_are_left_alone_without_a_scale(begin) -> None:
    begin("bf16")
    run("hogwild")


def test_a_step_during_another_threads_pass_is_refused(begin) -> None:
    """The optimizer would see gradients that are scaled still."""
    begin("fp32:loss_scale=1024")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    refused: list[Exception] = []

    def step(gradient: Tensor) -> None:
        def work() -> None:
            try:
                optimizer.step()
            except SharedGradients as error:
                refused.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    weight.register_hook(step)
    weight.sum().backward()
    weight.sum().backward()
    assert len(refused) == 2
    assert torch.equal(weight.grad, torch.full((3,), 2.0))


def test_threads_with_models_of_their_own_take_turns(begin) -> None:
    begin("fp32:loss_scale=1024")
    gradients: list[Tensor] = []

    def work(factor: int) -> None:
        for _ in range(50):
            weight = torch.nn.Parameter(torch.ones(100))
            (weight * factor).sum().backward()
            weight.register_hook(lambda g: gradients.append(g / factor))
            weight.sum().mul(factor).backward()
            gradients.append(weight.grad / factor)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gradients) == 300
    assert all(g.eq(1).all() or g.eq(2).all() for g in gradients)


@pytest.mark.slow
def test_plain_python_and_fp32_agree_bit_for_bit_on_every_pattern() -> None:
    program = str(FOLDER / "everything.py")
    plain = python(program)
    assert plain.stdout.count("\n") == len(PATTERNS), plain.stderr
    for precision in ("fp32", "fp32:loss_scale=1024"):
        ours = halfstep("run", "--precision", precision, program)
        assert ours.stdout == plain.stdout, ours.stderr
