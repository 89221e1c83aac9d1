"""A comparison object with every part filled in, drawn from a seeded random walk: invented figures, marked as such."""

from __future__ import annotations

import copy
import functools
import operator
import random
import statistics
from typing import Any

MIB = 2**20
BASELINE = "fp32"
#: precision -> median step (s), ran as, share of matrix products, bytes of weights, gradients, optimizer, activations
_RUNS: dict[str, tuple[float, str, dict[str, float], tuple[int, int, int, int]]] = {
    "fp32": (0.1934, "fp32, native units", {"fp32": 1.0}, (43, 43, 86, 402)),
    "bf16": (0.1021, "bf16, native units", {"bf16": 0.984, "fp32": 0.016}, (43, 43, 86, 236)),
    "fp16": (0.1887, "fp16, products in fp32 units", {"fp16": 0.984, "fp32": 0.016}, (43, 43, 86, 238)),
    "bf16-true": (0.0968, "bf16-true, native units", {"bf16": 1.0}, (22, 22, 43, 201)),
}
_STOPPED = (
    "unsupported",
    "tf32 needs a GPU's matrix units: this machine has none; --emulate rounds to it instead.",
)
_NO_ENERGY = "no energy counter: /sys/class/powercap holds no readable package domain"
#: precision -> shares of a profiled step
_TIME = {
    "fp32": {"products": 0.71, "other": 0.2, "optimizer": 0.05, "host": 0.04},
    "bf16": {"products": 0.48, "other": 0.32, "casts": 0.06, "optimizer": 0.08, "host": 0.06},
    "fp16": {"products": 0.69, "other": 0.17, "casts": 0.05, "optimizer": 0.05, "host": 0.04},
    "bf16-true": {"products": 0.55, "other": 0.3, "optimizer": 0.08, "host": 0.07},
}
_CODE = """\
with torch.autocast("cpu", dtype=torch.bfloat16):
    logits = model(tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
loss.backward()
optimizer.step()
"""


def comparison(steps: int = 60, repeats: int = 2, seed: int = 7) -> dict[str, Any]:
    """One comparison of five precisions on a made-up machine; the same for the same arguments."""
    rng = random.Random(seed)
    trials = [_trial(rng, name, repeat, steps) for repeat in range(repeats) for name in _RUNS]
    trials.insert(1, _unsupported())
    verdicts = [_verdict(name, trials) for name in ("fp32", "tf32", "bf16", "fp16", "bf16-true")]
    return {
        "schema": "halfstep/comparison/1",
        "program": {
            "command": ["examples/char_gpt.py", "--steps", str(steps)],
            "module": False,
            "cwd": "/home/user/training",
        },
        "environment": _environment(),
        "options": {"steps": steps, "repeats": repeats, "seeds": 1, "warmup_steps": 5, "time_limit": None},
        "trials": trials,
        "verdicts": verdicts,
        "recommendation": _recommendation(verdicts[2]),
        "method": _method(),
    }


def _environment() -> dict[str, Any]:
    return {
        "halfstep": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux 6.8 x86_64",
        "cpu": "Sample CPU (these figures are invented, to show the page)",
        "cpu_flags": ["avx2", "avx512f", "avx512_bf16"],
        "cores": 8,
        "threads": 8,
        "memory_bytes": 32 * 2**30,
        "frameworks": {"torch": "2.13.0+cpu"},
        "devices": [],
        "started": "2026-11-24T01:02:03Z",
        "seconds": 131.2,
    }


