"""What exact rounding costs over a copy of the tensor, and what an emulated training step costs over the fp32 step.

Run ``python benchmarks/numerics.py``; it takes some minutes. ``--quick`` is a look of half a minute at the same.

Rounding, wanted: with buffers reused at most 1.5 of a copy for fp16 and bf16, 2.5 for the 8-bit formats and tf32, and
ahead of every rival: PyTorch's casts, ml_dtypes, and the emulators gfloat, qtorch, pychop and microxcaling, which are
left out with a word where they are not installed. The copy, the casts with buffers and halfstep (``out=``) write memory
that is already there; the others allocate. Rivals' results that differ from halfstep's, which its tests hold to exact
arithmetic, are counted; another overflow policy counts as a difference.

The rivals go into a folder of their own, so that none of their dependencies changes the environment; microxcaling is on
no package index, so its folder ``mx`` is put there from its repository (github.com/microsoft/microxcaling):
``pip install --target RIVALS --no-deps gfloat array-api-compat more-itertools pychop qtorch``, and then
``PYTHONPATH=RIVALS python benchmarks/numerics.py``.

Steps, wanted: at most 1.4 of the fp32 step for tf32 and fp8, 2 for block formats, on the models of the examples.

In each round every contender runs once, in turning order; a ratio is taken within each round; its median and the
median's 95 % interval (order statistics) go into the JSON file. On a machine that others use, --threads 1 is the
steadier: with more, each of the many short parallel loops waits for a thread that has no CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated_steps
import ml_dtypes
import numpy as np
import torch

from halfstep.meters import Absent, now, summary
from halfstep.precisions.formats import Format, get_scalar
from halfstep.pytorch import capabilities
from halfstep.pytorch.rounding.rounding import round_to

Round = Callable[[torch.Tensor], torch.Tensor]

FORMATS = ("fp16", "bf16", "tf32", "fp8_e5m2", "fp8_e4m3", "fp6_e3m2", "fp4_e2m1")
SIZES = (1 << 20, 1 << 24)
TORCH = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3": torch.float8_e4m3fn,
}
ML_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
GFLOAT = {
    "fp16": "binary16",
    "bf16": "bfloat16",
    "fp8_e5m2": "ocp_e5m2",
    "fp8_e4m3": "ocp_e4m3",
    "fp6_e3m2": "ocp_e3m2",
    "fp4_e2m1": "ocp_e2m1",
}
RIVALS = ("gfloat", "qtorch", "pychop", "microxcaling")
#: what each rival is imported as
MODULES = {
    "gfloat": "gfloat",
    "qtorch": "qtorch.quant",
    "pychop": "pychop",
    "microxcaling": "mx.elemwise_ops",
}


def halfstep_contender(fmt: Format, out: torch.Tensor) -> Round:
    return lambda x: round_to(x, fmt, out=out)


def cast_contender(fmt: Format, out: torch.Tensor) -> Round | None:
    if fmt.name not in TORCH:
        return None
    low = torch.empty(out.shape, dtype=TORCH[fmt.name])
    return lambda x: out.copy_(low.copy_(x))


def ml_dtypes_contender(fmt: Format) -> Round | None:
    if fmt.name not in ML_DTYPES:
        return None
    dtype = ML_DTYPES[fmt.name]
    return lambda x: torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))


def gfloat_contender(gfloat: Any, fmt: Format) -> Round | None:
    if fmt.name not in GFLOAT:
        return None
    info = getattr(importlib.import_module("gfloat.formats"), f"format_info_{GFLOAT[fmt.name]}")
    saturate = fmt.overflow == "saturate"
    return lambda x: torch.from_numpy(gfloat.round_ndarray(info, x.numpy(), sat=saturate).astype(np.float32))


def qtorch_contender(qtorch: Any, fmt: Format) -> Round | None:
    return lambda x: qtorch.float_quantize(
        x, exp=fmt.exponent_bits, man=fmt.fraction_bits, rounding="nearest"
    )


def pychop_contender(pychop: Any, fmt: Format) -> Round | None:
    pychop.backend("torch")
    chop: Round = pychop.Chop(exp_bits=fmt.exponent_bits, sig_bits=fmt.fraction_bits, rmode=1)
    return chop


def microxcaling_contender(mx: Any, fmt: Format) -> Round | None:
    return lambda x: mx._quantize_elemwise_core(
        x, fmt.significand_bits + 1, fmt.exponent_bits, fmt.largest, round="even", saturate_normals=True
    )


MAKERS: dict[str, Callable[[Any, Format], Round | None]] = {
    "gfloat": gfloat_contender,
    "qtorch": qtorch_contender,
    "pychop": pychop_contender,
    "microxcaling": microxcaling_contender,
}


def contenders(fmt: Format, out: torch.Tensor, absent: dict[str, str]) -> dict[str, Round]:
    """By name, the copy first; rivals that fail to start are noted in ``absent``."""
    found: dict[str, Round | None] = {
        "copy": out.copy_,
        "halfstep": halfstep_contender(fmt, out),
        "halfstep, new memory": lambda x: round_to(x, fmt),
        "casts with buffers": cast_contender(fmt, out),
        "casts": (lambda x: x.to(TORCH[fmt.name]).float()) if fmt.name in TORCH else None,
        "ml_dtypes": ml_dtypes_contender(fmt),
    }
    for name in RIVALS:
        try:
            found[name] = MAKERS[name](importlib.import_module(MODULES[name]), fmt)
        except ModuleNotFoundError as error:
            own = error.name == MODULES[name].partition(".")[0]
            absent.setdefault(name, "not installed" if own else f"needs {error.name}, which is not installed")
        except Exception as error:  # whatever a rival does, the others are measured
            absent.setdefault(name, f"{type(error).__name__}: {error}")
    return {name: run for name, run in found.items() if run is not None}


def rounds(runs: dict[str, Callable[[], Any]], count: int) -> list[dict[str, float]]:
    """Seconds of each contender in each round; one round more warms up."""
    names, done = list(runs), []
    for i in range(count + 1):
        seconds = {}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = now()
            runs[name]()
            seconds[name] = now() - began
        done.append(seconds)
    return done[1:]


def measure(fmt: Format, size: int, count: int, absent: dict[str, str]) -> dict[str, Any]:
    # ten binades around 1, so that small formats overflow, round and flush
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator) * torch.exp2(torch.rand(size, generator=generator) * 10 - 5)
    runs = contenders(fmt, torch.empty_like(x), absent)
    expected = round_to(x, fmt)
    differ = {name: int((run(x) != expected).sum()) for name, run in runs.items() if name != "copy"}
    done = rounds({name: lambda run=run: run(x) for name, run in runs.items()}, count)
    rows: dict[str, Any] = {"copy": {"ms": spread([1e3 * seconds["copy"] for seconds in done])}}
    for name, different in differ.items():
        rows[name] = {
            "ms": spread([1e3 * seconds[name] for seconds in done]),
            "over copy": spread([seconds[name] / seconds["copy"] for seconds in done]),
            "differ": different,
        }
    return rows


def spread(values: list[float]) -> dict[str, float | None]:
    found = summary(values)
    assert not isinstance(found, Absent)
    return {"median": found.median, "low": found.low, "high": found.high, "least": min(values)}


def line(name: str, row: dict[str, Any]) -> str:
    ratio = row.get("over copy") or row.get("over fp32")
    if ratio is None:
        return f"{name} {row['ms']['median']:.3f} ms"
    wrong = f", {row['differ']} differ" if row.get("differ") else ""
    known = ratio["low"] is not None  # too few rounds give no interval
    interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}" if known else "no interval"
    return f"{name} {ratio['median']:.2f}x ({interval}{wrong})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds, the small tensors, no file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", help="only the format of this name, or steps")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/numerics-<cpu>.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    absent: dict[str, str] = {}
    results: dict[str, Any] = {}
    loads: dict[str, float] = {}
    count = 3 if options.quick else options.rounds

    def note(case: str, rows: dict[str, Any]) -> None:
        results[case] = rows
        loads[case] = os.getloadavg()[0]  # above the number of CPUs, others disturbed the figures
        print(f"{case}: " + "; ".join(line(*item) for item in rows.items()), flush=True)

    for name in FORMATS:
        for size in SIZES[:1] if options.quick else SIZES:
            if options.only in (None, name):
                note(f"{name}, {size} elements", measure(get_scalar(name), size, count, absent))
    if options.only in (None, "steps"):
        for case, rows in emulated_steps.measure(count).items():
            note(
                case,
                {name: {key: spread(values) for key, values in row.items()} for name, row in rows.items()},
            )
    for name, reason in absent.items():
        print(f"{name} left out: {reason}")
    if options.quick:
        return
    cpu = capabilities.cpu().model or platform.machine()
    slug = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    path = options.json or Path(__file__).parent / "results" / f"numerics-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "numerics",
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "rounds": count,
        "unit": "ms and ratios: median, its 95 % interval, and the least of all rounds; differ: elements",
        "absent": absent,
        "load_average": loads,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
