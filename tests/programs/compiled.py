"""A compiled model, and a compiled loss with an autocast region of its own."""
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
x, y = torch.randn(32, 8), torch.randn(32, 1)
fast = torch.compile(model)


@torch.compile
def loss_of(out):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (out.float() - y).square().mean()


for step in range(10):
    loss = loss_of(fast(x))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        fast(x)
print(repr(loss.item()), fast(x).dtype)