def _trial(rng: random.Random, name: str, repeat: int, steps: int) -> dict[str, Any]:
    step, ran_as, shares, parts = _RUNS[name]
    broken = name == "bf16-true"
    losses = _losses(rng, name, steps)
    times = [step * rng.lognormvariate(0, 0.025) * (2.1 if i < 5 else 1) for i in range(steps)]
    for i in rng.sample(range(5, steps), 2):
        times[i] *= 1.3
    skipped = sum(1 for x in losses if x is None) if name == "fp16" else 0
    low, middle, high = _interval(times[5:])
    return {
        "precision": name,
        "recipe": name,
        "ran_as": ran_as,
        "emulated": False,
        "seed": 0,
        "repeat": repeat,
        "status": "diverged" if broken else "ok",
        "reason": "the loss stopped falling at step 31 while fp32's went on" if broken else "",
        "steps": steps,
        "skipped_steps": skipped,
        "warmup_steps": 5,
        "losses": losses,
        "step_seconds": {"median": middle, "low": low, "high": high},
        "step_times": times,
        "steps_per_second": 1 / middle,
        "samples_per_second": 32 / middle,
        "peak_memory_bytes": int((sum(parts) + 212 + rng.random() * 3) * MIB),
        "peak_memory_absent": None,
        "memory": dict(
            zip(("weights", "gradients", "optimizer", "activations"), (p * MIB for p in parts), strict=True)
        ),
        "memory_absent": None,
        "energy_joules": None,
        "energy_absent": _NO_ENERGY,
        "joules_per_step": None,
        "joules_per_step_absent": _NO_ENERGY,
        "joules_per_sample": None,
        "joules_per_sample_absent": _NO_ENERGY,
        "time_shares": _TIME[name],
        "time_shares_absent": None,
        "matmul_share": shares,
        "matmul_share_absent": None,
        "logged": {
            "accuracy": [
                [s, 0.52 - (0.08 * broken) - 0.47 * 0.95**s + rng.gauss(0, 0.004)] for s in range(4, steps, 5)
            ]
        },
        "loss_scale": _scales(steps) if name == "fp16" else [],
        "first_nonfinite": {"step": 1, "what": "gradients"} if name == "fp16" else None,
        "warnings": [
            "asked for fp16: this CPU has no fp16 units; products ran in fp32 units, each rounded once"
        ]
        if name == "fp16"
        else [],
        "log": f"trials/{name}-seed0-repeat{repeat}.log",
        "exit_code": 0,
        "command": ["python", "-m", "halfstep", "run", "--precision", name, "examples/char_gpt.py"],
        "takeover_seconds": 0.041,
    }


def _losses(rng: random.Random, name: str, steps: int) -> list[float | None]:
    floor = 1.9 if name == "bf16-true" else 1.35
    noise = random.Random(11)  # the same batches in every trial: the same bumps
    curve: list[float | None] = []
    for i in range(steps):
        shared = 1 + 0.035 * noise.gauss(0, 1)
        own = 1 + 0.004 * rng.gauss(0, 1)  # sums in another order: trials of one precision differ a little
        curve.append((floor + (4.55 - floor) * 0.93**i) * shared * own)
    if name == "fp16":
        curve[1] = None
    return curve


