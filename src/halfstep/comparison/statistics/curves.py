"""Curves of a group of trials, one per seed: the loss, and whatever the script or its framework logged."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from halfstep.comparison.model.quality import Direction
from halfstep.trials import Outcome, once

LOSS = "loss"

#: the last part of a run whose mean is called its final value, and how many steps of a loss that is at least
FINAL_SHARE = 0.1
FINAL_STEPS = 5

#: into how many parts a run is cut, each of which is compared
PARTS = 10

#: a figure beyond this counts as not finite: the squares of some thousands of them would overflow
LARGEST = 1e150


@dataclass(frozen=True, eq=False)
class Curve:
    """Values of a figure at some steps."""

    steps: tuple[int, ...]  #: in order, each once
    values: Any  #: float64, shape [steps]

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Curve:
        """From (step, value) pairs in any order; if a step comes twice, its last value counts."""
        import numpy as np

        by_step = dict(pairs)
        steps = tuple(sorted(by_step))
        return cls(steps, np.array([by_step[step] for step in steps], dtype=float))

    def at(self, steps: tuple[int, ...]) -> Curve:
        """The curve at ``steps`` only; it has each of them."""
        if steps == self.steps:
            return self
        places = {step: i for i, step in enumerate(self.steps)}
        return Curve(steps, self.values[[places[step] for step in steps]])

    def where(self, counts: Any) -> Curve:
        """The curve at the steps where ``counts`` is true; bool, shape [steps]."""
        if counts.all():
            return self
        return Curve(tuple(itertools.compress(self.steps, counts.tolist())), self.values[counts])


_LOWER = re.compile(
    "loss(es)?|errors?|err|perplexity|ppl|nll|bce|mse|mae|rmse|mape|wer|cer|fid|kl|ce|xent|crossentropy|entropy|"
    "regret|eer|brier|deviance|objective|cost"
)
_HIGHER = re.compile(
    "acc|accurac(y|ies)|top1|top5|f1|fbeta|auc|auroc|auprc|roc|ap|map|precision|recall|sensitivity|specificity|"
    "bleu|rouge|meteor|m?iou|dice|jaccard|r2|psnr|ssim|mcc|kappa|ndcg|mrr|rewards?|returns?|score|winrate|elbo|"
    "likelihood|correct|hits|exactmatch"
)

#: what frameworks log about the run itself: its speed or progress, not its quality
_OF_THE_RUN = re.compile(
    "runtime|time|seconds?|sec|secs|ms|duration|elapsed|eta|throughput|fps|flos|flops|tokens|samples|memory|mem|vram|"
    "epochs?|steps?|iters?|iterations?|globalstep|lr|learningrate"
)


def direction(name: str) -> Direction:
    """Which direction of a figure is better, by the words in its name; ``unknown`` if they do not say.

    Example: ``val/top1_acc`` higher, ``validation_loss`` lower, ``lr`` unknown.
    """
    words = _words(name)
    lower = any(_LOWER.fullmatch(word) for word in words)
    higher = any(_HIGHER.fullmatch(word) for word in words)
    if lower == higher:
        return "unknown"
    return "lower" if lower else "higher"


def _words(name: str) -> list[str]:
    """The words of a name, and each two neighbours joined: ``val/top_5`` is val, top, 5, valtop, top5."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    return words + ["".join(pair) for pair in itertools.pairwise(words)]


def is_quality(name: str) -> bool:
    """Whether a logged figure can say how good a training is, and is not about the run itself.

    Example: ``train_runtime``, ``samples_per_second``, ``epoch`` and ``lr`` do not; ``train_loss_step`` does.
    """
    return direction(name) != "unknown" or not any(map(_OF_THE_RUN.fullmatch, _words(name)))


def final_loss(losses: Sequence[float | None]) -> float | None:
    """The mean loss of the last tenth of the steps, but of at least 5; None if one is not finite."""
    import numpy as np

    tail = losses[-max(FINAL_STEPS, round(len(losses) * FINAL_SHARE)) :]
    return _finite_mean(np.array([loss for loss in tail if loss is not None], dtype=float))


