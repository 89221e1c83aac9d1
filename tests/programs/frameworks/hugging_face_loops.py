"""Accelerate and Transformers as strangers use them: accumulation, clipping, schedules, checkpoints, callbacks.

    hugging_face_loops.py FOLDER {no,bf16,fp16,double}...
"""

import os
import sys
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

warnings.filterwarnings("ignore")
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, logging,
)

logging.set_verbosity_error()
logging.disable_progress_bar()


def start_again():
    """Accelerate keeps one precision a process; a notebook does this to choose another."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def accelerated(own, double, folder, poisoned=False):
    start_again()
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=own, cpu=True, gradient_accumulation_steps=2)
    x = torch.randn(64, 8)
    y = x.sum(1, keepdim=True) / 3
    if double:
        x, y = x.double(), y.double()
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)).to(x.dtype)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 16)
    net, optimizer, batches, schedule = accelerator.prepare(
        net, optimizer, DataLoader(TensorDataset(x, y), 8), schedule
    )
    losses, skipped = [], []
    for epoch in range(3):
        for i, (inputs, targets) in enumerate(batches):
            poison = poisoned and (epoch, i) == (1, 3)
            if i % 2 == 0:  # a step begins
                before = state_of(net, optimizer)
            with accelerator.accumulate(net):
                out = net(inputs)
                loss = F.mse_loss(out, targets)
                losses.append(loss.item())
                accelerator.backward(loss * float("inf") if poison else loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    skipped.append(accelerator.optimizer_step_was_skipped)
                schedule.step()
                optimizer.zero_grad()
            if poison:
                after = state_of(net, optimizer)
                print("a bad step changed", [k for k in after if not torch.equal(after[k], before[k])])
                print("its learning rate stays", schedule.get_last_lr()[0] == before["lr"].item(), skipped[-1])
                return
        accelerator.log({"epoch_loss": losses[-1]})
        if epoch == 1:
            accelerator.save_state(folder)
            kept = [p.detach().clone() for p in net.parameters()]
    out = out.detach()
    out.numpy()  # as scripts do with what a prepared model gives
    print("accelerated:", out.dtype, f"{sum(p.double().sum().item() for p in net.parameters()):.17g}")
    print("losses", [f"{loss:.9g}" for loss in losses])
    accelerator.load_state(folder)
    print("restored", all(torch.equal(a, b) for a, b in zip(kept, net.parameters())))


def state_of(net, optimizer):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for n, slots in enumerate(optimizer.state.values()):
        state |= {f"{n}.{k}": v.clone() for k, v in slots.items() if torch.is_tensor(v)}
    # AdamW's own learning rate is what the schedule set; the batches before the last do not move it.
    state["lr"] = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64)
    return state


class Counting(Dataset):
    """Sequences that count."""

    def __init__(self, n):
        self.rows = (torch.arange(n)[:, None] * 5 + torch.arange(16)) % 32

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"input_ids": self.rows[i], "labels": self.rows[i]}


class Say(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "eval_loss"):
            if name in logs:
                print(name, f"{logs[name]:.9g}")


def trained(own, double, folder, steps=8, resume=None):
    start_again()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
                        attn_pdrop=0, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM")
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=8, gradient_accumulation_steps=2, learning_rate=1e-2,
        lr_scheduler_type="constant", use_cpu=True, report_to=[], logging_steps=2, eval_strategy="steps",
        eval_steps=4, save_steps=4, disable_tqdm=True, fp16=own == "fp16", bf16=own == "bf16",
    )
    trainer = Trainer(model=model.double() if double else model, args=arguments, train_dataset=Counting(128),
                      eval_dataset=Counting(16), callbacks=[Say()])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return f"{sum(p.double().sum().item() for p in model.parameters()):.17g}"


class Net(nn.Module):
    """A model of one's own with BatchNorm, as Trainer takes it; one batch may overflow on purpose."""

    def __init__(self, poisoned=None):
        super().__init__()
        self.poisoned, self.losses = poisoned, []
        self.net = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, input_ids, labels=None):
        dtype = self.net[0].weight.dtype
        out = self.net(input_ids.to(dtype) / 32)
        loss = F.mse_loss(out, labels[:, :1].to(dtype) / 32)
        self.losses.append(loss.item())
        return {"loss": loss * float("inf") if len(self.losses) == self.poisoned else loss, "logits": out}


class Watch(TrainerCallback):
    """Compares the state before and after the step of the bad batch, the third."""

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.before = state_of(model, optimizer)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == 3:
            after = state_of(model, optimizer)
            print("a bad step of Trainer changed", [k for k in after if not torch.equal(after[k], self.before[k])])


def regressed(own, double, folder, poisoned=None):
    start_again()
    torch.manual_seed(0)
    arguments = TrainingArguments(
        folder, max_steps=4, per_device_train_batch_size=8, gradient_accumulation_steps=2, learning_rate=1e-2,
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, fp16=own == "fp16", bf16=own == "bf16",
        max_grad_norm=1.0, logging_nan_inf_filter=False,
    )
    net = Net(poisoned).double() if double else Net(poisoned)
    callbacks = [] if poisoned is None else [Watch()]
    trainer = Trainer(model=net, args=arguments, train_dataset=Counting(64), callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if poisoned is None:
        print("losses of Trainer", [f"{loss:.9g}" for loss in net.losses])


def main(folder, precisions):
    for precision in precisions:
        print("precision", precision if len(precisions) > 1 else "alone")
        own, double = "no" if precision == "double" else precision, precision == "double"
        accelerated(own, double, f"{folder}/accelerate")
        whole = trained(own, double, f"{folder}/whole")
        resumed = trained(own, double, f"{folder}/whole", resume=f"{folder}/whole/checkpoint-4")
        print("trained:", whole, "resumed the same:", whole == resumed)
        accelerated(own, double, f"{folder}/accelerate", poisoned=True)
        regressed(own, double, f"{folder}/regressed")
        regressed(own, False, f"{folder}/bad", poisoned=6)


os.makedirs(sys.argv[1], exist_ok=True)
main(sys.argv[1], sys.argv[2:])
