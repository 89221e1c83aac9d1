"""The examples in every precision with several seeds, and the tables that the documentation shows.

    python benchmarks/gallery.py                       # 2 quiet cores: about 25 minutes; on a GPU larger models, too
    python benchmarks/gallery.py --resume              # go on where it was ended
    python benchmarks/gallery.py --only hand-written --seeds 2 --steps 12 --out /tmp/look       # a look

Each case is one `halfstep compare` in a folder of its own. Where a case has mixed precision written by hand, its
`as-is` row is PyTorch's own recipe, and halfstep's speed over it is given with its interval from the same run. What a
machine cannot measure is told with the reason. Results and tables are written after every case.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comparing import ROOT, add_folder, check_folder, compare, finish, write
from gallery_cases import CASES, Case
from gallery_tables import HOW, Peaks, missing, quality_table, rows, table

from halfstep import codec
from halfstep.meters import Absent, now, summary
from halfstep.pytorch import capabilities

NOT_REACHED = "the benchmark was ended before; --resume goes on"


def run(case: Case, seeds: int, folder: Path) -> dict[str, Any]:
    """The comparison object of a case."""
    options = ["--seeds", str(seeds)]
    options += ["--precisions", case.precisions] if case.precisions else []
    options += ["--steps", str(case.steps)] if case.steps else []
    return compare(folder, options, [case.program, *case.arguments])


def peaks(gpu: bool) -> Peaks:
    """FLOP/s of large square matrix products in each format that the device multiplies natively."""
    device, sizes = ("cuda", (4096, 8192)) if gpu else ("cpu", (256, 512, 1024, 1536))
    can = capabilities.describe().devices[-1].precisions
    found: Peaks = {}
    torch.set_float32_matmul_precision("highest")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if name == "fp32" or can[name].kind == "native":
            found[name] = fastest([torch.randn(n, n, device=device).to(dtype) for n in sizes])
    if gpu:
        torch.set_float32_matmul_precision("high")
        found["tf32"] = fastest([torch.randn(n, n, device=device) for n in sizes])
        torch.set_float32_matmul_precision("highest")
    return found


def fastest(matrices: list[torch.Tensor]) -> dict[str, float | None]:
    """The highest of the rates: small products suit a cache, large ones many units."""
    return max(map(peak, matrices), key=lambda found: found["flops_per_second"] or 0.0)


def peak(x: torch.Tensor, rounds: int = 25) -> dict[str, float | None]:
    """2 n^3 over the median seconds of x @ x, with the interval of the median."""
    times = []
    for _ in range(rounds + 5):
        begin = now()
        x @ x
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(now() - begin)
    center = summary(times[5:])
    assert not isinstance(center, Absent)
    flops = 2.0 * len(x) ** 3
    low, high = (flops / end if end else None for end in (center.high, center.low))
    return {"flops_per_second": flops / center.median, "low": low, "high": high, "size": float(len(x))}


def measured(
    cases: list[Case], options: argparse.Namespace, gpu: bool, of: Peaks
) -> Iterator[tuple[Case, dict[str, Any], str]]:
    """Each case with what the results hold of it, and its section of the page."""
    for case in cases:
        absent = case.unavailable(gpu)
        if absent:
            yield case, {"name": case.name, "absent": absent}, missing(case, absent)
            continue
        begin = time.monotonic()
        comparison = run(case, options.seeds, options.out / case.slug)
        found = list(rows(case, comparison, of))
        result = {
            "name": case.name, "command": [case.program, *case.arguments], "rows": found,
            "recommendation": comparison["recommendation"], "drift": comparison["speed_drift"],
            "environment": comparison["environment"], "seconds": time.monotonic() - begin,
        }  # fmt: skip
        yield case, result, table(case, found, comparison["recommendation"]["text"])


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that were asked for, as long as they were asked to be."""
    found = [case for case in CASES if options.only.lower() in case.name.lower()]
    return [replace(case, steps=options.steps) if options.steps else case for case in found]


def parsed() -> argparse.Namespace:
    """The options.

    Raises:
        SystemExit: the folder holds an earlier run, and --resume was not given.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="end every trial after so many steps")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this in it")
    add_folder(parser, "gallery")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: benchmarks/results/gallery-DEVICE.json"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="default: docs/gallery-DEVICE.md")
    options = parser.parse_args()
    check_folder(parser, options)
    return options


def main() -> None:
    """Run the cases; write the results and the page after each of them."""
    options = parsed()
    machine, gpu = capabilities.describe(), torch.cuda.is_available()
    name = machine.devices[-1].name if gpu else machine.cpu.model
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    of = peaks(gpu)
    cases = chosen(options)
    results = {case.name: {"name": case.name, "absent": NOT_REACHED} for case in cases}
    sections = {case.name: missing(case, NOT_REACHED) for case in cases}
    seeds = f"{options.seeds} seed{'s' * (options.seeds != 1)}"
    threads = f"{machine.threads} thread{'s' * (machine.threads != 1)}"
    head = f"## {name}, {threads}, torch {machine.torch}, {seeds}\n"
    for case, result, section in measured(cases, options, gpu, of):
        results[case.name], sections[case.name] = result, section
        print(section, flush=True)
        whole = {
            "benchmark": "gallery",
            **codec.write(machine),
            "seeds": options.seeds,
            "peaks": of,
            "cases": list(results.values()),
        }
        page = "\n".join([head, HOW, *sections.values(), quality_table()])
        write(
            options.json or ROOT / f"benchmarks/results/gallery-{slug}.json",
            json.dumps(whole, indent=1) + "\n",
        )
        write(options.markdown or ROOT / f"docs/gallery-{slug}.md", page)


if __name__ == "__main__":
    finish(main)
