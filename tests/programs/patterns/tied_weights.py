"""One weight used as embedding and as head."""
import torch
from common import fill
from torch import nn
from torch.optim import SGD

roundings = 40  # the softmax and its difference from the target come on top of one layer
embedding, head = fill(nn.Embedding(10, 8)), nn.Linear(8, 10, bias=False)
head.weight = embedding.weight
optimizer = SGD(head.parameters(), lr=0.01)
tokens = torch.arange(20) % 10
head(embedding(tokens)).square().mean().backward()
results = [embedding.weight.grad.clone()]
optimizer.step()
results.append(embedding.weight.detach())
