"""Lightning's DDP on two processes of the CPU, which it starts itself; and its precision plugin, given a word."""

import logging
import sys
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
import lightning as L  # noqa: E402

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Module(L.LightningModule):
    def __init__(self, lbfgs=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
        self.lbfgs = lbfgs

    def training_step(self, batch, i):
        out = self.net(batch[0])
        self.dtype_seen = out.dtype
        return F.mse_loss(out, batch[1])

    def configure_optimizers(self):
        if self.lbfgs:
            return torch.optim.LBFGS(self.net[3].parameters(), lr=0.1, max_iter=4)
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(module, **more):
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, **more)
    trainer.fit(module, DataLoader(TensorDataset(x, x.sum(1, keepdim=True) / 3), 8))
    if trainer.is_global_zero:
        print(module.dtype_seen, f"{sum(p.double().sum().item() for p in module.parameters()):.9g}")
    return trainer


torch.manual_seed(0)
if "plugin" in sys.argv:
    import halfstep

    for lbfgs in (False, True):
        plugin = halfstep.lightning.MixedPrecision("fp16")
        assert isinstance(plugin, L.pytorch.plugins.MixedPrecision)
        trainer = fit(Module(lbfgs), plugins=[plugin], gradient_clip_val=1.0)
        print(type(trainer.precision_plugin).__name__, plugin.scaler is not None and plugin.scaler.skipped_steps)
else:
    fit(Module(), devices=2, strategy=sys.argv[2], precision="16-mixed")
