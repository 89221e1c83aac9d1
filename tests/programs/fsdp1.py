"""Started by torchrun: rank 0 alone reads a checkpoint and hands it to the others; then FSDP1 is asked for."""
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
for factor in (float("inf"), 1.0) if rank == 0 else (1.0,):
    optimizer.zero_grad()
    (model(torch.ones(2, 4)).float().square().mean() * factor).backward()
    optimizer.step()
state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True)) if rank == 0 else {}
options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
set_optimizer_state_dict(model, optimizer, state, options=options)
found = [None, None]
dist.all_gather_object(found, optimizer.state_dict()["halfstep"])
if rank == 0:
    print(found[0], found[1], sep="\n", flush=True)
dist.barrier()
FullyShardedDataParallel(model)
