"""What halfstep claims of CUDA, each claim a program under plain python and under halfstep.

    python benchmarks/gpu/claims.py --json FILE [--only WORDS] [--processes 5]

Each row has the exit code, what the program said, and what its record has. A claim holds where ``holds`` is true.
Without a GPU the programs run on the CPU, which shows that this file works and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Said = dict[str, Any]

#: seconds after which a program is ended
LIMIT = 150

HEAD = """
import json, os
import torch
def say(**facts):
    print("SAID", json.dumps(facts), flush=True)
"""
TRAINING = (
    HEAD
    + """
here = "cuda" if torch.cuda.is_available() else "cpu"
net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 256)).to(here)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
x = torch.randn(64, 256, device=here)
def step(call=net):
    call(x).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
def synchronize():
    if here == "cuda":
        torch.cuda.synchronize()
"""
)


@dataclass(frozen=True)
class Claim:
    """A claim, and the program that shows whether it holds.

    Attributes:
        precisions: those it is made of.
        program: what says the facts.
        holds: whether they are as claimed: of python's facts and of halfstep's.
        by_python: whether plain python runs it, too.
    """

    precisions: tuple[str, ...]
    program: str
    holds: Callable[[Said, Said], bool]
    by_python: bool = True


def same(python: Said, ours: Said) -> bool:
    """Python and halfstep say the same."""
    return python == ours


def all_true(python: Said, ours: Said) -> bool:
    """Every fact is true."""
    return all(ours.values())


CLAIMS = {
    "fp32 is fp32 although the script allows TF32": Claim(
        ("fp32",),
        TRAINING
        + """
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.conv.fp32_precision = "tf32"
a = torch.full((256, 256), 1 + 2.0**-12, device=here)
images = a[None, None].expand(8, 8, 256, 256).contiguous()
convolved = torch.nn.functional.conv2d(images, torch.eye(8, device=here)[:, :, None, None].contiguous())
step()
say(products=bool((a @ torch.eye(256, device=here) == a).all()), convolutions=bool((convolved == 1 + 2.0**-12).all()))
""",
        all_true,
        by_python=False,
    ),
    "the newer interface to TF32 does not end a recorded run": Claim(
        ("as-is", "fp32", "tf32"),
        TRAINING
        + """
torch.backends.cuda.matmul.fp32_precision = "ieee"
torch.backends.cudnn.conv.fp32_precision = "tf32"
for _ in range(6):
    step()
say(done=True)
""",
        all_true,
    ),
    "a recorded program stays compiled": Claim(
        ("bf16", "fp16"),
        TRAINING
        + """
ran = [0]
def backend(graph, examples):
    def run(*args):
        ran[0] += 1
        return graph.forward(*args)
    return run
compiled, calls = torch.compile(net, backend=backend), []
for _ in range(8):
    before = ran[0]
    step(compiled)
    calls.append(ran[0] - before)
say(calls=calls)
""",
        same,
    ),
    "CUDA graph trees with accumulation, the loss inside": Claim(
        ("bf16", "fp16"),
        TRAINING
        + """
class WithLoss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net
    def forward(self, x):
        return self.net(x).float().square().mean()
compiled = torch.compile(WithLoss(), mode="reduce-overhead" if here == "cuda" else None)
for _ in range(10):
    for _ in range(2):
        compiled(x).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
synchronize()
say(done=True)
""",
        all_true,
    ),
    "make_graphed_callables": Claim(
        ("bf16", "fp16:loss_scale=1024"),
        TRAINING
        + """
call = torch.cuda.make_graphed_callables(net, (x,)) if here == "cuda" else net
for _ in range(8):
    step(call)
synchronize()
say(done=True)
""",
        all_true,
    ),
    "GPUs may be chosen after the import of torch": Claim(
        ("as-is", "fp32", "bf16"),
        HEAD
        + """
os.environ["CUDA_VISIBLE_DEVICES"] = ""
say(seen=torch.cuda.device_count(), available=torch.cuda.is_available())
""",
        same,
    ),
    "a fork may use CUDA": Claim(
        ("as-is", "fp32", "bf16"),
        HEAD
        + """
pid = os.fork()
if pid == 0:
    try:
        torch.ones(1, device="cuda")
    except (AssertionError, RuntimeError) as error:
        print(error)
        os._exit(3)
    os._exit(0)
