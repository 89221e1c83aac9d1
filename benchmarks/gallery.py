"""The examples in every precision with several seeds, and the tables that the documentation shows.

    python benchmarks/gallery.py                       # on a CPU some 30 minutes; on a GPU the larger models, too
    python benchmarks/gallery.py --only hand-written --seeds 2 --steps 12      # a look

Each case is one `halfstep compare`. Where a case has mixed precision written by hand, its `as-is` row is PyTorch's own
recipe, and halfstep's speed over it is given with its interval from the same run. Utilisation is the FLOPs of a step's
matrix products and convolutions over its seconds, as a share of a large matrix product's rate that is measured here.
What a machine cannot measure is left out of its table with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from halfstep.comparison.intervals import ratio_of_medians
from halfstep.comparison.rows import WARMUP
from halfstep.meters import Absent, now, summary
from halfstep.pytorch import capabilities
from halfstep.report import units

ROOT = Path(__file__).resolve().parent.parent
HAND = "benchmarks/programs/hand_amp.py"


@dataclass(frozen=True)
class Case:
    """One comparison: the command, its precisions, what a sample is, and figures that others have published."""

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    needs: str = "torch"
    precisions: str | None = None
    steps: int | None = None
    unit: str = "samples"
    per_sample: int = 1
    gpu: bool = False
    published: str = ""


GPT2 = "tokens/s, one GPU, published: nanoGPT on A100 107k; llm.c on H100 468k; modded-nanogpt on H100 462k."
RESNET = (
    "images/s, one GPU, published: A100 TF32 938, AMP 2470 (2.63×); V100 FP32 367, AMP 1200 (3.26×). Final top-1 of "
    "Micikevicius et al. 2017: FP32 75.92 %, mixed 76.04 %."
)

CASES = [
    Case("Residual network, digits", "examples/digits_cnn.py", ("--epochs", "4"), unit="images"),
    Case("Small GPT", "examples/char_gpt.py", ("--steps", "100"), unit="tokens", per_sample=128),
    Case("Lightning, digits", "examples/lightning_digits.py", ("--epochs", "3"), needs="lightning", unit="images"),
    Case("Transformers, GPT-2", "examples/transformers_gpt2.py", ("--steps", "60"), needs="transformers"),
    Case("Keras, digits", "examples/keras_digits.py", ("--epochs", "3"), needs="keras", unit="images"),
    Case("TensorFlow loop, digits", "examples/tf_loop.py", ("--epochs", "3"), needs="tensorflow", unit="images"),
    *(
        Case(f"{name}, hand-written {amp}", HAND, ("--model", model, "--amp", amp, "--batch-size", str(batch)),
             precisions=f"fp32,{amp},as-is", steps=40, unit=unit, per_sample=per)
        for name, model, batch, unit, per in (("Small GPT", "tiny", 8, "tokens", 128),
                                              ("Small ResNet", "resnet_tiny", 16, "images", 1))
        for amp in ("bf16", "fp16")
    ),
    *(
        Case(f"{name}, hand-written {amp}", HAND, ("--model", model, "--amp", amp, "--batch-size", str(batch)),
             precisions=f"fp32,tf32,{amp},as-is", steps=100, unit=unit, per_sample=per, gpu=True, published=published)
        for name, model, batch, unit, per, published in (("GPT-2 124M", "gpt2", 16, "tokens", 1024, GPT2),
                                                         ("ResNet-50", "resnet50", 128, "images", 1, RESNET))
        for amp in ("bf16", "fp16")
    ),
]  # fmt: skip


def available(case: Case, gpu: bool) -> str:
    """Why a case cannot be run here; empty if it can."""
    if case.gpu and not gpu:
        return "needs a GPU, and there is none here"
    if not (ROOT / case.program).exists():
        return f"{case.program} is not there"
    return "" if importlib.util.find_spec(case.needs) else f"{case.needs} is not installed"


def compare(case: Case, seeds: int) -> dict[str, Any]:
    """The comparison object of a case.

    Raises:
        RuntimeError: no trial ran to its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "halfstep",
            "compare",
            "--seeds",
            str(seeds),
            "--out",
            f"{folder}/out",
        ]
        command += ["--json", f"{folder}/c.json"]
        command += [] if case.precisions is None else ["--precisions", case.precisions]
        command += [] if case.steps is None else ["--steps", str(case.steps)]
        done = subprocess.run(
            [*command, case.program, *case.arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{case.name}: {(done.stderr or done.stdout)[-500:]}")
        found: dict[str, Any] = json.loads(Path(folder, "c.json").read_text(encoding="utf-8"))
        return found


def peaks(gpu: bool) -> dict[str, dict[str, float | None]]:
    """FLOP/s of a large square matrix product in each format that the device multiplies natively."""
    device, size = ("cuda", 8192) if gpu else ("cpu", 1536)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if name != "fp32" and capabilities.describe()["devices"][-1]["precisions"][name]["kind"] != "native":
            continue
        torch.set_float32_matmul_precision("highest")
        found[name] = peak(torch.randn(size, size, device=device).to(dtype))
    if gpu:
        torch.set_float32_matmul_precision("high")
        found["tf32"] = peak(torch.randn(size, size, device=device))
        torch.set_float32_matmul_precision("highest")
    return found


def peak(x: torch.Tensor, rounds: int = 15) -> dict[str, float | None]:
    """2 n^3 over the median seconds of x @ x, with the interval of the median."""
    times = []
    for _ in range(rounds + 3):
        begin = now()
        x @ x
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(now() - begin)
    center = summary(times, warmup=3)
    assert not isinstance(center, Absent)
    flops = 2.0 * len(x) ** 3
    return {
        "flops_per_second": flops / center.median,
        "low": flops / center.high if center.high else None,
        "high": flops / center.low if center.low else None,
    }


def rows(
    case: Case, comparison: dict[str, Any], measured: dict[str, dict[str, float | None]]
) -> Iterator[dict[str, Any]]:
    """One row a precision of the table."""
    for verdict in comparison["verdicts"]:
        trials = [
            t for t in comparison["trials"] if t["precision"] == verdict["precision"] and t["status"] == "ok"
        ]
        rates = [t["samples_per_second"] * case.per_sample for t in trials if t["samples_per_second"]]
        joules = [t["joules_per_step"] for t in trials if t.get("joules_per_step")]
        yield {
            "precision": verdict["precision"],
            "status": verdict["status"],
            "ran_as": verdict["ran_as"],
            "step_time": verdict["step_time"],
            "speed_ratio": verdict["speed_ratio"],
            "over_hand_written": over_hand_written(comparison, verdict["precision"]),
            "rate": spread(rates),
            "unit": f"{case.unit}/s",
            "utilisation": utilisation(verdict, trials, measured),
            "peak_memory": verdict["peak_memory"],
            "memory_ratio": verdict["memory_ratio"],
            "joules_per_step": spread(joules),
            "loss": (verdict["loss"] or {}).get("final"),
            "quality": verdict["quality"],
        }


def spread(values: list[float]) -> dict[str, float] | None:
    """Median and range over the trials."""
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "low": ordered[0], "high": ordered[-1]} if ordered else None


def over_hand_written(comparison: dict[str, Any], precision: str) -> dict[str, float | None] | None:
    """How many times as fast as the loop written by hand (as-is), the trials interleaved."""
    times = {
        p: [
            t["step_times"][WARMUP:]
            for t in comparison["trials"]
            if t["precision"] == p and len(t["step_times"]) > WARMUP
        ]
        for p in ("as-is", precision)
    }
    if precision in ("as-is", "fp32") or not times["as-is"] or not times[precision]:
        return None
    ratio = ratio_of_medians(times["as-is"], times[precision])
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def utilisation(
    verdict: dict[str, Any], trials: list[dict[str, Any]], measured: dict[str, dict[str, float | None]]
) -> dict[str, Any] | None:
    """The rate of a step's matrix products as a share of the measured peak of the format that most of them ran in."""
    flops = next((t["matmul_flops"] for t in trials if t.get("matmul_flops")), None)
    if not flops or not verdict["step_time"]:
        return None
    format_ = max(flops, key=lambda name: flops[name])
    units_of = "fp32" if "products in fp32 units" in (verdict["ran_as"] or "") else format_
    top = (measured.get(units_of) or {}).get("flops_per_second")
    if top is None:
        return None
    return {"share": sum(flops.values()) / verdict["step_time"]["median"] / top, "of": units_of}


def table(case: Case, found: list[dict[str, Any]]) -> str:
    """A case as a Markdown table; columns without any figure are left out."""
    columns = {
        "precision": lambda r: f"`{r['precision']}`",
        "step": lambda r: shown(r["step_time"], "s", "median"),
        "speed": lambda r: shown(r["speed_ratio"], "×"),
        "over hand-written": lambda r: shown(r["over_hand_written"], "×"),
        f"{case.unit}/s": lambda r: shown(r["rate"], "", "median"),
        "of peak": lambda r: (
            f"{r['utilisation']['share']:.0%} of {r['utilisation']['of']}" if r["utilisation"] else ""
        ),
        "peak memory": lambda r: shown(r["peak_memory"], "B", "median"),
        "J/step": lambda r: shown(r["joules_per_step"], "J", "median"),
        "final loss": lambda r: shown(r["loss"], "", "median"),
        "quality": lambda r: r["quality"]["words"] if r["status"] in ("ok", "diverged") else r["status"],
    }
    cells = [[cell(row) for row in found] for cell in columns.values()]
    kept = [(name, column) for name, column in zip(columns, cells, strict=True) if any(column)]
    lines = [[name for name, _ in kept], ["---"] * len(kept)]
    lines += [[column[i] for _, column in kept] for i in range(len(found))]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {case.name}\n\n`{' '.join((case.program, *case.arguments))}`\n\n{body}\n" + (
        f"\n{case.published}\n" if case.published else ""
    )


