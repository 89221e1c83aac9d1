"""Runs lines to adopt inside a small script of their framework; prints the matrix-product FLOPs by dtype.

    adopted.py FILE [FIRST]     FILE: [[framework, recipe, lines], ...] in JSON; FIRST: the script's first line
"""

import json
import logging
import sys

exec(" ".join(sys.argv[2:]))
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
import lightning as L  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402
from lightning.fabric import Fabric  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments  # noqa: E402

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import flop_registry  # noqa: E402

for name in ("lightning.pytorch", "lightning.fabric", "transformers"):
    logging.getLogger(name).setLevel(logging.ERROR)

FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class ProductCounter(TorchDispatchMode):
    """Products below autocast, by a mode: a profiler would be in the way of halfstep's own."""

    def __init__(self):
        super().__init__()
        self.flops = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            name = FORMATS[[arg for arg in args if isinstance(arg, torch.Tensor)][-1].dtype]
            self.flops[name] = self.flops.get(name, 0) + formula(*args, **(kwargs or {}), out_val=out)
        return out


torch.manual_seed(0)
INPUTS, TARGETS = torch.randn(8, 4), torch.randn(8, 1)
BATCHES = DataLoader(TensorDataset(INPUTS, TARGETS), 4)


def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def pytorch(lines):
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    names = {"torch": torch, "model": model, "loss_fn": F.mse_loss, "max_norm": 1.0, "clip_value": 1.0,
             "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    head, loop = [], lines.splitlines()
    if "GradScaler" in loop[0]:
        head, loop = loop[:1], loop[1:]
    exec("\n".join(head), names)
    for batch, (inputs, targets) in enumerate([*BATCHES] * 8):  # a scaler starts by skipping some
        exec("\n".join(loop), names | {"batch": batch, "inputs": inputs, "targets": targets})
    assert not any(torch.equal(a, b) for a, b in zip(before[:3], model.parameters())), "it learns"


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, i):
        return F.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning(lines):
    def small(**adopted):
        return L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, **adopted)

    names = {"torch": torch, "Trainer": small}
    exec(lines, names)
    names["trainer"].fit(Module(), BATCHES)


def fabric(lines):
    names = {"torch": torch, "Fabric": lambda **adopted: Fabric(accelerator="cpu", **adopted)}
    exec(lines, names)
    module = net()
    model, optimizer = names["fabric"].setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    for inputs, targets in BATCHES:
        names["fabric"].backward(F.mse_loss(model(inputs), targets))
        optimizer.step()


def accelerate(lines):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    names = {"torch": torch, "Accelerator": lambda **adopted: Accelerator(cpu=True, **adopted)}
    exec(lines, names)
    model = net()
    model, optimizer = names["accelerator"].prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for inputs, targets in BATCHES:
        names["accelerator"].backward(F.mse_loss(model(inputs), targets))
        optimizer.step()


def transformers(lines):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()

    def small(**adopted):
        return TrainingArguments("out", max_steps=2, per_device_train_batch_size=2, save_strategy="no", report_to=[],
                                 disable_tqdm=True, **{"use_cpu": True, **adopted})

    names = {"TrainingArguments": small}
    exec(lines, names)
    config = GPT2Config(vocab_size=8, n_positions=16, n_embd=32, n_layer=1, n_head=2, attn_pdrop=0, bos_token_id=0,
                        eos_token_id=0)
    rows = [{"input_ids": torch.arange(16) % 8, "labels": torch.arange(16) % 8}] * 2
    Trainer(model=GPT2LMHeadModel(config), args=names["arguments"], train_dataset=rows).train()


found = []
for framework, recipe, lines in json.loads(open(sys.argv[1]).read()):
    torch.set_num_threads(1)
    with ProductCounter() as counter:
        globals()[framework](lines)
    found.append([framework, recipe, dict(counter.flops)])
print("found", json.dumps(found))
