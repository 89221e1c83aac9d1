"""A GPU beside the CPU: asked for without being initialised, and no reason to compute on the CPU otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo  # before a GPU is played, which it would look for
from torch import nn

from halfstep.pytorch import devices
from halfstep.pytorch.autocast.regions import Regions
from halfstep.pytorch.capabilities import support
from halfstep.record import Writer, read

from .conftest import Begin


def _initialises(*_: object) -> None:
    raise AssertionError("this initialises CUDA")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that NVML tells of; CUDA's runtime must not be asked anything."""
    cuda = torch.cuda
    monkeypatch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(cuda, "_raw_device_count_nvml", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", _initialises, raising=False)
    monkeypatch.setattr(cuda, "_lazy_init", _initialises)
    monkeypatch.setattr(devices, "_nvml_capability", lambda: (9, 0))


@pytest.mark.usefixtures("gpus")
def test_a_gpu_is_found_without_being_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.device_types() == ("cpu", "cuda")
    assert devices.in_use(("cpu", "cuda")) == ("cpu",)
    assert support("bf16", "cuda").kind == "native"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # by the program, after it has imported PyTorch
    assert devices.accelerator() is None


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("recipe", ["as-is", "fp32", "tf32", "bf16", "fp16", "bf16-true"])
def test_a_recipe_comes_into_force_without_initialising_the_gpu(recipe: str, begin: Begin) -> None:
    assert begin(recipe).arithmetic.device == "cuda"


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_a_program_that_trains_on_the_cpu_beside_a_gpu(recipe: str, begin: Begin, tmp_path: Path) -> None:
    here = support(recipe, "cpu")
    writer = Writer(tmp_path / "record.jsonl")
    takeover = begin(recipe, writer)
    inside: list[bool] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inside.extend(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
            return self.linear(x)

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        net(torch.ones(8, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    takeover.close()
    assert inside == [True, False] * 3
    found = read(tmp_path / "record.jsonl")
    assert found.takeover["device"] == "cpu"
    assert ("product" in found.takeover["fp32_units"]) == (here.kind == "fp32_units")
    assert set(found.sample["matmul_flops"]) == {recipe}
    assert found.own_amp == []


@pytest.mark.usefixtures("gpus")
def test_tf32_is_refused_where_the_program_turns_out_to_train_on_the_cpu(begin: Begin) -> None:
    begin("tf32")
    net = nn.Linear(4, 4)
    with pytest.raises(Exception, match="Precision tf32 cannot run here: a CPU has no TF32 units"):
        net(torch.ones(2, 4)).sum().backward()


@pytest.mark.usefixtures("gpus")
def test_a_region_is_on_the_devices_of_the_parameters() -> None:
    regions = Regions(torch.bfloat16, lambda kind: None)

    def on(*types: str) -> list[str]:
        held = [SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in types]
        return list(regions._devices_of(SimpleNamespace(parameters=lambda: iter(held))))  # type: ignore[arg-type]

    assert on("cuda", "cuda") == ["cuda"]
    assert on("cpu") == ["cpu"]
    assert on("cpu", "cuda") == ["cpu", "cuda"]


@pytest.mark.gpu
def test_cuda_is_not_initialised_by_a_recipe(begin: Begin) -> None:
    begin("bf16")
    assert not torch.cuda.is_initialized()
