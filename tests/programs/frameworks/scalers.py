"""What programs read of the loss scaler of their framework, which they have asked for fp16 mixed precision.

    scalers.py FOLDER {trainer,subclass,fabric,accelerate,transformers}

Step 3 of 6 overflows.
"""

import logging
import sys
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader

warnings.filterwarnings("ignore")
FOLDER, CASE = sys.argv[1:]
OVERFLOWS, STEPS = 3, 6
seen, scales, extra = [], [], []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        self.out = self.layer(x)
        return self.out


def loss_of(net, x, index):
    net(x)
    return net.out.float().square().mean() * (float("inf") if index + 1 == OVERFLOWS else 1.0)


def read(scaler):
    """As scripts do after ``update()``, to see what was skipped and what to save."""
    seen.append((type(scaler).__name__, scaler.is_enabled()))
    scales.append(scaler.get_scale())
    return scaler.state_dict()


def batches():
    torch.manual_seed(0)
    return DataLoader([torch.randn(4) for _ in range(4 * STEPS)], batch_size=4)


def by_trainer():
    import lightning.pytorch as pl
    from lightning.pytorch.plugins import MixedPrecision

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Own(MixedPrecision):
        """Counts its backward passes; its own scaler begins at 1024."""

        def __init__(self):
            super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
            self.passes = 0

        def pre_backward(self, tensor, module):
            self.passes += 1
            return super().pre_backward(tensor, module)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            return loss_of(self.net, batch, index)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Reads(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            self.saved = read(trainer.precision_plugin.scaler)

    torch.manual_seed(0)
    precision = {"precision": "16-mixed"} if CASE == "trainer" else {"plugins": [Own()]}
    reads, module = Reads(), Module()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=[reads], **precision)
    trainer.fit(module, batches())
    extra.append(type(trainer.precision_plugin).__name__)
    extra.append(getattr(trainer.precision_plugin, "passes", None))
    trainer.save_checkpoint(f"{FOLDER}.ckpt")
    saved = torch.load(f"{FOLDER}.ckpt", weights_only=False)
    assert saved[type(trainer.precision_plugin).__qualname__] == reads.saved
    return module.net, reads.saved


def by_fabric():
    from lightning.fabric import Fabric

    fabric = Fabric(precision="16-mixed", accelerator="cpu")
    net = Net()
    net, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.01))
    for index, x in enumerate(fabric.setup_dataloaders(batches())):
        fabric.backward(loss_of(net, x, index))
        optimizer.step()
        optimizer.zero_grad()
        saved = read(fabric._precision.scaler)
    return net.module, saved


def by_accelerate():
    from accelerate import Accelerator
    from accelerate.utils import GradScalerKwargs

    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=1024.0)])
    net = Net()
    net, optimizer, data = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.01), batches())
    for index, x in enumerate(data):
        accelerator.backward(loss_of(net, x, index))
        optimizer.step()
        optimizer.zero_grad()
        extra.append(optimizer.step_was_skipped)
        saved = read(accelerator.scaler)
    accelerator.save_state(f"{FOLDER}.state")
    assert torch.load(f"{FOLDER}.state/scaler.pt") == saved
    return net, saved


def by_transformers():
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Model(Net):
        def forward(self, x):
            super().forward(x)
            scale = float("inf") if len(scales) + 1 == OVERFLOWS else 1.0
            return {"loss": self.out.float().square().mean() * scale}

    class Reads(TrainerCallback):
        def on_step_end(self, *_, **__):
            self.saved = read(trainer.accelerator.scaler)

    reads, net = Reads(), Model()
    arguments = TrainingArguments(FOLDER, fp16=True, use_cpu=True, per_device_train_batch_size=4, num_train_epochs=1,
                                  report_to=[], save_strategy="no", disable_tqdm=True, max_grad_norm=0.0)
    data = [{"x": torch.randn(4)} for _ in range(4 * STEPS)]
    trainer = Trainer(net, arguments, train_dataset=data, callbacks=[reads])
    trainer.train()
    return net, reads.saved


BY = {"trainer": by_trainer, "subclass": by_trainer, "fabric": by_fabric, "accelerate": by_accelerate,
      "transformers": by_transformers}
print("precision alone")
net, saved = BY[CASE]()
print("out", net.out.dtype)
print("scaler", sorted(set(seen)))
print("scales", scales)
print("saved", saved["scale"], saved["_growth_tracker"])
print("extra", extra)
