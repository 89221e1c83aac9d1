"""Lightning as strangers use it: automatic and manual optimization, clipping, accumulation, LBFGS, validation, resume.

    lightning_loops.py FOLDER PRECISION...
"""

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


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=g)
    return TensorDataset(x, x.sum(1, keepdim=True) / 3)


def state_of(module, optimizer):
    state = {k: v.clone() for k, v in module.state_dict().items()}
    for n, slots in enumerate(optimizer.state.values()):
        state |= {f"{n}.{k}": v.clone() for k, v in slots.items() if torch.is_tensor(v)}
    return state


class Automatic(L.LightningModule):
    """A net with BatchNorm; batch 7 of the first epoch overflows on purpose."""

    def __init__(self, poisoned=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
        self.poisoned = poisoned
        self.losses = []

    def training_step(self, batch, i):
        out = self.net(batch[0])
        self.dtype_seen = out.dtype
        loss = F.mse_loss(out, batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=False)
        self.losses.append(loss.detach().clone())
        return loss * float("inf") if self.poisoned and i == 7 and self.current_epoch == 0 else loss

    def validation_step(self, batch, i):
        self.log("val_loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_batch_start(self, batch, i):
        self.before = self.state() if i == 7 else None

    def on_train_batch_end(self, outputs, batch, i):
        if self.poisoned and i == 7 and self.current_epoch == 0:
            after = self.state()
            print("a bad step changed", [k for k in after if not torch.equal(after[k], self.before[k])])

    def state(self):
        return state_of(self, self.optimizers())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


class Manual(L.LightningModule):
    """Two optimizers that take turns, as a GAN's; a loss of batch 7 overflows on purpose."""

    def __init__(self, poisoned=False):
        super().__init__()
        self.automatic_optimization = False
        self.poisoned = poisoned
        self.losses = []
        self.g, self.d = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch, i):
        g, d = self.optimizers()
        real, fake = self.d(batch[0]), self.d(self.g(batch[0].flip(0)).detach())
        d_loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        self.toggle_optimizer(d)
        d.zero_grad()
        bad = self.poisoned and i == 7
        before = state_of(self.d, d) if bad else {}
        self.manual_backward(d_loss * float("inf") if bad else d_loss)
        self.clip_gradients(d, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        d.step()
        if bad:
            after = state_of(self.d, d)
            print("a bad step by hand changed", [k for k in after if not torch.equal(after[k], before[k])])
        self.untoggle_optimizer(d)
        g_loss = F.softplus(-self.d(self.g(batch[0].flip(0)))).mean()
        self.toggle_optimizer(g)
        g.zero_grad()
        self.manual_backward(g_loss)
        g.step()
        self.untoggle_optimizer(g)
        self.losses += [d_loss.detach(), g_loss.detach()]
        self.log_dict({"d_loss": d_loss, "g_loss": g_loss})

    def configure_optimizers(self):
        return torch.optim.SGD(self.g.parameters(), 0.05), torch.optim.Adam(self.d.parameters(), 1e-2)


class Quasi(Automatic):
    """LBFGS evaluates its closure many times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.net[3].parameters(), lr=0.1, max_iter=4)


def fit(module, precision, epochs=2, ckpt=None, **more):
    trainer = L.Trainer(
        max_epochs=epochs, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=4, **more,
    )
    trainer.fit(module, DataLoader(data(128, 1), 8), DataLoader(data(32, 2), 32), ckpt_path=ckpt)
    return trainer


def losses(module, of=""):
    print(f"losses{of}", [f"{loss.item():.9g}" for loss in module.losses])


def show(what, module):
    total = sum(p.double().sum().item() for p in module.parameters())
    print(what, getattr(module, "dtype_seen", ""), f"{total:.17g}")


def main(folder, precisions):
    for precision in precisions:
        print("precision", precision if len(precisions) > 1 else "alone")
        torch.manual_seed(0)
        module = Automatic()
        fit(module, precision, gradient_clip_val=1.0, accumulate_grad_batches=2)
        show("clipped by norm, accumulated:", module)
        losses(module)
        torch.manual_seed(0)
        fit(Automatic(poisoned=True), precision, epochs=1)
        by_value = {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}
        for epochs in (3, 2):
            torch.manual_seed(0)
            module = Automatic()
            trainer = fit(module, precision, epochs=epochs, **by_value)
            losses(module, f" in {epochs} epochs clipped by value")
        trainer.save_checkpoint(f"{folder}/half.ckpt")
        resumed = Automatic()
        fit(resumed, precision, epochs=3, ckpt=f"{folder}/half.ckpt", **by_value)
        show("resumed:", resumed)
        losses(resumed, " resumed")
        fit(Manual(poisoned=True), precision, epochs=1)
        for what, kind in (("two optimizers:", Manual), ("LBFGS:", Quasi)):
            torch.manual_seed(0)
            module = kind()
            fit(module, precision)
            show(what, module)
            losses(module, f" of {what}")


main(sys.argv[1], sys.argv[2:])
