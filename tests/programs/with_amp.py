"""A script with the mixed precision of PyTorch's manual, arguments and output of its own."""
import argparse

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--precision", default="its own")
parser.add_argument("--steps", type=int, default=12)
arguments = parser.parse_args()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu")
x, y = torch.randn(32, 8), torch.randn(32, 1)
for step in range(arguments.steps):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
print("precision", arguments.precision, "loss", repr(loss.item()))
