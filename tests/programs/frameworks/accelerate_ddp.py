"""Accelerate on the processes that `accelerate launch` starts; the loss of one of them overflows once."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=2)
torch.manual_seed(0)
x = torch.randn(128, 8)
net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
net, optimizer, batches = accelerator.prepare(
    net, torch.optim.AdamW(net.parameters(), lr=1e-2), DataLoader(TensorDataset(x, x.sum(1, keepdim=True) / 3), 8)
)
for epoch in range(2):
    for i, (inputs, targets) in enumerate(batches):
        with accelerator.accumulate(net):
            loss = F.mse_loss(net(inputs), targets)
            if (epoch, i, accelerator.process_index) == (1, 3, 1):
                loss = loss * float("inf")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
weights = torch.cat([p.detach().flatten() for p in net.parameters()])
both = accelerator.gather(weights[None])
accelerator.print("processes", accelerator.num_processes, "agree", torch.equal(both[0], both[-1]))
