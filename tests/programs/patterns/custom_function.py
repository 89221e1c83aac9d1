"""A custom autograd function that goes back through a graph of its own inside its backward pass."""
import torch
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD


class Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        ctx.save_for_backward(hidden)
        return hidden.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (hidden,) = ctx.saved_tensors
        with torch.enable_grad():
            again = hidden.detach().requires_grad_()
            (inner,) = torch.autograd.grad(again.tanh(), again, gradient)
        return inner


net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
mse(net[2](Recomputed.apply(net[0](x)))).backward()
results = gradients(net)
optimizer.step()
results += weights(net)
