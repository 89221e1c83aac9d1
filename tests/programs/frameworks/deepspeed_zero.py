"""DeepSpeed's engine on a CPU, or the same training by hand: ``deepspeed_zero.py STAGE|plain OWN OPTION…``.

OWN is the precision in its configuration (``no``, ``bf16``, ``fp16``, ``torch_autocast``); by hand, that of the AMP
loop. Options: ``accumulate`` two batches; ``bad``: rank 1's loss of step 5 is infinite; ``init``: ``zero.Init``;
``offload``; ``narrow``: a bf16 model; ``no_norm``: of the gradients is computed; ``pipeline``.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

STAGE, OWN, *OPTIONS = sys.argv[1:]
RANK, RANKS = int(os.environ.get("RANK", 0)), 2
STEPS, BATCH, PASSES = 8, 8, 2 if "accumulate" in OPTIONS else 1
BAD = 5 if "bad" in OPTIONS else -1


def make() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.Tanh(), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
    model = nn.Sequential(*layers)
    return model.bfloat16() if "narrow" in OPTIONS else model


def batches() -> Tensor:
    """STEPS x PASSES x RANKS x BATCH inputs."""
    shape = (STEPS, PASSES, RANKS, BATCH, 16)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, inputs: Tensor, bad: bool) -> Tensor:
    targets = inputs.float().sum(-1, keepdim=True).sin()
    loss = nn.functional.mse_loss(model(inputs).float(), targets)
    return loss * torch.inf if bad else loss


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups, as most scripts have them: ZeRO steps once for each."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def plain() -> None:
    """All ranks' batches in one process, by PyTorch's AMP loop. A mean over ranks is a mean over their batches."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(OWN)
    model = make()
    optimizer = torch.optim.SGD(groups(model), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=OWN == "fp16")
    for step, parts in enumerate(batches()):
        losses = []
        for index, inputs in enumerate(parts.reshape(-1, BATCH, 16)):
            with torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
                losses.append(loss_of(model, inputs, step == BAD and index % RANKS == 1))
            scaler.scale(losses[-1] / len(parts) / RANKS).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        tell(step, sum(losses[::RANKS]).item() / PASSES, norm)
    tell_weights([p.detach() for p in model.parameters()])


def tell(step: int, loss: Any, norm: Any) -> None:
    if RANK == 0:
        print(f"step {step} loss {float(loss)!r} norm {float(norm or 0.0)!r}", flush=True)


def tell_weights(weights: list[Tensor]) -> None:
    every = torch.cat([w.double().flatten() for w in weights])
    print(f"rank {RANK} weights {every.square().sum().item()!r} {every.sum().item()!r}", flush=True)


def config() -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": int(STAGE)}
    if "offload" in OPTIONS:
        zero["offload_optimizer"] = {"device": "cpu"}
        zero |= {"offload_param": {"device": "cpu"}} if STAGE == "3" else {}
    if "no_norm" in OPTIONS:
        zero["compute_grad_norm"] = False
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_accumulation_steps": PASSES,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1000,
    }
    made["gradient_clipping"] = 0.0 if "no_norm" in OPTIONS else 0.5
    if OWN != "no":
        made[OWN] = {"enabled": True}
    if OWN == "torch_autocast":
        made[OWN]["dtype"] = "bfloat16"
    if OWN in ("bf16", "fp16"):
        made["communication_data_type"] = OWN
    return made


def engine() -> None:
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo")
    settings = config()
    with deepspeed.zero.Init(config_dict_or_path=settings) if "init" in OPTIONS else nullcontext():
        model = make()
    if "pipeline" in OPTIONS:
        model = deepspeed.pipe.PipelineModule(list(model), num_stages=1)
    optimizer = torch.optim.SGD(groups(model), lr=0.05, momentum=0.9)
    trained, outer, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings, model_parameters=list(model.parameters())
    )
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(OWN, torch.float32)
    for step, parts in enumerate(batches()):
        losses = []
        for inputs in parts[:, RANK]:
            losses.append(loss_of(trained, inputs.to(narrow), step == BAD and RANK == 1))
            trained.backward(losses[-1])
            trained.step()
        tell(step, sum(losses).item() / PASSES, trained.get_global_grad_norm())
    print(f"rank {RANK} made {trained.global_steps} skipped {trained.skipped_steps}", flush=True)
    with deepspeed.zero.GatheredParameters(list(model.parameters())) if STAGE == "3" else nullcontext():
        tell_weights([p.detach() for p in model.parameters()])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    plain() if STAGE == "plain" else engine()
