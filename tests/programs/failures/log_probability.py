"""log(p + 1e-8): in fp16 an unlikely p is 0, and so is 1e-8."""

import torch
import torch.nn as nn
from loop import fit, healthy


class Entropy(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.careful = careful

    def forward(self, logits, targets):
        if self.careful:
            log_p = nn.functional.logsigmoid(logits.float())
        else:
            log_p = torch.log(logits.sigmoid() + 1e-8)
        return -log_p.gather(-1, targets[:, None]).mean()


class Model(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.body = nn.Linear(16, 8)
        self.entropy = Entropy(careful)

    def forward(self, x, targets):
        return self.entropy(self.body(x), targets)


def train(faulty):
    model = Model(careful=not faulty)
    x, targets = 30 * torch.randn(64, 16), torch.randint(8, (64,))
    fit(lambda step: model(x, targets), model.parameters(), lr=1e-3)


if __name__ == "__main__":
    train(not healthy())
