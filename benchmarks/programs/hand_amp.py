"""Trains a GPT or a ResNet-50 on random data with PyTorch's mixed precision written by hand, as its manual says.

    python hand_amp.py --model resnet50 --amp fp16     # autocast and GradScaler
    python hand_amp.py --model gpt2 --amp bf16         # autocast alone

Under halfstep `as-is` is this very loop, and every other precision replaces what the loop asks for: both in one run.
The data are random and stay on the device, so that the step alone is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions (He et al. 2015), the stride in the 3x3 one; C channels to 4 width."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], width: int, classes: int = 1000) -> nn.Sequential:
    """ResNet-50 is ``blocks`` (3, 4, 6, 3) of ``width`` 64; images (B, 3, H, W) to logits (B, classes)."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            inner = width * 2**stage
            layers.append(Bottleneck(channels, inner, 2 if stage and not block else 1))
            channels = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def gpt(preset: str) -> tuple[nn.Module, int, int]:
    """The GPT of examples/char_gpt.py, its context length and vocabulary; called as model(tokens, targets)."""
    spec = importlib.util.spec_from_file_location("char_gpt", EXAMPLES / "char_gpt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    shape = module.PRESETS[preset]
    return module.GPT(shape), shape.block_size, shape.vocab_size


class Task(nn.Module):
    """A model with its loss: (inputs, targets) to a scalar."""

    def __init__(self, model: nn.Module, is_gpt: bool) -> None:
        super().__init__()
        self.model, self.is_gpt = model, is_gpt

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.is_gpt:
            loss: Tensor = self.model(x, y)
            return loss
        return F.cross_entropy(self.model(x), y)


def task(name: str, batch: int, device: torch.device) -> tuple[Task, Tensor, Tensor]:
    """(model with loss, inputs, targets) of a name, on the device."""
    if name in ("gpt2", "tiny"):
        model, length, vocabulary = gpt(name)
        tokens = torch.randint(vocabulary, (batch, length + 1), device=device)
        return Task(model, True).to(device), tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    size = 224 if name == "resnet50" else 64
    made = resnet((3, 4, 6, 3), 64) if name == "resnet50" else resnet((1, 1, 1, 1), 16)
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    return Task(made, False).to(device), images, torch.randint(1000, (batch,), device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description="A training with mixed precision written by hand.")
    parser.add_argument("--model", choices=["gpt2", "tiny", "resnet50", "resnet_tiny"], required=True)
    parser.add_argument("--amp", choices=["none", "bf16", "fp16"], default="none")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="compile the model")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model, x, y = task(args.model, args.batch_size, device)
    if args.compile:
        model.compile()
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=fused)
    # `none` leaves both out: only then is as-is a plain fp32 loop.
    scaler = torch.amp.GradScaler(device.type) if args.amp == "fp16" else None
    for _ in range(args.steps):
        region = (
            contextlib.nullcontext() if args.amp == "none" else torch.autocast(device.type, DTYPES[args.amp])
        )
        with region:
            loss = model(x, y)
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()


if __name__ == "__main__":
    main()
