"""Frameworks that make, load or shard weights in 16 bits: fp32 rows train as the same script written for fp32 does."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halfstep.integrations import ADAPTERS
from halfstep.integrations.attached import Attached
from halfstep.options import RunOptions
from halfstep.precisions.recipes import parse
from halfstep.pytorch.takeover import Takeover
from halfstep.takeover.base import Options

BF16, FP32 = torch.bfloat16, torch.float32
#: what a training tells: its losses, and the dtype of its weights
Told = tuple[list[float], set[torch.dtype]]


@pytest.fixture
def under() -> Iterator[Callable[..., Takeover]]:
    """``under("fp32", "accelerate")`` puts a recipe in force, in PyTorch and in frameworks that are imported."""
    begun: list[Takeover] = []

    def start(recipe: str, *frameworks: str) -> Takeover:
        takeover = Takeover(Options(parse(recipe), RunOptions(products="native")))
        begun.append(takeover)
        for name in frameworks:
            adapter = importlib.import_module(f"halfstep.integrations.{ADAPTERS[name]}")
            adapter.install(importlib.import_module(name), Attached(takeover))
        return takeover

    yield start
    for takeover in begun:
        takeover.close()
        takeover.remove()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.norm(self.first(x))))


def checkpoint() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: value.to(BF16) for name, value in Net().state_dict().items()}


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    return x, x[:, :4].argmax(1)


def steps(net: nn.Module, optimizer: Any, backward: Callable[[Tensor], Any]) -> Told:
    x, y = batch()
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(net(x).float(), y)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses, {p.dtype for p in net.parameters()}


def by_fabric(precision: str) -> Told:
    fabric = pytest.importorskip("lightning.fabric").Fabric(precision=precision, accelerator="cpu")
    with fabric.init_module():
        net = Net()
    net.load_state_dict(checkpoint())
    net, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=1e-3))
    return steps(net, optimizer, fabric.backward)


def by_trainer(precision: str) -> Told:
    lightning = pytest.importorskip("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    losses: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.net.load_state_dict(checkpoint())

        def training_step(self, given: list[Tensor], index: int) -> Tensor:
            x, y = given
            bias = torch.zeros(8, dtype=self.dtype)  # as the framework has scripts make tensors
            loss = F.cross_entropy(self.net(x.to(self.dtype) + bias).float(), y)
            losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    trainer = lightning.Trainer(
        precision=precision, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader([batch()] * 4, batch_size=None))
    return losses, {p.dtype for p in module.parameters()} | {module.dtype}


def by_accelerate(precision: str) -> Told:
    """Empty weights that a checkpoint of safetensors is assigned to; ``bf16-true`` has bf16 AMP, too."""
    accelerate, safetensors = pytest.importorskip("accelerate"), pytest.importorskip("safetensors.torch")
    held = {name: value.to(FP32) if precision == "32-true" else value for name, value in checkpoint().items()}
    with accelerate.init_empty_weights():
        net = Net()
    net.load_state_dict(safetensors.load(safetensors.save(held)), assign=True)
    accelerator = accelerate.Accelerator(mixed_precision="no" if precision == "32-true" else "bf16", cpu=True)
    net, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-3))
    return steps(net, optimizer, accelerator.backward)


FRAMEWORKS = {
    "lightning.fabric": by_fabric,
    "lightning.pytorch": by_trainer,
    "accelerate": by_accelerate,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_that_is_asked_for_16_bit_weights(under, framework: str) -> None:
    train = FRAMEWORKS[framework]
    expected = train("32-true")
    also = ["lightning.fabric"] if framework == "lightning.pytorch" else []
    under("fp32", *also, framework)
    assert train("bf16-true") == expected
    assert expected[1] == {FP32}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["fully_shard", "ddp"])
def test_sharded_and_replicated_weights(under, alone: None, way: str) -> None:
    from torch.distributed import fsdp

    def train(dtype: torch.dtype) -> Told:
        net = Net()
        net.load_state_dict({name: value.to(dtype) for name, value in checkpoint().items()}, assign=True)
        if way == "ddp":
            net = nn.parallel.DistributedDataParallel(net)
        else:
            policy = fsdp.MixedPrecisionPolicy(None if dtype is FP32 else dtype, reduce_dtype=dtype)
            for part in (net.first, net.norm, net.last, net):
                fsdp.fully_shard(part, mp_policy=policy)
        return steps(net, torch.optim.AdamW(net.parameters(), lr=1e-3), Tensor.backward)

    expected = train(FP32)
    takeover = under("fp32", "torch.distributed.fsdp")
    told: list[Any] = []
    takeover.recorder.write = lambda event, **fields: told.append(fields) if event == "own_amp" else None  # type: ignore[method-assign]
    assert train(BF16) == expected
    policies = [
        {"what": "MixedPrecisionPolicy(param_dtype=torch.bfloat16)", "asks": "bf16"},
        {"what": "MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)"},
    ]
    weights = {"what": "bf16 weights", "asks": "bf16"}
    assert told == [weights, *(policies if way == "fully_shard" else [])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "peft"])
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_checkpoint_of_transformers_in_bf16(under, tmp_path: Path, recipe: str, adapters: bool) -> None:
    """``from_pretrained`` gives the format that a checkpoint was saved in, unless a script names another.

    PEFT trains adapters in fp32 over the frozen checkpoint, which may stay bf16 where products are.
    """
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft") if adapters else None
    transformers.utils.logging.disable_progress_bar()
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(BF16).save_pretrained(tmp_path)
    ids = torch.randint(0, 64, (4, 8))

    def train(amp: bool, **options: Any) -> Told:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **options).train()
        if peft is not None:
            torch.manual_seed(1)
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            with torch.autocast("cpu", BF16) if amp else nullcontext():
                loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        generated = model.generate(ids[:1], max_new_tokens=2, do_sample=False, cache_implementation="static")
        assert generated.shape == (1, 10)
        held = {p.dtype for p in model.parameters() if p.requires_grad or recipe == "fp32"}
        return losses, held if adapters else held | {model.dtype}

    expected = train(recipe == "bf16", dtype=FP32)
    under(recipe)
    for options in (
        {},
        *([] if adapters else [{"dtype": BF16}, {"device_map": "cpu"}, {"device_map": "auto"}]),
    ):
        assert train(False, **options) == expected
    assert expected[1] == {FP32}
