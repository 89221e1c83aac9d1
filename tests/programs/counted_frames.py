"""Names the callers of its lines by how many frames they are away, and ends in an exception; all of it on stderr."""
import copy
import logging
import warnings

import torch
from torch.utils.checkpoint import checkpoint

warnings.simplefilter("always")
logging.basicConfig(format="%(filename)s:%(lineno)d %(funcName)s %(message)s")


def tell(what, levels=9):
    for level in range(1, levels):
        warnings.warn(f"{what}, {level}", stacklevel=level)
    for level in range(1, min(levels, 6)):  # where fewer called, logging names the outermost one
        logging.warning("%s, %d", what, level, stacklevel=level)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        tell("forward of a function", 7)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        tell("backward of a function")
        return gradient * 2


class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x, fails=False):
        tell("a part", 5)
        if fails:
            return self.layer(x.new_tensor([fails]))
        return Twice.apply(self.layer(x))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x, fails=False):
        tell("a model")
        with torch.autocast("cpu", torch.bfloat16):
            y = checkpoint(self.part, x, fails, use_reentrant=False)
        return y


class Own(torch.optim.SGD):
    def step(self, closure=None):
        tell("an optimizer")
        return super().step(closure)


model = Model()
model.register_forward_hook(lambda *_: tell("a forward hook"))
model.part.register_full_backward_hook(lambda *_: tell("a backward hook"))
model.part.layer.weight.register_hook(lambda gradient: tell("a tensor's hook"))
optimizer = Own(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
scheduler.step()  # PyTorch warns: it comes before the optimizer's
torch.amp.GradScaler("cuda")
for x in torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2):
    def closure():
        tell("a closure")
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
copy.deepcopy(model)
torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)  # deprecated
try:
    model(x, fails=1.0)
except RuntimeError as error:
    raise ValueError("it failed") from error
