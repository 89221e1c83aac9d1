"""Threads that train one model without locks: here each waits, within its backward pass, for the other to be in its own."""
import threading

import torch
from common import mlp, mse, x

net = mlp()
together = threading.Barrier(2)
errors = []


class Meet(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out):
        return out.clone()

    @staticmethod
    def backward(ctx, gradient):
        try:
            together.wait(timeout=20)
        except threading.BrokenBarrierError:
            pass
        return gradient


def work():
    try:
        mse(Meet.apply(net(x))).backward()
    except Exception as error:
        errors.append(error)
        together.abort()


threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
if errors:
    raise errors[0]
results = [p.grad for p in net.parameters()]
