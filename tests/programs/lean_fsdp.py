"""FSDP2 on two processes under bf16-lean, and under bf16 with weights that the program rounds at each use.

A line for each way: whether the losses, the weights and AdamW's state are those of the rounded weights, bit for bit,
and for the first of them the bytes that each process stores, and how far the losses are off one process's that has the
whole batch. Then whether a run that is resumed from a distributed checkpoint goes on as if it had not ended, what is
left of a model that is moved and taken off again, the same with other recipes, and what is refused.
"""

import gc
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import halfstep
from halfstep.pytorch.recording.stored import stored_in
from rounded_weights import RoundedLinear

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
STEPS, PASSES = 4, 3


def make(linear):
    """The second layer has an odd number of rows: the processes' shards differ."""
    torch.manual_seed(0)
    return nn.Sequential(linear(8, 17), nn.Tanh(), nn.LayerNorm(17), linear(17, 5), nn.GELU(), linear(5, 2))


def sharded(linear, mesh=(ranks,), **options):
    net = make(linear)
    names = ("replicate", "shard")[-len(mesh) :]
    options = {name: value() if callable(value) else value for name, value in options.items()}
    options["mesh"] = init_device_mesh("cpu", mesh, mesh_dim_names=names)
    fully_shard(net[0], **options)
    fully_shard(net[3], **options)
    return fully_shard(net, **options)


def batch(step, part):
    x = torch.randn(4 * ranks, 8, generator=torch.Generator().manual_seed(100 * step + part))
    return x.to(torch.float32)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def round_gradients(net):
    """Those of split weights are bf16 after one pass; several passes are added up in fp32."""
    for parameter in net.parameters():
        if parameter.ndim > 1 and parameter.shape[0] > 1:
            parameter.grad = parameter.grad.bfloat16().float()


def train(
    net, optimizer, steps=range(STEPS), passes=1, synchronized=False, clip=False, write=False, by_hand=False
):
    losses = []
    for step in steps:
        for part in range(passes):
            x = batch(step, part)
            if isinstance(next(net.parameters()), DTensor):
                x = x.chunk(ranks)[rank]
                net.set_requires_gradient_sync(synchronized or part == passes - 1)
            loss = (net(x).float() - x[:, :2].sin()).square().mean() / passes
            loss.backward()
            losses.append(loss.detach())
            if by_hand and part == 0 and (synchronized or passes == 1):
                round_gradients(net)
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            if by_hand:
                round_gradients(net)
        optimizer.step()
        optimizer.zero_grad()
        if write:
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.mul_(0.999)
    return torch.stack(losses)


def everything(net, optimizer):
    weights = [whole(value).clone() for value in get_model_state_dict(net).values()]
    assert {value.dtype for value in weights} == {torch.float32}
    return weights + [whole(v).clone() for s in optimizer.state.values() for v in s.values() if v.ndim]


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01)


def run(linear, options, ways, **more):
    net = sharded(linear, **options)
    optimizer = adamw(net)
    losses = train(net, optimizer, **ways, **more)
    stored = stored_in(net.parameters(), [], [optimizer])["weights"]
    return [losses, *everything(net, optimizer)], stored


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def agreed(value):
    """What every process has found, in order."""
    found = [None] * ranks
    dist.all_gather_object(found, value)
    return found


def say(*words):
    if rank == 0:
        print(*words, flush=True)


def policy():
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


WAYS = {
    "plain": ({}, {}),
    "accumulated": ({}, {"passes": PASSES}),
    "synchronized": ({"reshard_after_forward": False}, {"passes": PASSES, "synchronized": True}),
    "clipped": ({"mp_policy": policy}, {"clip": True}),
    "written": ({}, {"write": True}),
    "replicated": ({"mesh": (ranks, 1)}, {}),
}


def resumed(folder):
    """Whether it goes on from a distributed checkpoint as it would have gone on."""
    net = sharded(nn.Linear)
    optimizer = adamw(net)
    train(net, optimizer, range(2))
    model_state, optimizer_state = get_state_dict(net, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    expected = [train(net, optimizer, range(2, 4)), *everything(net, optimizer)]
    again = sharded(nn.Linear)
    train(again, other := adamw(again), range(1))  # it may have trained before it is loaded
    state = dict(zip(("model", "optimizer"), get_state_dict(again, other), strict=True))
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(again, other, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return same([train(again, other, range(2, 4)), *everything(again, other)], expected)


def moved_and_taken_off():
    """Moved as by ``to``, and fp32 again: all numbers stay."""
    net = sharded(nn.Linear)
    optimizer = adamw(net)
    train(net, optimizer, range(2))
    held = {name: whole(value).clone() for name, value in net.state_dict().items()}
    net.to("cpu")
    moved = same([whole(value) for value in net.state_dict().values()], held.values())
    train(net, optimizer, range(2, 3))
    again = {name: whole(value).clone() for name, value in net.state_dict().items()}
    lean = stored_in(net.parameters(), [], [])["weights"].keys()
    halfstep.disable()
    plain = same([whole(value) for value in net.state_dict().values()], again.values())
    train(net, optimizer, range(3, 4))
    return moved, sorted(lean), plain, sorted(stored_in(net.parameters(), [], [])["weights"])


halfstep.enable("bf16")
expected = {way: run(RoundedLinear, *options, by_hand=True)[0] for way, options in WAYS.items()}
halfstep.disable()
halfstep.enable("bf16-lean")
for way, options in WAYS.items():
    found, stored = run(nn.Linear, *options)
    if way == "clipped":  # the norm of all gradients is added up in another order
        off = max((a - b).abs().max().item() for a, b in zip(found, expected[way], strict=True))
        say(way, "as rounded within 1e-6", agreed(off < 1e-6))
        continue
    say(way, "as rounded", agreed(same(found, expected[way])))
    if way == "plain":
        say("stored", *agreed(stored))
        alone = make(nn.Linear)
        losses = train(alone, adamw(alone))
        dist.all_reduce(found[0], dist.ReduceOp.AVG)
        say("off one process by", (found[0] - losses).abs().max().item())
say("resumed", agreed(resumed(sys.argv[1] + "/lean")))
say("moved, taken off", *moved_and_taken_off())
for recipe in ("bf16-lean:states=bf16", "bf16-sr:states=bf16"):
    halfstep.enable(recipe)
    found, stored = run(nn.Linear, {"mesh": (ranks, 1)}, {})
    numbers = torch.cat([t.double().flatten() for t in found[1:]]).tolist()
    say(recipe, "all alike", all(numbers == other for other in agreed(numbers)), stored)
    if recipe.startswith("bf16-lean"):
        say("resumed", agreed(resumed(sys.argv[1] + "/states")))
    halfstep.disable()
halfstep.enable("bf16-lean")
net = parallelize_module(make(nn.Linear), init_device_mesh("cpu", (ranks,)), {"0": ColwiseParallel()})
try:
    net[0](batch(0, 0))
except halfstep.HalfstepError as error:
    say(error)
dist.barrier()
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
