"""Train a small GPT on the characters of Python's own standard library.

    python char_gpt.py                            # tiny: a minute or so on two cores
    python char_gpt.py --preset gpt2 --compile    # GPT-2's 124M shape, for a GPU
    python char_gpt.py --checkpoint gpt.pt        # saves as it goes; run it again to resume

Shapes: B sequences, T characters, C channels, H heads, V vocabulary.
"""

from __future__ import annotations

import argparse
import math
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Preset:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int  # T, the context length
    vocab_size: int  # V; ASCII needs 128
    batch_size: int
    lr: float


PRESETS = {
    "tiny": Preset(n_layer=4, n_head=4, n_embd=192, block_size=128, vocab_size=128, batch_size=16, lr=2e-3),
    # GPT-2's own vocabulary size, padded to a multiple of 64, so that a step costs what it costs there.
    "gpt2": Preset(
        n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50304, batch_size=8, lr=6e-4
    ),
}

LOG_INTERVAL = 10
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.1
GRAD_CLIP = 1.0


class CausalSelfAttention(nn.Module):
    def __init__(self, preset: Preset):
        super().__init__()
        self.n_head = preset.n_head
        self.qkv = nn.Linear(preset.n_embd, 3 * preset.n_embd)
        self.proj = nn.Linear(preset.n_embd, preset.n_embd)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        )  # (B, H, T, C/H)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, preset: Preset):
        super().__init__()
        self.fc = nn.Linear(preset.n_embd, 4 * preset.n_embd)
        self.proj = nn.Linear(4 * preset.n_embd, preset.n_embd)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, preset: Preset):
        super().__init__()
        self.norm_1 = nn.LayerNorm(preset.n_embd)
        self.attn = CausalSelfAttention(preset)
        self.norm_2 = nn.LayerNorm(preset.n_embd)
        self.mlp = MLP(preset)

    def forward(self, x):
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    def __init__(self, preset: Preset):
        super().__init__()
        self.wte = nn.Embedding(preset.vocab_size, preset.n_embd)
        self.wpe = nn.Embedding(preset.block_size, preset.n_embd)
        self.blocks = nn.ModuleList(Block(preset) for _ in range(preset.n_layer))
        self.norm = nn.LayerNorm(preset.n_embd)
        self.lm_head = nn.Linear(preset.n_embd, preset.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied

        self.apply(self._init_weights)
        for name, p in self.named_parameters():
            if name.endswith("proj.weight"):  # 2 n_layer residual branches add up: keep their sum's variance
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * preset.n_layer))

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens, targets):
        """The mean cross-entropy, in nats a character. tokens, targets: (B, T)."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.norm(x))  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def load_text():
    """The standard library's top-level modules, in order of name: about 4.5 MB of ASCII codes, in a uint8 tensor."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files).translate(None, delete=bytes(range(128, 256)))
    if not text:
        raise SystemExit("No source of the standard library in " + sysconfig.get_path("stdlib"))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def windows(text, starts, block_size, device):
    """The windows of `text` at `starts`, and the same one character later. Both: (B, T), int64."""
    index = starts[:, None] + torch.arange(block_size + 1)
    chars = text[index].long().to(device)
    return chars[:, :-1], chars[:, 1:]


def random_batch(text, batch_size, block_size, device):
    return windows(text, torch.randint(len(text) - block_size, (batch_size,)), block_size, device)


@torch.no_grad()
def evaluate(model, text, batch_size, block_size, device, n_batches=8):
    """The mean loss over windows spread evenly over `text`: the same ones every time, and no random number drawn."""
    model.eval()
    starts = torch.linspace(0, len(text) - block_size - 1, n_batches * batch_size, dtype=torch.float64).long()
    losses = [model(*windows(text, s, block_size, device)) for s in starts.split(batch_size)]
    model.train()
    return torch.stack(losses).mean().item()


def configure_optimizer(model, lr, device):
    """AdamW; matrices and embeddings decay, biases and norms do not."""
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=device.type == "cuda")


def lr_at(step, steps, peak):
    """Linear warm-up, then a cosine down to a tenth of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def save(path, model, optimizer, step):
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "rng": torch.get_rng_state(),
    }
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)  # a run killed while it saves leaves the last checkpoint whole


def resume(path, model, optimizer, device):
    """Put the checkpoint's state back. Returns the number of steps already done."""
    state = torch.load(path, map_location=device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"].cpu())
    return state["step"]


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small GPT on Python's standard library.")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, help="sequences in a micro-batch (default: the preset's)")
    parser.add_argument("--grad-accum", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: the preset's)")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--eval-interval", type=int, default=100, help="steps between validations")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save here; resume if it exists")
    return parser.parse_args()


def main():
    args = parse_args()
    preset = PRESETS[args.preset]
    batch_size = args.batch_size or preset.batch_size
    lr = args.lr or preset.lr
    device = torch.device(
        args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    torch.manual_seed(args.seed)

    text = load_text()
    train_text, val_text = text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])

    model = GPT(preset).to(device)
    optimizer = configure_optimizer(model, lr, device)
    n_params = sum(p.numel() for p in model.parameters())
    print(
        f"{n_params / 1e6:.1f}M parameters on {device}, {len(train_text) / 1e6:.1f}M characters to learn from"
    )

    first_step = 0
    if args.checkpoint and args.checkpoint.exists():
        first_step = resume(args.checkpoint, model, optimizer, device)
        print(f"resumed from {args.checkpoint} after step {first_step}")
    if args.compile:
        model.compile()

    for step in range(first_step, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, args.steps, lr)

        step_loss = torch.zeros((), device=device)
        for _ in range(args.grad_accum):
            loss = model(*random_batch(train_text, batch_size, preset.block_size, device)) / args.grad_accum
            loss.backward()
            step_loss += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        done = step + 1
        if done == 1 or done % LOG_INTERVAL == 0:
            print(f"step {done:5d}  loss {step_loss.item():.4f}")  # .item() waits for the GPU
        if args.checkpoint and (done % args.eval_interval == 0 or done == args.steps):
            save(args.checkpoint, model, optimizer, done)
        if done % args.eval_interval == 0 and done < args.steps:
            val_loss = evaluate(model, val_text, batch_size, preset.block_size, device)
            print(f"step {done:5d}  validation loss {val_loss:.4f}")

    print(f"validation loss {evaluate(model, val_text, batch_size, preset.block_size, device):.4f}")


if __name__ == "__main__":
    main()
