"""The corners of Lightning: its old name, Fabric, a compiled model.

    lightning_corners.py FOLDER {old-name,fabric,compiled}     the case says its precision itself, bf16-mixed
"""

import logging
import sys
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
CASE, DOUBLE = sys.argv[2].removesuffix("-double"), sys.argv[2].endswith("-double")
if CASE == "fabric":
    from lightning.fabric import Fabric

    pl = None
elif CASE == "old-name":
    import pytorch_lightning as pl
else:
    import lightning.pytorch as pl
for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


def data():
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True) / 3), 8)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))


def trained():
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(net()) if CASE == "compiled" else net()
            self.losses = []

        def training_step(self, batch, i):
            self.out = self.net(batch[0])
            loss = F.mse_loss(self.out, batch[1])
            self.log("train_loss", loss)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = Module()
    trainer = pl.Trainer(max_epochs=1, precision="64-true" if DOUBLE else "bf16-mixed", accelerator="cpu",
                         log_every_n_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, gradient_clip_val=1.0)
    trainer.fit(module, data())
    return module.out, module.losses


def by_fabric():
    fabric = Fabric(precision="64-true" if DOUBLE else "bf16-mixed", accelerator="cpu")
    model = net()
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    losses = []
    for inputs, targets in fabric.setup_dataloaders(data()):
        out = model(inputs)
        loss = F.mse_loss(out, targets)
        losses.append(loss.item())
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        fabric.log("train_loss", loss)
    out.detach().numpy()  # as scripts do with what Fabric gives
    if not DOUBLE:
        from lightning.fabric.plugins.precision import Precision

        class Own(Precision):
            """Of the script's, and leaves formats alone."""

        print("under a plugin of the script's own", Fabric(plugins=[Own()], accelerator="cpu").setup(net())(inputs).dtype)
    before = state_of(model, optimizer)
    fabric.backward(F.mse_loss(model(inputs), targets) * float("inf"))
    optimizer.step()
    after = state_of(model, optimizer)
    print("a bad step changed", [k for k in after if not torch.equal(after[k], before[k])])
    return out, losses


def state_of(module, optimizer):
    state = {k: v.clone() for k, v in module.state_dict().items()}
    for n, slots in enumerate(optimizer.state.values()):
        state |= {f"{n}.{k}": v.clone() for k, v in slots.items() if torch.is_tensor(v)}
    return state


print("precision alone")
out, losses = by_fabric() if CASE == "fabric" else trained()
print("out", out.dtype)
print("losses", [f"{loss:.9g}" for loss in losses])
