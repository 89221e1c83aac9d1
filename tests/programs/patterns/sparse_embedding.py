"""Sparse gradients of an embedding, with a row that occurs twice; SGD and SparseAdam."""
import torch
from common import fill
from torch import nn
from torch.optim import SGD, SparseAdam

embedding = fill(nn.Embedding(10, 4, sparse=True))
results = []
for optimizer in (SGD(embedding.parameters(), lr=0.01), SparseAdam(embedding.parameters(), lr=0.01)):
    optimizer.zero_grad()
    for rows in ([1, 1, 3], [1, 5]):
        embedding(torch.tensor(rows)).square().sum().backward()
    assert embedding.weight.grad.is_sparse
    results.append(embedding.weight.grad.to_dense())
    optimizer.step()
    results.append(embedding.weight.detach().clone())
