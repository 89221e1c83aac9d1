"""A model that ``torch.export`` has exported trains as the model itself does."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from ..conftest import Begin


class Casting(nn.Module):
    """As layers that compute in fp32 whatever they are given: an export writes their casts down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        wide: Tensor = hidden.float().softmax(-1).to(hidden.dtype)
        out: Tensor = self.second(wide)
        return out


def model(dtype: torch.dtype) -> nn.Module:
    """With numbers that every format holds exactly."""
    torch.manual_seed(0)
    net = Casting()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 16).round() / 16)
    return net.to(dtype)


def exported(dtype: torch.dtype, **options: object) -> io.BytesIO:
    """The file of a model that was exported without halfstep."""
    file = io.BytesIO()
    program = torch.export.export(model(dtype), (torch.ones(4, 8, dtype=dtype),), **options)  # type: ignore[arg-type]
    torch.export.save(program, file)
    file.seek(0)
    return file


def losses(net: nn.Module, dtype: torch.dtype) -> list[float]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    found = []
    for _ in range(4):
        loss = net(torch.ones(4, 8, dtype=dtype)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("fp32", torch.float32),
        ("fp32", torch.bfloat16),
        ("bf16", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16:init_scale=256", torch.float32),  # an export in bf16 names bf16 in its casts
        ("bf16-true", torch.float32),
        ("bf16-true", torch.bfloat16),
    ],
)
def test_an_exported_model_trains_as_the_model_does(
    begin: Begin, recipe: str, dtype: torch.dtype, strict: bool
) -> None:
    file = exported(dtype, strict=strict)
    begin(recipe)
    assert losses(torch.export.load(file).module(), dtype) == losses(model(dtype), dtype)


def test_other_dtypes_are_asserted(begin: Begin) -> None:
    begin("bf16")
    with pytest.raises(RuntimeError, match="dtype mismatch"):
        torch.ops.aten._assert_tensor_metadata(torch.ones(2), None, None, torch.float64)
    with pytest.raises(RuntimeError, match="sizes mismatch"):
        torch.ops.aten._assert_tensor_metadata(torch.ones(2), [3], None, torch.bfloat16)
