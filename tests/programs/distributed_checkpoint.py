"""Saves and loads by torch.distributed.checkpoint, as arguments say; prints the loss scale's state before and after.

Arguments: save|load, a folder, flat|nested. The scale itself is read where every checkpoint has it.
"""
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
what, folder, form = sys.argv[1:]
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
options = StateDictOptions(flatten_optimizer_state_dict=form == "flat")


def scale():
    return optimizer.state_dict().get("halfstep")


def step(factor):
    optimizer.zero_grad()
    (model(torch.ones(2, 4)).float().square().mean() * factor).backward()
    optimizer.step()


get_optimizer_state_dict(model, optimizer, options=options)  # steps a new optimizer, with gradients of zero
optimizer.state.clear()
step(1.0)
if what == "save":
    step(float("inf"))
    step(float("inf"))
    step(1.0)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}, checkpoint_id=folder)
    print(scale(), optimizer.state[model.weight]["exp_avg"].double().sum().item())
else:
    state = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.load(state, checkpoint_id=folder)
    before = scale()
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
    print(before, scale(), optimizer.state[model.weight]["exp_avg"].double().sum().item(), sep="\n")
