"""Training that is killed at many random places and resumes from its last checkpoint each time, and the same without.

Every life is a forked process, so that PyTorch is imported once; SIGKILL runs no handler and flushes nothing.
"""
import hashlib
import os
import random
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # optimizers import it at their first step: once, then, and not in every life
from torch import nn

LAST, KILLS = 40, 30
PLACES = ("forward", "backward", "step", "half a checkpoint", "checkpoint")
torch.set_num_threads(1)  # forked processes have no other threads


def train(checkpoint, killed_at=None):
    """To the end, from where ``checkpoint`` left off; returns a digest of weights, statistics and optimizer state."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7)
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"])
        start = saved["step"]

    def reached(place):
        if (step, place) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    for step in range(start, LAST):
        x = torch.randn(32, 8)
        optimizer.zero_grad()
        loss = net(x).float().square().mean()
        reached("forward")
        loss.backward()
        reached("backward")
        optimizer.step()
        scheduler.step()
        reached("step")
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save(state | {"rng": torch.get_rng_state(), "step": step + 1}, f"{checkpoint}.new")
        if (step, "half a checkpoint") == killed_at:
            os.truncate(f"{checkpoint}.new", 1000)
        reached("half a checkpoint")
        os.replace(f"{checkpoint}.new", checkpoint)
        reached("checkpoint")
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return f"{digest.hexdigest()} {sorted(optimizer.state_dict().get('halfstep', {}).items())}"


def live(checkpoint, killed_at=None):
    """One life in a process of its own: its exit status, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        checkpoint.with_suffix(".digest").write_text(train(checkpoint, killed_at))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


folder = Path(sys.argv[1])
chance = random.Random(int(sys.argv[2]))
deaths = sorted((chance.randrange(LAST), chance.choice(PLACES)) for _ in range(KILLS))
deaths = sorted(set(deaths), key=lambda death: (death[0], PLACES.index(death[1])))
assert live(folder / "whole.pt") == 0
for death in deaths:
    assert live(folder / "killed.pt", death) == -signal.SIGKILL, death
assert live(folder / "killed.pt") == 0
print("killed", len(deaths), "times")
print((folder / "whole.digest").read_text())
print((folder / "killed.digest").read_text())
