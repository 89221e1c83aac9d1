"""What the commands that the site shows print: each is run, and its words are kept in docs/outputs/NAME.txt.

    python docs/outputs.py            # all of them: some minutes
    python docs/outputs.py overflow   # those named

None of them tells a time: a figure of speed comes from benchmarks/results, where a quiet machine measured it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).resolve().parent / "outputs"

#: columns of the terminal: what a page of the site holds without a scroll bar
WIDTH = 80

_FAILURES = "tests/programs/failures"

#: name -> command
COMMANDS = {
    "rounding": "halfstep formats 0.1 65520 2^-25",
    "overflow": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/attention_logits.py",
    "overflow_hidden": f"halfstep diagnose --precision fp16 {_FAILURES}/large_variance.py",
    "underflow": f"halfstep diagnose --precision fp16:loss_scale=1 --try-remedies {_FAILURES}/tiny_gradients.py",
    "underflow_emulated": f"halfstep diagnose --emulate --precision fp8 {_FAILURES}/outlier_sample.py",
    "nan_source": f"halfstep diagnose --precision fp16 {_FAILURES}/nan_in_data.py",
    "nan_source_mask": f"halfstep diagnose --precision fp16 {_FAILURES}/fp32_mask.py",
    "domain_error": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/log_probability.py",
    "epsilon_lost": f"halfstep diagnose --precision fp16-true --try-remedies {_FAILURES}/adam_eps.py",
    "lost_update": f"halfstep diagnose --precision bf16-true --try-remedies {_FAILURES}/small_updates.py",
    "saturated_sum": f"halfstep diagnose --precision bf16 --try-remedies {_FAILURES}/running_sum.py",
    "scale_collapse": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/scale_runaway.py",
}


def output_of(name: str) -> str:
    """What the command prints, but for the last lines, which name the page that it wrote."""
    words = shlex.split(COMMANDS[name])
    if words[1] == "diagnose":
        words[2:2] = ["--out", f"halfstep-out/docs/{name}"]
    environment = os.environ | {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{COMMANDS[name]} ended with {done.returncode}:\n{done.stderr}")
    told = re.split(r"^page +/", done.stdout, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.rstrip() for line in told.splitlines()]
    return f"$ {COMMANDS[name]}\n\n" + "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    for name in sys.argv[1:] or COMMANDS:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.txt").write_text(output_of(name), encoding="utf-8")
        print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main()