def _scales(steps: int) -> list[list[float]]:
    return [[0, 65536.0], [1, 65536.0], [2, 32768.0], [steps // 2, 65536.0], [steps - 1, 65536.0]]


def _unsupported() -> dict[str, Any]:
    status, reason = _STOPPED
    return {
        "precision": "tf32",
        "recipe": "tf32",
        "status": status,
        "reason": reason,
        "seed": 0,
        "repeat": 0,
        "losses": [],
        "step_seconds": None,
        "energy_absent": _NO_ENERGY,
        "log": "trials/tf32-seed0-repeat0.log",
        "exit_code": 2,
    }


def _interval(values: list[float]) -> tuple[float, float, float]:
    """A median with the 95% interval of its order statistics."""
    ordered, n = sorted(values), len(values)
    reach = round(0.98 * n**0.5)
    return ordered[max(0, n // 2 - reach)], statistics.median(ordered), ordered[min(n - 1, n // 2 + reach)]


def _verdict(name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    own = [t for t in trials if t["precision"] == name]
    base = [t for t in trials if t["precision"] == BASELINE]
    row: dict[str, Any] = {
        "precision": name,
        "baseline": BASELINE,
        "status": own[0]["status"],
        "reason": own[0]["reason"],
        "ran_as": own[0].get("ran_as", ""),
        "trials": len(own),
        "steps": own[0].get("steps"),
        "skipped_steps": sum(t.get("skipped_steps", 0) for t in own),
        "warnings": own[0].get("warnings", []),
        "why_no_faster": _why(_TIME["fp16"], "time_shares") if name == "fp16" else [],
        "why_memory": _why({"activations": 0.6, "weights": 0.4}, "memory") if name == "fp16" else [],
        **dict.fromkeys(
            ("energy", "energy_ratio", "step_time", "speed_ratio", "memory_ratio", "peak_memory", "loss")
        ),
    }
    if own[0]["step_seconds"]:
        row.update(_figures(own, base, name))
    return row


def _why(shares: dict[str, float], figure: str) -> list[dict[str, Any]]:
    told = [
        {"text": f"{kind.capitalize()} as measured", "share": share, "evidence": f"trials[3].{figure}.{kind}"}
        for kind, share in shares.items()
    ]
    return [*told, {"text": "A fact has no share", "share": None, "evidence": "trials[3].ran_as"}]


def metered(compared: dict[str, Any]) -> dict[str, Any]:
    """The sample as on a machine with energy counters, and with the largest batches."""
    made = copy.deepcopy(compared)
    made["environment"]["idle_watts"] = 61.5
    for trial in made["trials"]:
        if trial.get("step_seconds"):
            joules = 240.0 * trial["step_seconds"]["median"]
            trial |= {
                "energy_joules": joules * trial["steps"],
                "energy_absent": None,
                "joules_per_step": joules,
            }
            trial |= {"joules_per_step_absent": None, "joules_per_sample": joules / 32}
    for row in made["verdicts"]:
        if row["step_time"]:
            row["energy"] = {k: 240.0 * row["step_time"][k] for k in ("median", "low", "high")} | {
                "unit": "J"
            }
            row["energy_ratio"] = row["speed_ratio"] and {
                "value": 0.53,
                "low": 0.5,
                "high": 0.56,
                "significant": True,
            }
    tried = [{"size": n, "status": "ok", "reason": "", "peak_memory_bytes": n * MIB} for n in (64, 128)]
    tried.append({"size": 192, "status": "out_of_memory", "reason": "the limit", "peak_memory_bytes": None})
    rows = [
        {"precision": p, "largest": n, "fails_at": n + 64, "ratio": n / 128, "reason": "", "trials": tried}
        for p, n in (("fp32", 128), ("bf16", 248))
    ]
    rows.append(
        {"precision": "fp16", "largest": None, "fails_at": 1, "reason": "even 1 did not fit", "trials": tried}
    )
    made["fit_batch"] = {
        "name": "images",
        "argument": "--batch-size",
        "memory_limit_bytes": 2**31,
        "rows": rows,
    }
    return made


def _figures(own: list[dict[str, Any]], base: list[dict[str, Any]], name: str) -> dict[str, Any]:
    low, middle, high = _interval([x for t in own for x in t["step_times"][5:]])
    base_low, base_middle, base_high = _interval([x for t in base for x in t["step_times"][5:]])
    peaks, base_peaks = ([float(t["peak_memory_bytes"]) for t in group] for group in (own, base))
    first = name == BASELINE
    time_ratio = _ratio(base_middle / middle, base_low / high, base_high / low, "faster")
    memory = statistics.median(peaks) / statistics.median(base_peaks)
    memory_ratio = _ratio(memory, min(peaks) / max(base_peaks), max(peaks) / min(base_peaks), "memory")
    return {
        "step_time": {"median": middle, "low": low, "high": high, "unit": "s"},
        "speed_ratio": None if first else time_ratio,
        "peak_memory": _extent(peaks),
        "memory_ratio": None if first else memory_ratio,
        "loss": _loss(own, base, first),
    }


def _loss(own: list[dict[str, Any]], base: list[dict[str, Any]], first: bool) -> dict[str, Any]:
    finals, base_finals = ([statistics.fmean(t["losses"][-6:]) for t in group] for group in (own, base))
    if first:
        return {"final": _extent(finals), "difference": None, "words": ""}
    gap = _extent([x - y for x in finals for y in base_finals])
    excess = gap["median"] / statistics.median(base_finals)
    seen = excess > 0.05
    words = f"{excess:.0%} higher than fp32" if seen else "no difference seen (one seed: 2 trials each)"
    difference = {"value": gap["median"], "low": gap["low"], "high": gap["high"], "significant": seen}
    return {"final": _extent(finals), "difference": difference, "words": words}


def _extent(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _ratio(value: float, low: float, high: float, word: str) -> dict[str, Any]:
    significant = low > 1 or high < 1
    words = f"{value:.2f}× {word}" if significant else "not significant"
    return {"value": value, "low": low, "high": high, "significant": significant, "words": words}


def _recommendation(verdict: dict[str, Any]) -> dict[str, Any]:
    speed, memory = verdict["speed_ratio"]["words"], verdict["memory_ratio"]["words"]
    return {
        "precision": "bf16",
        "text": f"Use bf16: {speed}, {memory}, and no difference seen in the loss.",
        "reasons": [
            {"text": f"A step is {speed} than in fp32.", "evidence": "verdicts[2].speed_ratio"},
            {"text": f"It needs {memory} at the peak.", "evidence": "verdicts[2].memory_ratio"},
            {
                "text": "The final loss is within the spread of fp32's own trials.",
                "evidence": "verdicts[2].loss",
            },
            {
                "text": "bf16-true was faster still, but its loss stayed higher.",
                "evidence": "verdicts[4].loss",
            },
        ],
        "adopt": {"framework": "pytorch", "code": _CODE},
    }


def _method() -> list[dict[str, str]]:
    return [
        {
            "figure": "Step time",
            "how": "Monotonic clock between optimizer steps; median, 95% interval of the median.",
        },
        {
            "figure": "Speed ratio",
            "how": "fp32's median step over this precision's; bootstrap over trials and steps.",
        },
        {"figure": "Peak memory", "how": "Largest resident set of the process while training (getrusage)."},
        {
            "figure": "Memory by part",
            "how": "Bytes of the tensors held as weights, gradients and optimizer state.",
        },
        {
            "figure": "Loss",
            "how": "What backward was called on, unscaled; final is the mean of the last tenth.",
        },
        {"figure": "Matrix products", "how": "FLOPs counted in one step, by the dtype of the operands."},
    ]


def untested(compared: dict[str, Any]) -> dict[str, Any]:
    """The same with ratios that have no interval."""
    for row in compared["verdicts"]:
        for figure in ("speed_ratio", "memory_ratio"):
            if row[figure]:
                row[figure] |= {"low": None, "high": None, "significant": False}
    return compared


def hostile(payload: str) -> dict[str, Any]:
    """The sample with `payload` for every text in it, and as a name wherever names are free."""
    made = replaced(comparison(steps=8), payload)
    for trial in made["trials"]:
        trial["logged"] = {payload: [[1, 0.5], [2, 0.6]]}
        trial["matmul_share"] = {payload: 1.0}
        trial["memory"] = {payload: 1.0}
    made["environment"][payload] = made["environment"]["frameworks"][payload] = payload
    made["options"][payload] = payload
    made["recommendation"]["reasons"].append({"text": payload, "evidence": f"verdicts[0].{payload}"})
    return made


def replaced(value: Any, payload: str) -> Any:
    """The value with ``payload`` for every text in it."""
    if isinstance(value, dict):
        return {key: replaced(item, payload) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, payload) for item in value]
    return payload if isinstance(value, str) else value


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of an object, the longest lists only at their ends."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    kept = items if len(items) < 6 or isinstance(value, dict) else [items[0], items[-1]]
    return [way for key, item in kept for way in [(*prefix, key), *paths(item, (*prefix, key))]]


DROPPED = object()


def damaged(value: Any, way: tuple[Any, ...], part: Any) -> Any:
    """The object with the part at the end of `way` replaced or, with DROPPED, taken away; without such a way as is."""
    try:
        at = functools.reduce(operator.getitem, way[:-1], value)
        if part is DROPPED:
            del at[way[-1]]
        else:
            at[way[-1]] = copy.deepcopy(part)
    except (KeyError, IndexError, TypeError):
        return value
    return value
