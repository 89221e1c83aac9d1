"""``bf16-lean`` beside ``bf16``, mixed precision by hand, and peers: bytes, speed and distance from fp32.

Expected: peak memory over that of mixed precision by hand at most 0.89 where gradients are freed before the forward
pass, and at most 0.80 where they live through it or are added up over two passes; a step at most 1.05 of ``bf16``'s on
large layers with 8192 rows (8 rows are reported beside), at most 1.15 on 300 small tensors, eager and compiled.

The ideal, in bytes per parameter, with s of optimizer state (AdamW: 8): weights and remainders 4, gradients 2, state s
over weights 4, gradients 4, state s, and cast weights 2 where these live with gradients. Freed: (6 + s) / (8 + s), with
AdamW 0.875. Live: (6 + s) / (10 + s), 0.778. Added up: sums are fp32, 4 bytes in both, so that it is
(8 + s) / (10 + s), 0.889: the aim of 0.80 is out of reach with AdamW as long as they are.

Seen on 2 cores with AMX beside other work, AdamW, 64 layers of 1024 x 1024, 1 round: memory
over that by hand 0.884 where gradients are freed, 0.789 where they live, 0.895 where they are added up: 14.3, 14.3 and
16.3 bytes per parameter over 16.2, 18.1 and 18.2. With an embedding that is 80 % of the weights the step's workspace is
0.47 bytes per parameter, that of AdamW by hand 6.5.

Seen on 2 cores of an AMD EPYC, 1 round, freed, live and added up: SGD with momentum 0.840, 0.722, 0.864 (ideal 0.833,
0.714, 0.857); Adafactor 0.769, 0.619, 0.811 (ideal 0.750, 0.600, 0.800). The step's workspace is 0.19 to 0.30 bytes per
parameter, that of the optimizer itself included; by hand it is 0.13 to 0.18.

Seen on 2 cores of an AMD EPYC without 16-bit units, a step over bf16's, 3 rounds (results/lean-amd-epyc.json): large
layers with 8192 rows 0.989 (0.924 to 1.000), compiled 0.969 (0.937 to 1.018), with 8 rows 0.880 (0.849 to 0.920),
compiled 0.956 (0.945 to 1.023); 300 small tensors 0.997 (0.922 to 1.241), compiled 1.039 (0.928 to 1.107).

Memory is the largest resident set of any phase of a step, less that of the same process after it trained one layer and
gave its memory back. Beside the peak: the bytes of each part by what is stored, and the workspace of the step, which is
the peak of the step less these. Layers as large as 1/8 of the model (2048 x 2048, 8 of them) need 1 byte per parameter
of workspace, as a whole tensor is fp32 at once, and its gradient. Every figure is from a process of its own; variants
take turns, and ratios are taken round by round: their median, lowest and highest. Peers (torchao's AdamW with
stochastic rounding, optimi's with Kahan sums) take part where they are installed.

    python benchmarks/lean.py [--rounds 5] [--optimizers AdamW,SGD,Adafactor] [--small] [--no-compile] \\
        [--parts memory,special,speed,distance] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from beside_amp import write

HERE = Path(__file__).resolve().parent
MODES = ("freed", "live", "accumulated")


class Variant(NamedTuple):
    """How a program gets its precision: halfstep's option, its own AMP, and another optimizer."""

    precision: str | None
    amp: str = "none"
    optimizer: str | None = None


VARIANTS = {
    "bf16-lean": Variant("bf16-lean"),
    "bf16 states": Variant("bf16-lean:states=bf16"),
    "bf16-sr": Variant("bf16-sr"),
    "bf16-sr, bf16 states": Variant("bf16-sr:states=bf16"),
    "bf16": Variant("bf16"),
    "by hand": Variant(None, "hand"),
    "fp32": Variant("fp32"),
}
#: whose memory is measured
MEASURED = ("bf16-lean", "bf16 states", "bf16-sr, bf16 states", "bf16", "by hand")
SPECIAL = ("bf16-lean", "bf16-sr, bf16 states", "bf16", "by hand")
#: package -> what is measured where it is installed
PEERS = {
    "torchao": {
        "8-bit states": Variant("bf16-lean:states=8bit"),
        "torchao": Variant(None, "none", "torchao"),
    },
    "optimi": {"optimi": Variant(None, "none", "optimi")},
}


def run(
    variant: Variant, network: str, optimizer: str, mode: str, rows: int, steps: int, *more: str
) -> dict[str, Any]:
    """What one run printed."""
    program = [str(HERE / "programs" / "lean.py"), network, variant.optimizer or optimizer, mode, variant.amp]
    start = [sys.executable]
    if "--shard" in more:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    if variant.precision is not None:
        start += ["-m", "halfstep", "run", "--precision", variant.precision]
    # Freed memory goes back to the system at once: what is measured is what is held, not what the allocator keeps.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [*start, *program, str(rows), str(steps), *more]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ratios(found: list[float], beside: list[float]) -> dict[str, float]:
    """Of each round's figures: the median, the lowest and the highest; and how many rounds there were."""
    each = [a / b for a, b in zip(found, beside, strict=True)]
    return {"median": median(each), "low": min(each), "high": max(each), "rounds": len(each)}


def words(found: dict[str, float]) -> str:
    return f"{found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def ideal(mode: str, state: float) -> float:
    """The least ratio of bytes per parameter that ``bf16-lean`` can have, with so many bytes of optimizer state."""
    lean = 4 + (4 if mode == "accumulated" else 2) + state
    return lean / (8 + (0 if mode == "freed" else 2) + state)


