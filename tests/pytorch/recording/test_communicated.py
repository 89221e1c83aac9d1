"""The format that gradients are sent in is told where a communication hook changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from halfstep.pytorch.recording.products import ProductCounter

from ..conftest import Begin

Hook = Callable[[Any, Any], Any]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def by_hand(dtype: torch.dtype) -> Hook:
    """As a script writes one: PyTorch's own for bf16 is refused on a CPU."""

    def hook(state: Any, bucket: Any) -> Any:
        sent = bucket.buffer().to(dtype)
        future = distributed.all_reduce(sent, async_op=True).get_future()
        return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))

    hook.__annotations__ = {}  # PyTorch takes a string, as these are here, for a wrong type
    return hook


def gradient(hook: Hook | None, sent: str) -> torch.Tensor:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 1))
    if isinstance(hook, torch.distributed.BuiltinCommHookType):
        model._register_builtin_comm_hook(hook)
    elif hook is not None:
        model.register_comm_hook(None, hook)
    x = torch.randn(8, 4)
    with ProductCounter() as counter:
        for _ in range(2):
            model.zero_grad()
            model(x).square().mean().backward()
    assert counter.counted.reduced.keys() == {sent}
    found = model.module.weight.grad
    assert found is not None
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["fp32", "as-is"])
@pytest.mark.parametrize(
    ("hook", "format"),
    [
        (None, None),
        (default_hooks.allreduce_hook, None),
        (default_hooks.fp16_compress_hook, "fp16"),
        (by_hand(torch.bfloat16), "bf16"),
        (torch.distributed.BuiltinCommHookType.FP16_COMPRESS, "fp16"),
        (torch.distributed.BuiltinCommHookType.ALLREDUCE, None),
    ],
    ids=["none", "fp32", "fp16", "bf16", "fp16 in C++", "fp32 in C++"],
)
def test_what_a_hook_sends_is_told_once(
    begin: Begin, alone: None, recipe: str, hook: Hook | None, format: str | None
) -> None:
    expected = gradient(hook, format or "fp32")
    takeover = begin(recipe)
    said: list[str] = []
    takeover.options = replace(takeover.options, say=said.append)
    written: list[dict[str, Any]] = []
    takeover.options.writer.write = lambda event, **fields: written.append({"event": event, **fields})  # type: ignore[method-assign]
    assert torch.equal(gradient(hook, format or "fp32"), expected)
    told = [fields["text"] for fields in written if fields["event"] == "warning"]
    words = "a communication hook of the program's own sends gradients from rank to rank in {}; they are fp32"
    assert told == ([] if format is None else [words.format(format)])
    assert said == ([] if recipe == "as-is" else told)