def final(name: str, curve: Curve) -> float | None:
    """The final value: the mean of the last tenth, of at least 5 values of the loss, or 1 of a logged figure."""
    fewest = FINAL_STEPS if name == LOSS else 1
    return _finite_mean(curve.values[-max(fewest, round(len(curve.steps) * FINAL_SHARE)) :])


def _finite_mean(values: Any) -> float | None:
    """The mean of an array; None if it is empty, or a value is not finite or beyond :data:`LARGEST`."""
    return sum(values.tolist()) / len(values) if len(values) and countable(values).all() else None


def countable(value: Any) -> Any:
    """Whether a number, or each of an array, can be averaged and squared; false for NaN."""
    return abs(value) <= LARGEST


def names(groups: Sequence[Sequence[Outcome]]) -> list[str]:
    """The loss, if any trial has one, and the logged figures of quality, in order."""
    outcomes = [outcome for group in groups for outcome in group]
    loss = [LOSS] * any(_has_losses(o) for o in outcomes)
    logged = dict.fromkeys(name for o in outcomes for name in o.record.logged if is_quality(name))
    # A figure that a script logs under the name "loss" is the loss.
    return [*loss, *(name for name in logged if name != LOSS or not loss)]


def by_seed(group: Sequence[Outcome], name: str) -> dict[int, Curve]:
    """The curve of each seed; repeats of a seed are the same training, so they are averaged."""
    seeds: dict[int, list[Curve]] = {}
    for outcome in group:
        if (curve := _curve(outcome, name)).steps:
            seeds.setdefault(outcome.trial.seed, []).append(curve)
    return {seed: _mean(curves) for seed, curves in sorted(seeds.items())}


@once
def _curve(outcome: Outcome, name: str) -> Curve:
    if name == LOSS and _has_losses(outcome):
        return Curve.of((i, x) for i, x in enumerate(outcome.record.losses) if x is not None)
    return Curve.of(outcome.record.logged.get(name, []))


@once
def _has_losses(outcome: Outcome) -> bool:
    return any(step.get("loss") is not None for step in outcome.record.steps)


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean at the steps that all curves have; NaN where a value is not :func:`countable`."""
    import numpy as np

    shared = _at_common_steps(curves)
    values = np.array([curve.values for curve in shared])
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.where(countable(values).all(axis=0), values.sum(axis=0) / len(curves), math.nan)
    return Curve(shared[0].steps, means)


def _at_common_steps(curves: Sequence[Curve]) -> list[Curve]:
    """The curves at the steps that all of them have, which nearly always are all of their steps."""
    first = curves[0].steps
    if all(curve.steps == first for curve in curves[1:]):
        return list(curves)
    steps = tuple(sorted(set(first).intersection(*(curve.steps for curve in curves[1:]))))
    return [curve.at(steps) for curve in curves]


def difference(ours: Curve, theirs: Curve) -> Curve:
    """Ours minus theirs, at the steps where both are :func:`countable`."""
    ours, theirs = _at_common_steps([ours, theirs])
    fine = countable(ours.values) & countable(theirs.values)
    ours, theirs = ours.where(fine), theirs.where(fine)
    return Curve(ours.steps, ours.values - theirs.values)


def area(curve: Curve) -> float | None:
    """The mean over the run: the area under the curve per step. None where nothing is finite."""
    known = curve.where(countable(curve.values)).values.tolist()
    return math.fsum(known) / len(known) if known else None


def parts(curves: Sequence[Curve]) -> tuple[list[tuple[int, int]], list[list[float]]]:
    """The run cut into at most ten parts: (first, last step) of each, and each curve's means, [curves, parts].

    Only steps that all the curves have are counted.
    """
    curves = _at_common_steps(curves) if curves else []
    steps = curves[0].steps if curves else ()
    count = min(PARTS, len(steps))
    bounds = [(len(steps) * i // count, len(steps) * (i + 1) // count) for i in range(count)]
    values = [curve.values.tolist() for curve in curves]
    means = [[math.fsum(known[a:b]) / (b - a) for a, b in bounds] for known in values]
    return [(steps[a], steps[b - 1]) for a, b in bounds], means