def shown(figure: dict[str, Any] | None, unit: str, middle: str = "value") -> str:
    return "" if not figure else units.pm(figure[middle], figure.get("low"), figure.get("high"), unit)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="end every trial after so many steps")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this in it")
    parser.add_argument("--json", metavar="FILE", help="default: benchmarks/results/gallery-DEVICE.json")
    parser.add_argument("--markdown", metavar="FILE", help="default: docs/gallery-DEVICE.md")
    options = parser.parse_args()
    machine, gpu = capabilities.describe(), torch.cuda.is_available()
    name = machine["devices"][-1]["name"] if gpu else machine["cpu"]["model"]
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    measured = peaks(gpu)
    results: dict[str, Any] = {
        "benchmark": "gallery",
        **machine,
        "seeds": options.seeds,
        "peaks": measured,
        "cases": [],
    }
    text = [f"## {name}, torch {machine['torch']}, {options.seeds} seeds\n"]
    for case in CASES:
        if options.only not in case.name:
            continue
        case = replace(case, steps=options.steps) if options.steps else case
        absent = available(case, gpu)
        if absent:
            print(f"{case.name}: left out, {absent}")
            results["cases"].append({"name": case.name, "absent": absent})
            continue
        comparison = compare(case, options.seeds)
        found = list(rows(case, comparison, measured))
        results["cases"].append({
            "name": case.name, "command": [case.program, *case.arguments], "rows": found,
            "recommendation": comparison["recommendation"], "drift": comparison["speed_drift"],
            "environment": comparison["environment"],
        })  # fmt: skip
        text.append(table(case, found))
        print(text[-1])
    for given, default, content in (
        (
            options.json,
            ROOT / f"benchmarks/results/gallery-{slug}.json",
            json.dumps(results, indent=1) + "\n",
        ),
        (options.markdown, ROOT / f"docs/gallery-{slug}.md", "\n".join(text)),
    ):
        Path(given or default).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
