"""Train a small GPT-2 from random weights on Python's own standard library, with Transformers' Trainer.

    python transformers_gpt2.py                       # tiny: a minute or so on two cores
    python transformers_gpt2.py --checkpoint gpt2     # saves into a folder; run it again to resume

Nothing is downloaded: the text is the standard library's, and every byte of it is a token.
Shapes: B sequences, T bytes.
"""

from __future__ import annotations

import argparse
import os
import sysconfig
import tempfile
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)
from transformers.trainer_utils import get_last_checkpoint

CONTEXT = 128  # T
VOCABULARY = 256  # every byte


class Text(torch.utils.data.Dataset):
    """Sequences of T bytes, side by side."""

    def __init__(self, data):
        self.rows = data[: len(data) // CONTEXT * CONTEXT].view(-1, CONTEXT)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index].long()
        return {"input_ids": row, "labels": row}


def load_text():
    """The standard library's top-level modules, in order of name: about 4.5 MB, a tenth for validation."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    cut = len(data) * 9 // 10
    return Text(data[:cut]), Text(data[cut:][: 64 * CONTEXT])


class Say(TrainerCallback):
    """One line where the Trainer logs."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, words in (("loss", "loss"), ("eval_loss", "validation loss")):
            if name in logs:
                print(f"step {state.global_step:5d}  {words} {logs[name]:.4f}")


def make_trainer(args, folder):
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=args.width,
            n_layer=args.layers,
            n_head=args.width // 32,
            bos_token_id=0,
            eos_token_id=0,
            loss_type="ForCausalLM",
        )
    )
    train, validation = load_text()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=args.grad_accum,
        learning_rate=args.lr,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        max_grad_norm=1.0,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=args.eval_interval,
        save_strategy="steps" if args.checkpoint else "no",
        save_steps=args.eval_interval,
        save_total_limit=2,
        use_cpu=args.device == "cpu" or not torch.cuda.is_available(),
        seed=args.seed,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=validation, callbacks=[Say()]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def parse_args():
    parser = argparse.ArgumentParser(
        description="Train a small GPT-2 on the standard library, with Transformers."
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--grad-accum", type=int, default=2, help="batches a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-interval", type=int, default=50, help="steps between validations")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="save here; resume if one is there")
    return parser.parse_args()


def main():
    args = parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(args.seed)

    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(args, args.checkpoint or scratch)
        last = None
        if args.checkpoint and os.path.isdir(args.checkpoint):
            last = get_last_checkpoint(args.checkpoint)
        print(f"{trainer.model.num_parameters() / 1e6:.2f}M parameters on {trainer.args.device}")
        if last:
            print(f"resumed from {last}")
        trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main()
