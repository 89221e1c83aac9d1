"""A head is trained first; the body joins the optimizer later, as a group with its own rate."""
from common import mlp, mse, weights, x
from torch.optim import SGD

net = mlp()
net[0].requires_grad_(False)
optimizer = SGD(net[2].parameters(), lr=0.01)
for step in range(3):
    if step == 1:
        net[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.01})
    optimizer.zero_grad()
    mse(net(x)).backward()
    optimizer.step()
results = weights(net)