def parts(found: dict[str, Any]) -> dict[str, float]:
    """Bytes per parameter of one run by what they hold; ``workspace`` is what a step needs besides."""
    n, stored = found["parameters"], found["stored"]
    weights = dict(stored["weights"])
    each = {
        "remainder": weights.pop("remainder16", 0),
        "weights": sum(weights.values()),
        "gradients": sum(stored["gradients"].values()),
        "state": sum(stored["optimizer"].values()),
    }
    return {name: size / n for name, size in each.items()} | {
        "workspace": (found["phases"]["step"] - sum(each.values())) / n
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes per parameter, by part, and over mixed precision by hand."""
    network = "small" if options.small else "deep"
    results: dict[str, Any] = {}
    for optimizer in options.optimizers.split(","):
        for mode in MODES:
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in MEASURED}
            for _ in range(options.rounds):
                for name, found in rounds.items():
                    found.append(run(VARIANTS[name], network, optimizer, mode, 8, 3))
            peaks = {name: [float(one["bytes"]) for one in found] for name, found in rounds.items()}
            parameters = rounds["bf16-lean"][0]["parameters"]
            told = ratios(peaks["bf16-lean"], peaks["by hand"])
            each = {name: median(found) / parameters for name, found in peaks.items()}
            held = {name: parts(found[0]) for name, found in rounds.items()}
            least = ideal(mode, held["by hand"]["state"])
            results[f"{optimizer}, {mode}"] = {
                "bytes_per_parameter": each,
                "by_part": held,
                "over_by_hand": told,
                "ideal": least,
            }
            figures = ", ".join(f"{name} {size:.1f}" for name, size in each.items())
            print(
                f"{optimizer}, gradients {mode}: bytes per parameter {figures}; over by hand {words(told)}, "
                f"ideal {least:.3f}"
            )
            for name, sizes in held.items():
                print(f"    {name}: " + ", ".join(f"{part} {size:.2f}" for part, size in sizes.items()))
    return results


def special(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes per parameter where an embedding is most of the weights, and of one of two processes that shard them.

    The step's workspace is to be at most 5 % of the fp32 weights, 0.2 bytes per parameter, however large the
    embedding is.
    """
    cases = {
        "embedding": ("small embedding" if options.small else "embedding", ()),
        "sharded": ("small" if options.small else "deep", ("--shard",)),
    }
    results: dict[str, Any] = {}
    for case, (network, more) in cases.items():
        for name in ("bf16-lean", "by hand") if options.small else SPECIAL:
            found = [
                run(VARIANTS[name], network, "AdamW", "freed", 8, 3, *more) for _ in range(options.rounds)
            ]
            each = [one["bytes"] / one["parameters"] for one in found]
            held = parts(found[0])
            results[f"{case}, {name}"] = {"bytes_per_parameter": each, "by_part": held}
            print(
                f"{case}, {name}: bytes per parameter {median(each):.1f}; "
                + ", ".join(f"{part} {size:.2f}" for part, size in held.items())
            )
    return results


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step over ``bf16``'s."""
    cases = [("small", 8)] if options.small else [("large", 8192), ("large", 8), ("many", 64)]
    results: dict[str, Any] = {}
    for network, rows in cases:
        for more in [()] if options.no_compile else [(), ("--compile",)]:
            seconds: dict[str, list[float]] = {"bf16-lean": [], "bf16": []}
            for _ in range(options.rounds):
                for name, found in seconds.items():
                    found.append(
                        run(VARIANTS[name], network, "AdamW", "freed", rows, 4 if rows > 1000 else 20, *more)[
                            "seconds"
                        ]
                    )
            how = "compiled" if more else "eager"
            told = results[f"{network}, {rows} rows, {how}"] = ratios(seconds["bf16-lean"], seconds["bf16"])
            print(f"{network}, {rows} rows, {how}: a step over bf16's {words(told)}")
    return results


def distances(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes, seconds and the largest distance of a loss from fp32's, of every variant and of the peers here."""
    network = "small" if options.small else "middle"
    variants = dict(VARIANTS)
    for package, peers in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package}: not installed here")
        else:
            variants |= peers
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, found in rounds.items():
            found.append(run(variants[name], network, "AdamW", "freed", 64, 12))
    results = {}
    for name, found in rounds.items():
        sizes = [one["bytes"] / one["parameters"] for one in found]
        told = ratios([one["seconds"] for one in found], [one["seconds"] for one in rounds["bf16"]])
        off = max(
            abs(a - b) / b
            for one, reference in zip(found, rounds["fp32"], strict=True)
            for a, b in zip(one["losses"], reference["losses"], strict=True)
        )
        results[name] = {"bytes_per_parameter": sizes, "over_bf16": told, "largest_distance": off}
        print(
            f"{name}: {median(sizes):.1f} bytes per parameter, a step over bf16's {words(told)}, "
            f"loss off fp32's by {off:.1e} at most"
        )
    return results


PARTS = {"memory": memory, "special": special, "speed": speed, "distance": distances}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--optimizers", default="AdamW,SGD,Adafactor")
    parser.add_argument(
        "--small", action="store_true", help="layers so small that nothing is measured: a test"
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them; all by default")
    parser.add_argument(
        "--json", metavar="FILE", help="where results go; parts that FILE has from before stay"
    )
    options = parser.parse_args(arguments)
    results = {name: PARTS[name](options) for name in options.parts.split(",")}
    if options.json and Path(options.json).exists():
        results = json.loads(Path(options.json).read_text())["results"] | results
    write(options.json, options.rounds, results)
    return results


if __name__ == "__main__":
    main()
