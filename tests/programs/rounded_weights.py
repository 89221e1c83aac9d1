"""What bf16-lean's numbers are compared with: fp32 weights that a model rounds at each use, half away from zero."""

import torch
import torch.nn.functional as F
from torch import nn

from halfstep.pytorch.lean.split import Parts, split


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, wide):
        parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
        split([wide], [parts])
        return parts.weight

    @staticmethod
    def backward(ctx, gradient):
        return gradient.bfloat16().float()


class RoundedLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, Rounded.apply(self.weight), self.bias)
