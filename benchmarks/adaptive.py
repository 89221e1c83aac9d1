"""Simulated comparisons with --budget whose truth is known: how often they are wrong, and how many trials they take.

The trials are drawn, all else is halfstep's own: the order of the trials in a block, the looks and their levels, and
the planner that ends the comparison. Each comparison has fp32 and three precisions; every trial has a speed, a memory,
an energy and a loss, each with noise of its own of the kinds in NOISES, one value after the other in the order in
which the trials run.

nothing: all precisions are equal, and the objective is a gain of speed. A false alarm is any ratio called different
from 1, and any loss called worse or better.
boundary: every speed is exactly at the least gain worth having, every loss exactly at the margin. A false alarm is a
precision dropped for gaining nothing, and a loss called equivalent.
effect: one figure that differs by a known multiple of its noise, alone, against the fixed plan: the fewest pairs in
which the same test at the same level, looked at once, sees the effect 4 times in 5.
gallery: the committed gallery's cases with their measured ratios and spreads, against five seeds of every precision.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import chdtri
from scipy.stats import binomtest

from halfstep.comparison import planning
from halfstep.comparison.advice.evidence import AS_GOOD
from halfstep.comparison.model.budget import Standing
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import FigureRow, FinalDifference, Quality, RunDifference
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.planning import PlanEnd, State
from halfstep.comparison.standing import stand
from halfstep.comparison.statistics.intervals import t_quantile
from halfstep.comparison.statistics.paired import noncentrality
from halfstep.comparison.statistics.quality import kind_of
from halfstep.comparison.statistics.sequential import LOOKS, Levels, critical, level
from halfstep.record.ran import EVERY_PRODUCT, Ran

MOST = LOOKS[-1]
PRECISIONS = ("fp32", "a", "b", "c")

#: standard deviations of one trial: of the logarithm of step time, peak and energy, of the loss by itself and by seed
SPEED, MEMORY, ENERGY, LOSS, SEEDS = 0.03, 0.01, 0.03, 0.01, 0.05


def drawn(kind: str, random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Noise of mean 0 and about variance 1; the last axis is time."""
    normal = random.standard_normal(shape)
    if kind == "t3":
        return random.standard_t(3, shape) / math.sqrt(3)
    if kind == "lognormal":
        return (np.exp(normal) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
    if kind == "drifting":
        slope = random.choice([-1.0, 1.0], (*shape[:-1], 1)) * 0.1
        return normal + slope * np.arange(shape[-1])
    if kind == "autocorrelated":
        found = normal.copy()
        for i in range(1, shape[-1]):
            found[..., i] = 0.5 * found[..., i - 1] + math.sqrt(0.75) * normal[..., i]
        return found
    if kind == "two-valued":
        return random.choice([-1.0, 1.0], shape) + 0.05 * normal
    return normal


#: what the aim names, and what remains: a clock that is either fast or slow
NOISES = ("normal", "t3", "lognormal", "drifting", "autocorrelated")
REMAINS = ("two-valued",)


def trials(kind: str, random: np.random.Generator, precisions: Sequence[str] = PRECISIONS) -> Any:
    """The noise of each block's trials, shape [figures, blocks, precisions], drawn in the order in which they run."""
    noise = drawn(kind, random, (4, MOST * len(precisions))).reshape(4, MOST, len(precisions))
    for block in range(MOST):
        ran = planning.order(precisions, block)
        noise[:, block] = noise[:, block][:, [ran.index(name) for name in precisions]]
    return noise


@dataclass(frozen=True)
class Looked:
    """All looks at one figure of one precision: the mean, the interval so far, half of each look's own, [looks]."""

    value: Any
    low: Any
    high: Any
    half: Any


def at_looks(differences: Any) -> tuple[Any, Any]:
    """The mean of the first so many differences at each look, and its standard error, shape [..., looks]."""
    n = np.array(LOOKS)
    total, squares = (np.cumsum(x, axis=-1)[..., n - 1] for x in (differences, differences**2))
    mean = total / n
    return mean, np.sqrt(np.maximum(squares / n - mean**2, 0.0) / (n - 1))


def looked(differences: Any, alpha: float) -> Looked:
    """What :func:`halfstep.comparison.statistics.sequential.looks` says of figures that are never equal, at once."""
    mean, error = at_looks(differences)
    half = np.array([critical(k, level(k, alpha)) for k in LOOKS]) * error
    low, high = np.maximum.accumulate(mean - half), np.minimum.accumulate(mean + half)
    for i in np.flatnonzero(low > high):
        low[i:] = np.maximum.accumulate((mean - half)[i:])
        high[i:] = np.minimum.accumulate((mean + half)[i:])
    return Looked(mean, low, high, half)


@dataclass(frozen=True)
class Precision:
    """One precision's looks; ``margin``: of its loss at each look."""

    name: str
    ratios: dict[str, Looked]
    loss: Looked
    margin: Any
    run: Looked
    ran: Ran = field(default_factory=Ran)

    def row(self, pairs: int) -> PrecisionRow:
        """What a comparison says of it after so many pairs."""
        i = sum(n <= pairs for n in LOOKS) - 1
        ratio = {f"{name}_ratio": self._ratio(found, i, pairs) for name, found in self.ratios.items()}
        loss, over = self._difference(self.loss, i, pairs), self._difference(self.run, i, pairs)
        kind, of_run = kind_of(loss, "lower"), kind_of(over, "lower")
        return PrecisionRow(
            self.name,
            "fp32",
            "ok",
            ran=self.ran,
            loss=FigureRow(difference=loss, kind=kind, over_run=RunDifference(over, of_run)),
            quality=Quality("worse" if "worse" in (kind, of_run) else kind, seeds=pairs),
            **ratio,  # type: ignore[arg-type]
        )

    def _ratio(self, found: Looked, i: int, pairs: int) -> Ratio:
        if i < 0:
            return Ratio(1.0, runs=(pairs, pairs))
        low, high = math.exp(found.low[i]), math.exp(found.high[i])
        return Ratio(math.exp(found.value[i]), low, high, not low <= 1 <= high, runs=(pairs, pairs))

    def _difference(self, found: Looked, i: int, pairs: int) -> FinalDifference:
        if i < 0:
            return FinalDifference(float(found.value[0]), seeds=max(pairs, 2))
        low, high = float(found.low[i]), float(found.high[i])
        beyond = (np.abs(found.value) + found.half >= self.margin)[: i + 1].all()
        return FinalDifference(
            float(found.value[i]), low, high, seeds=pairs, p=float(low <= 0 <= high), margin=float(self.margin[i]),
            p_equivalence=float(beyond),
        )  # fmt: skip


LEVELS = Levels(len(PRECISIONS) - 1)


def compared(noise: Any, seeds: Any, truth: dict[str, tuple[float, float]]) -> list[Precision]:
    """The precisions of a comparison.

    Args:
        noise: as :func:`trials` has it.
        seeds: the loss of each seed, shape [blocks].
        truth: of each precision the logarithm of its speed ratio, and how much larger its loss is.
    """
    names = list(truth)
    base_loss = seeds + LOSS * noise[3, :, 0]
    margin = np.array([_margin(base_loss[:n], level(n, LEVELS.of_first_figure) / 2) for n in LOOKS])
    found = []
    for i, name in enumerate(names, 1):
        gap = noise[:, :, i] - noise[:, :, 0]
        gain, worse = truth[name]
        ratios = {
            "speed": looked(gain - SPEED * gap[0], LEVELS.of_ratio("speed")),
            "memory": looked(MEMORY * gap[1], LEVELS.of_ratio("memory")),
            "energy": looked(ENERGY * gap[2], LEVELS.of_ratio("energy")),
        }
        losses = worse + LOSS * gap[3]
        run = looked(losses, LEVELS.of_other_figure(1))
        found.append(Precision(name, ratios, looked(losses, LEVELS.of_first_figure), margin, run))
    return found


def _margin(values: Any, alpha: float) -> float:
    n = len(values)
    return float(values.std(ddof=1) * math.sqrt((n - 1) / chdtri(n - 1, alpha)))


@dataclass(frozen=True)
class Ended:
    """A simulated comparison at its end: the trials that ran, why it ended, and the last row of each precision."""

    trials: int
    end: str
    rows: list[PrecisionRow]
    standings: list[Standing]


def played(found: Sequence[Precision], most: float = math.inf, levels: Levels = LEVELS) -> Ended:
    """Let the planner run a comparison: a trial takes one second, and there are ``most`` of them."""
    names = ("fp32", *(precision.name for precision in found))
    ran: set[tuple[str, int]] = set()
    seconds, members, left = dict.fromkeys(names, 1.0), (), most
    base = PrecisionRow("fp32", "fp32", "ok")
    while True:
        # Rows change with whole blocks only; as no trial fails, a block is as good as its last trial.
        done = {p.name: sum(name == p.name for name, _ in ran) for p in found}
        rows = [base, *(p.row(done[p.name]) for p in found if done[p.name])] if ran else []
        step = planning.plan(State(names, ran, rows, levels, "speed", seconds, left, members))
        if isinstance(step, PlanEnd):
            return Ended(len(ran), step.end, rows[1:], stand(rows, levels, "speed", {}))
        members = step.members
        block = [n for n in names if (n, step.block) not in ran and n in (members or names)]
        ran |= {(name, step.block) for name in block}
        left -= len(block)


# --- the kinds of simulation -------------------------------------------------------------------------------


def share(count: int, of: int) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper & Pearson)."""
    interval = binomtest(count, of).proportion_ci(0.95)
    return {"share": count / of, "low": interval.low, "high": interval.high, "of": of}


def nothing(kind: str, count: int) -> dict[str, Any]:
    """Comparisons in which nothing differs."""
    random = np.random.default_rng([1, *kind.encode()])
    alarms = dropped = 0
    for _ in range(count):
        ended = played(
            compared(
                trials(kind, random), SEEDS * random.standard_normal(MOST), dict.fromkeys("abc", (0.0, 0.0))
            )
        )
        alarms += any(_differs(row) for row in ended.rows)
        dropped += any(s.drop in ("loses", "worse", "beaten") for s in ended.standings)
    return {"noise": kind, "false_alarm": share(alarms, count), "dropped_wrongly": share(dropped, count)}


def _differs(row: PrecisionRow) -> bool:
    ratios = (row.speed_ratio, row.memory_ratio, row.energy_ratio)
    over = row.loss.over_run if row.loss else None
    kinds = (row.loss.kind if row.loss else None, row.quality.kind, over.kind if over else None)
    return any(ratio is not None and bool(ratio.significant) for ratio in ratios) or any(
        kind in ("worse", "better", "different") for kind in kinds
    )


def boundary(kind: str, count: int) -> dict[str, Any]:
    """Comparisons in which every gain is the least worth having, and every loss as far apart as the margin."""
    random = np.random.default_rng([2, *kind.encode()])
    truth = dict.fromkeys("abc", (-math.log(AS_GOOD), math.hypot(SEEDS, LOSS)))
    dropped = equivalent = 0
    for _ in range(count):
        ended = played(compared(trials(kind, random), SEEDS * random.standard_normal(MOST), truth))
        dropped += any(s.drop in ("loses", "no_gain") for s in ended.standings)
        equivalent += any(
            row.loss is not None and row.loss.kind in ("equivalent", "better") for row in ended.rows
        )
    return {
        "noise": kind, "gain_denied": share(dropped, count), "called_equivalent": share(equivalent, count)
    }  # fmt: skip


def effect(pairs: int, count: int) -> dict[str, Any]:
    """The objective's ratio of one of two precisions, against a fixed plan of so many pairs that sees it 4 times in 5.

    Once as large as the plan was designed for, once twice as large: how many pairs as a share of the plan's, and how
    often it was seen.
    """
    alpha = Levels(1).of_ratio("speed")
    designed = noncentrality(pairs, alpha) / math.sqrt(pairs)
    random = np.random.default_rng([3, pairs])
    found: dict[str, Any] = {"fixed_pairs": pairs, "effect": designed}
    for name, times in (("designed", 1.0), ("twice", 2.0)):
        needed, seen = [], 0
        for _ in range(count):
            at = looked(times * designed + random.standard_normal(MOST), alpha)
            told = np.flatnonzero(at.low > 0)
            seen += len(told) > 0
            needed.append(LOOKS[told[0]] if len(told) else MOST)
        found[name] = {"pairs": float(np.mean(needed)) / pairs, "seen": share(seen, count)}
    return found


# --- the gallery -------------------------------------------------------------------------------------------

GALLERY = Path(__file__).parent / "results" / "gallery-amd-epyc.json"
_BOUND = re.compile(r"equivalent: ([\d.e-]+) apart at most")
_DETECTABLE = re.compile(r"; ([\d.e-]+) or more would have been")


def gallery(count: int) -> dict[str, Any]:
    """Each case of the committed gallery, its measured ratios taken for the truth: trials by those of five seeds.

    Noise is normal, of the deviation that the case's own intervals tell. Within the time of five seeds, and with all
    the time there is.
    """
    random = np.random.default_rng(4)
    cases = [case for case in json.loads(GALLERY.read_text())["cases"] if "rows" in case]
    rows = []
    for case in cases:
        base, *others = case["rows"]
        fixed = 5 * len(case["rows"])
        ended = {"as_long": [], "unlimited": []}  # type: dict[str, list[Ended]]
        for _ in range(count):
            found = _of_case(base, others, random)
            ended["as_long"].append(played(found, fixed, Levels(len(others))))
            ended["unlimited"].append(played(found, levels=Levels(len(others))))
        row: dict[str, Any] = {"case": case["name"], "fixed_trials": fixed}
        for name, ends in ended.items():
            row[name] = {
                "trials": float(np.mean([end.trials for end in ends])) / fixed,
                "certain": sum(end.end == "certain" for end in ends) / count,
            }
        rows.append(row)
    of_all = {
        name: float(np.mean([row[name]["trials"] for row in rows])) for name in ("as_long", "unlimited")
    }
    return {"cases": rows, "trials": of_all}


def _of_case(
    base: dict[str, Any], others: Sequence[dict[str, Any]], random: np.random.Generator
) -> list[Precision]:
    """Draw a comparison of a case of the gallery."""
    levels = Levels(len(others))
    # The expected range of five normal values is 2.326 deviations.
    seeds = (base["loss"]["high"] - base["loss"]["low"]) / 2.326 * random.standard_normal(MOST)
    margin = np.array([_margin(seeds[:n], level(n, levels.of_first_figure) / 2) for n in LOOKS])
    found = []
    for row in others:
        ratio = row["speed_ratio"]
        half = math.log(ratio["high"] / ratio["low"]) / 2
        # Welch's interval of five trials a side has some eight freedoms; a pair has the noise of both.
        deviation = half / t_quantile(8) * math.sqrt(5)
        speed = math.log(ratio["value"]) + deviation * random.standard_normal(MOST)
        loss = _loss_deviation(row["quality"]["words"]) * random.standard_normal(MOST)
        ratios = {"speed": looked(speed, levels.of_ratio("speed"))}
        run = looked(loss, levels.of_other_figure(1))
        units = (
            Ran(fp32_units=(EVERY_PRODUCT,)) if row["ran_as"].endswith(", products in fp32 units") else Ran()
        )
        first = looked(loss, levels.of_first_figure)
        found.append(Precision(row["precision"], ratios, first, margin, run, units))
    return found


def _loss_deviation(words: str) -> float:
    """The deviation of a paired difference, from what five seeds were said to bound it to, or to be able to see."""
    if bound := _BOUND.search(words):
        return float(bound[1]) / t_quantile(4, 0.95) * math.sqrt(5)
    if seen := _DETECTABLE.search(words):
        return float(seen[1]) / noncentrality(5, 0.05 / 2) * math.sqrt(5)
    raise ValueError(words)


def simulated(count: int) -> dict[str, Any]:
    """All kinds: ``count`` comparisons of each noise in which nothing differs, a quarter of them at the boundary."""
    jobs: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        *((nothing, (kind, count)) for kind in (*NOISES, *REMAINS)),
        *((boundary, (kind, max(1, count // 4))) for kind in NOISES),
        *((effect, (pairs, count)) for pairs in (5, 8, 13, 22)),
        (gallery, (max(1, count // 100),)),
    ]
    with ProcessPoolExecutor(2) as pool:
        found = [pool.submit(job, *arguments) for job, arguments in jobs]
        told = [each.result() for each in found]
    n, m = len(NOISES) + len(REMAINS), len(NOISES)
    return {
        "nothing": told[:n], "boundary": told[n : n + m], "effect": told[n + m : -1], "gallery": told[-1],
    }  # fmt: skip


def said(found: dict[str, Any]) -> str:
    """What was found, in lines."""
    lines = [f"{'noise':15}  {'false alarm, nothing differs':28}  {'gain denied':22}  called equivalent"]
    at = {row["noise"]: row for row in found["boundary"]}
    for row in found["nothing"]:
        edge = at.get(row["noise"])
        cells = ("", "") if edge is None else (_said(edge["gain_denied"]), _said(edge["called_equivalent"]))
        lines.append(f"{row['noise']:15}  {_said(row['false_alarm']):28}  {cells[0]:22}  {cells[1]}")
    for row in found["effect"]:
        told = ", ".join(f"{name} {row[name]['pairs']:.2f}" for name in ("designed", "twice"))
        lines.append(f"pairs over a fixed plan of {row['fixed_pairs']}: {told}")
    of_all = found["gallery"]["trials"]
    return "\n".join([*lines, f"the gallery's trials over those of five seeds: {of_all['as_long']:.2f}"])


def _said(row: dict[str, float]) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
