"""A compiled model trains in the recipe as the eager one does."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

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


def losses(compiled: bool, steps: int = 4) -> tuple[list[float], torch.dtype]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
    fast = torch.compile(net) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    x = torch.randn(16, 8)
    found = []
    for _ in range(steps):
        out = fast(x)
        loss = (out.float() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            fast(x)
        found.append(loss.item())
    return found, out.dtype


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
    eager, _ = losses(compiled=False)
    compiled, out = losses(compiled=True)
    assert out is dtype
    assert compiled == pytest.approx(eager, rel=4 * 2 * 8 * roundoff)
    assert compiled[-1] < compiled[0]