say(child=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        same,
    ),
    "side streams, workers and pinned copies": Claim(
        ("bf16", "fp16"),
        TRAINING
        + """
import contextlib
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self):
        return 1024
    def __getitem__(self, index):
        return torch.full((256,), index / 1024.0)
if __name__ == "__main__":
    stream = torch.cuda.stream(torch.cuda.Stream()) if here == "cuda" else contextlib.nullcontext()
    synchronize()
    with stream:
        for batch in DataLoader(Numbers(), 64, num_workers=2, pin_memory=here == "cuda"):
            net(batch.to(here, non_blocking=True)).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    synchronize()
    say(finite=all(bool(p.isfinite().all()) for p in net.parameters()))
""",
        all_true,
    ),
    "a CPU's tensors beside a GPU stay fp32": Claim(
        ("bf16", "fp16"),
        TRAINING
        + """
seen = {}
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net
    def forward(self, x):
        seen["beside"] = str((torch.ones(4, 4) @ torch.ones(4, 4)).dtype)
        y = self.net[0](x)
        seen["inside"] = str(y.dtype)
        return self.net[2](self.net[1](y))
step(Net())
say(beside=seen["beside"] == "torch.float32" or here == "cpu", inside=seen["inside"] != "torch.float32")
""",
        all_true,
        by_python=False,
    ),
    "a program that trains on the CPU beside a GPU": Claim(
        ("bf16", "fp16"),
        HEAD
        + """
net = torch.nn.Linear(256, 256)
optimizer = torch.optim.AdamW(net.parameters())
for _ in range(6):
    net(torch.randn(64, 256)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
say(done=True)
""",
        all_true,
    ),
    "peak memory": Claim(
        ("as-is", "fp32"),
        TRAINING
        + """
big = torch.nn.Linear(8192, 8192).to(here) if here == "cuda" else torch.nn.Linear(64, 64)
large = torch.optim.AdamW(big.parameters(), fused=True)
y = torch.randn(big.in_features, big.in_features, device=here)
for _ in range(12):
    big(y).float().square().mean().backward()
    large.step()
    large.zero_grad()
say(peak=torch.cuda.max_memory_allocated() if here == "cuda" else 0)
""",
        lambda python, ours: ours["peak"] <= 1.01 * python["peak"] + 2**20,
    ),
}


def run(program: str, precision: str | None, folder: Path) -> dict[str, Any]:
    """One run: exit code, seconds, what the program said, and what its record has."""
    script, record = folder / "script.py", folder / "record.jsonl"
    script.write_text(program)
    ours = ["-m", "halfstep", "run", "--precision", precision, "--record", str(record)] if precision else []
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *ours, str(script)], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, text = None, f"ended after {LIMIT} s"
    said = [json.loads(line[4:]) for line in text.splitlines() if line.startswith("SAID")]
    row: dict[str, Any] = {
        "precision": precision or "python",
        "code": code,
        "said": said[-1] if said else None,
    }
    row["seconds"] = round(time.monotonic() - began, 1)
    if code != 0 or not said:
        row["printed"] = text[-700:]
    if record.exists():
        events = [json.loads(line) for line in record.read_text().splitlines() if line.startswith("{")]
        row["record"] = [
            e for e in events if e["event"] in ("takeover", "sample", "warning", "absent", "end")
        ]
    return row


def check(name: str) -> list[dict[str, Any]]:
    """The runs of a claim, and for each of halfstep's whether it holds."""
    claim = CLAIMS[name]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # A CPU has no TF32 units: what needs them is left out there.
        precisions = [name for name in claim.precisions if name != "tf32" or torch.cuda.device_count()]
        for index, precision in enumerate([None, *precisions] if claim.by_python else precisions):
            place = Path(folder) / str(index)
            place.mkdir()
            rows.append({"claim": name} | run(claim.program, precision, place))
    python = rows[0]["said"] if claim.by_python else None
    for row in rows[claim.by_python :]:
        compared = python is not None or not claim.by_python
        row["holds"] = (
            row["code"] == 0
            and row["said"] is not None
            and compared
            and claim.holds(python or {}, row["said"])
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default="", help="claims whose name contains this")
    parser.add_argument(
        "--processes", type=int, default=5, help="claims checked at once; nothing here is timed"
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.processes) as pool:
        for found in pool.map(check, [name for name in CLAIMS if options.only in name]):
            rows += found
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
            for row in found:
                verdict = {True: "holds", False: "FAILS", None: ""}[row.get("holds")]
                print(
                    f"{verdict:5} {row['claim']} | {row['precision']} | {row['code']} {row['said']}",
                    flush=True,
                )
                if "printed" in row:
                    print("      " + row["printed"].strip().replace("\n", "\n      "), flush=True)
    return 0 if all(row.get("holds", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
