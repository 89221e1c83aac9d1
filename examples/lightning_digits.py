"""Train a small convolutional network on scikit-learn's handwritten digits, with Lightning.

    python lightning_digits.py                          # about twenty seconds on two cores
    python lightning_digits.py --devices 2              # two processes, on a CPU or on two GPUs
    python lightning_digits.py --checkpoint digits.ckpt # saves every epoch; run it again to resume

Shapes: B images of 1 x 8 x 8, 10 classes.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


class Digits(L.LightningDataModule):
    """1,797 digits of 8 x 8 pixels, from 0 to 16; a fifth is kept for validation."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
        train_x, val_x = (torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8) for x in parts[:2])
        train_y, val_y = (torch.tensor(y) for y in parts[2:])
        self.train, self.val = TensorDataset(train_x, train_y), TensorDataset(val_x, val_y)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, len(self.val))


class Net(L.LightningModule):
    def __init__(self, width, lr, steps):
        super().__init__()
        self.lr, self.steps = lr, steps
        self.net = nn.Sequential(
            *self.block(1, width),
            *self.block(width, 2 * width),
            nn.MaxPool2d(2),
            *self.block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, 10),
        )

    @staticmethod
    def block(c_in, c_out):
        return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()

    def forward(self, images):
        return self.net(images)  # (B, 1, 8, 8) -> (B, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels), sync_dist=True)
        self.log("val_accuracy", (logits.argmax(dim=1) == labels).float().mean(), sync_dist=True)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking and self.trainer.is_global_zero:
            figures = self.trainer.callback_metrics
            loss, accuracy = figures["val_loss"].item(), figures["val_accuracy"].item()
            print(f"epoch {self.current_epoch + 1:3d}  validation loss {loss:.4f}, accuracy {accuracy:.2%}")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parse_args():
    parser = argparse.ArgumentParser(
        description="Train a small network on handwritten digits, with Lightning."
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01, help="peak learning rate")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--devices", type=int, default=1, help="processes, one a device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save here; resume if it exists")
    return parser.parse_args()


def main():
    args = parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")  # hints: more workers for data that is in memory
    L.seed_everything(args.seed, verbose=False)

    digits = Digits(args.batch_size)
    digits.setup("fit")
    steps = args.epochs * -(-len(digits.train) // (args.batch_size * args.devices))
    net = Net(args.width, args.lr, steps)
    saving = []
    if args.checkpoint:
        folder, name = args.checkpoint.absolute().parent, args.checkpoint.stem
        saving = [L.pytorch.callbacks.ModelCheckpoint(folder, name, enable_version_counter=False)]
    trainer = L.Trainer(
        max_epochs=args.epochs,
        devices=args.devices,
        gradient_clip_val=1.0,
        log_every_n_steps=5,
        logger=False,
        callbacks=saving,
        enable_checkpointing=bool(saving),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resumed = args.checkpoint if args.checkpoint and args.checkpoint.exists() else None
    trainer.fit(net, digits, ckpt_path=resumed)


if __name__ == "__main__":
    main()
