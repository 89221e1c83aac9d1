"""Verdicts on simulated trials: what is said, and how often it is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from halfstep.comparison.model.quality import ALPHA, Difference
from halfstep.comparison.rows import trial_row
from halfstep.comparison.statistics.curves import direction, is_quality
from halfstep.comparison.statistics.paired import POWER, noncentrality
from halfstep.comparison.statistics.quality import kind_of
from halfstep.comparison.statistics.tolerance import Tolerance, parse_tolerance
from halfstep.errors import UsageError
from halfstep.report.words.quality import figure_words
from halfstep.trials import Outcome

from ..simulated import comparison, outcome
from ..told import told_rows


def judged(outcomes: list[Outcome], tolerance: Tolerance | None = None) -> dict[str, dict[str, Any]]:
    rows = [trial_row(o, (), "") for o in outcomes]
    return {row["precision"]: row for row in told_rows(outcomes, rows, tolerance)}


def noisy(level: float, seed: int, steps: int = 20) -> list[float]:
    return [level + 0.01 * math.sin(3 * seed + i) for i in range(steps)]


def test_false_alarms_power_and_overall_alarms() -> None:
    """200 comparisons of four precisions on five seeds: three are equal to fp32, one is worse by the stated difference."""
    random, count, seeds, own = np.random.default_rng(20), 200, 5, 0.01
    # The difference of two final losses, each the mean of the last 5 steps: its deviation, and what has power 0.8.
    deviation = math.sqrt(2 * (own**2 + 0.01**2 / 5))
    shift = noncentrality(seeds, ALPHA / 4) * deviation / math.sqrt(seeds)
    alarms = anywhere = seen = 0
    for _ in range(count):
        found = judged(comparison(random, seeds, {"a": 0.0, "b": 0.0, "c": 0.0, "d": shift}, own_noise=own))
        equal = [found[p] for p in ("a", "b", "c")]
        alarms += any(v["loss"]["difference"]["significant"] for v in equal)
        anywhere += any(
            v["loss"]["difference"]["significant"] or v["loss"]["over_run"]["difference"]["significant"]
            for v in equal
        )
        seen += found["d"]["loss"]["difference"]["significant"]
    bound = 3 * math.sqrt(ALPHA * (1 - ALPHA) / count)
    assert alarms / count <= ALPHA + bound
    assert anywhere / count <= 2 * ALPHA + bound  # two families, each at 5 %
    assert seen / count >= POWER - 3 * math.sqrt(POWER * (1 - POWER) / count)


def test_worse_and_better_by_how_much() -> None:
    random = np.random.default_rng(1)
    found = judged(comparison(random, 5, {"bf16": 0.3, "fp16": -0.3}))
    worse, better = found["bf16"]["loss"], found["fp16"]["loss"]
    assert (worse["kind"], better["kind"]) == ("worse", "better")
    assert abs(worse["difference"]["value"] - 0.3) < 0.03
    assert worse["words"].startswith("worse by 0.")
    assert worse["words"].endswith("of the fall) (5 seeds)")
    assert found["bf16"]["quality"]["kind"] == "worse"
    assert found["fp32"]["quality"] == {"kind": "baseline", "words": "the baseline (5 seeds)", "seeds": 5}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-2e-5, "-2e-05 (under 0.1% of the fall)"),
        (0.01, "+0.01 (+1.0% of the fall)"),
        (0.004499, "+0.0045 (+0.4% of the fall)"),
        (-123.4, "-120"),
    ],
)
def test_a_small_share_of_the_fall_is_not_written_as_none(value: float, said: str) -> None:
    words = figure_words(Difference(value, seeds=1), "one_seed", 1.0, False)
    assert words == f"{said}; one seed cannot tell it from noise"


def test_the_same_value_is_no_difference_that_could_be_noise() -> None:
    assert figure_words(Difference(0.0, seeds=1), "one_seed", 1.0, False) == "the same (one seed)"
    said = "the same (the seeds changed nothing, so noise is not known)"
    assert figure_words(Difference(0.0, seeds=3), "one_seed", 1.0, True) == said


def test_equivalent_within_the_seeds_or_the_tolerance() -> None:
    near = comparison(np.random.default_rng(2), 4, {"bf16": 0.0}, seed_noise=0.5)
    by_seeds = judged(near)["bf16"]["loss"]
    assert by_seeds["kind"] == "equivalent"
    assert "seeds alone differ by" in by_seeds["words"]
    strict = judged(near, parse_tolerance(["0.0001"]))["bf16"]["loss"]
    assert strict["kind"] == "no_difference_seen"
    assert "4 seeds; " in strict["words"]
    assert "or more would have been, 4 times in 5" in strict["words"]
    loose = judged(near, parse_tolerance(["0.1"]))["bf16"]["loss"]
    assert loose["kind"] == "equivalent"
    assert "the tolerance is" in loose["words"]
    assert loose["difference"]["margin_from"] == "tolerance"


def test_one_seed_says_what_it_cannot_say() -> None:
    found = judged(comparison(np.random.default_rng(3), 1, {"bf16": 0.1}))["bf16"]
    assert found["loss"]["kind"] == "one_seed"
    assert found["loss"]["words"].endswith("one seed cannot tell it from noise")
    assert found["loss"]["difference"]["low"] is None
    assert found["loss"]["over_run"]["parts"] == []


def test_seeds_that_change_nothing_are_one_seed() -> None:
    """A script without any randomness: five seeds are the same run five times, and no noise is known."""
    trials = [
        outcome(p, noisy(level, 0), seed) for seed in range(5) for p, level in (("fp32", 1.0), ("bf16", 1.1))
    ]
    found = judged(trials)["bf16"]["loss"]
    assert found["kind"] == "one_seed"
    assert found["words"].endswith("the seeds changed nothing, so noise is not known")
    assert found["difference"]["value"] == pytest.approx(0.1)


def test_seeds_that_end_alike_on_other_ways_are_seeds() -> None:
    """All losses of the last steps are alike, those before are not."""
    trials = [
        outcome(p, [*noisy(2.0, seed), *[level] * 20], seed)
        for seed in range(5)
        for p, level in (("fp32", 1.0), ("bf16", 1.1))
    ]
    found = judged(trials)["bf16"]["loss"]
    assert (found["kind"], found["difference"]["seeds"]) == ("worse", 5)


def test_repeats_of_a_seed_are_not_seeds() -> None:
    trials = [
        outcome(p, noisy(level, 0), 0, repeat)
        for repeat in range(5)
        for p, level in (("fp32", 1.0), ("bf16", 1.1))
    ]
    assert judged(trials)["bf16"]["loss"]["kind"] == "one_seed"


def test_identical_runs() -> None:
    trials = [outcome(p, noisy(1.0, seed), seed) for seed in range(3) for p in ("fp32", "as-is")]
    found = judged(trials)["as-is"]["loss"]
    assert (found["kind"], found["words"]) == ("equivalent", "identical in all 3 seeds")


def test_divergence_is_told_with_its_step_and_its_share() -> None:
    nan = float("nan")
    trials = [outcome("fp32", noisy(1.0, seed), seed) for seed in range(3)]
    trials += [outcome("fp16", noisy(1.0, 0), 0)]
    trials += [outcome("fp16", noisy(1.0, s)[: 10 + s] + [nan] * 5, s, status="diverged") for s in (1, 2)]
    found = judged(trials)["fp16"]
    assert found["diverged"] == {"trials": 2, "of": 3, "seeds": [1, 2], "steps": [12, 13]}
    assert found["quality"]["kind"] == "diverged"
    assert found["quality"]["words"] == "diverged at steps 12 to 13 in 2 of 3 trials"


def test_curves_that_part_and_meet_again_are_seen_over_the_run() -> None:
    """Equal at the end, worse in the middle: the last step alone would not tell."""
    random = np.random.default_rng(4)
    trials = comparison(random, 8, {"bf16": 0.0}, steps=40)
    for o in trials:
        if o.trial.precision == "bf16":
            for step in o.record.steps[12:24]:
                step["loss"] += 0.2
    found = judged(trials)["bf16"]
    assert found["loss"]["kind"] != "worse"
    over = found["loss"]["over_run"]
    assert over["kind"] == "worse"
    assert over["apart"] == [[12, 15], [16, 19], [20, 23]]
    assert over["method"] == "largest t of sign flips"
    assert found["quality"]["kind"] == "worse"
    assert "loss over the run: worse by" in found["quality"]["words"]


def test_logged_figures_get_the_same_treatment() -> None:
    """A higher loss is worse, a higher accuracy better; an unknown figure only differs; a time is none of quality."""
    trials = []
    for seed in range(5):
        for precision, gain in (("fp32", 0.0), ("bf16", -0.1)):
            points = {
                "accuracy": [(i, 0.8 + gain + 0.01 * math.sin(seed + i)) for i in range(4, 20, 5)],
                "margin": [(i, 0.1 + gain / 10 + 1e-4 * math.sin(seed * (1 - gain))) for i in range(20)],
                "train_runtime": [(19, 100.0 + 50 * gain + seed)],
            }
            trials.append(outcome(precision, noisy(1.0, seed + int(10 * gain)), seed, logged=points))
    found = judged(trials)["bf16"]
    accuracy, rate = found["logged"]["accuracy"], found["logged"]["margin"]
    assert (accuracy["direction"], accuracy["kind"]) == ("higher", "worse")
    assert accuracy["difference"]["value"] == pytest.approx(-0.1)
    assert (rate["direction"], rate["kind"]) == ("unknown", "different")
    assert rate["words"].startswith("differs by -0.01")
    assert set(found["logged"]) == {"accuracy", "margin"}
    assert found["quality"]["kind"] == "worse"
    assert "accuracy: worse by 0.1 ± " in found["quality"]["words"]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("loss", "lower"), ("val/loss", "lower"), ("trainLoss", "lower"), ("eval_perplexity", "lower"), ("mse", "lower"),
        ("accuracy", "higher"), ("val_acc", "higher"), ("f1-macro", "higher"), ("top_5", "higher"), ("mAP", "higher"),
        ("BLEU", "higher"), ("lr", "unknown"), ("epoch", "unknown"), ("grad_norm", "unknown"), ("classes", "unknown"),
        ("accuracy_loss", "unknown"),
    ],
)  # fmt: skip
def test_which_way_is_better(name: str, way: str) -> None:
    assert direction(name) == way


@pytest.mark.parametrize(
    "name", ["train_runtime", "samples_per_second", "epoch", "lr-AdamW", "learning_rate", "total_flos"]
)
def test_what_is_no_figure_of_quality(name: str) -> None:
    assert not is_quality(name)
    assert is_quality("train_loss_step")
    assert is_quality("grad_norm")


def test_tolerances() -> None:
    given = parse_tolerance(["0.01, 2%", "accuracy=0.5%"])
    assert given.margin("loss", 4.0) == 0.01
    assert given.margin("accuracy", 0.8) == pytest.approx(0.004)
    assert given.margin("ppl", -50.0) == pytest.approx(1.0)
    assert parse_tolerance(["0.01"]).margin("accuracy", 0.8) is None
    assert parse_tolerance([str(given)]) == given


@pytest.mark.parametrize("text", ["", "0", "-1%", "x", "accuracy=", "inf", "nan"])
def test_what_is_no_tolerance(text: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_tolerance([text])
    assert str(told.value) == (
        f"{text!r} is not a tolerance; give a number above zero (0.01, of the loss), a percentage (1%, of every figure), "
        "or either for one figure (accuracy=0.005)."
    )


@pytest.mark.parametrize(
    ("fall", "said"), [(1.0, " (+28.4% of the fall)"), (0.02, ""), (-1.0, ""), (0.0, "")]
)
def test_a_fall_that_hardly_was_is_no_measure(fall: float, said: str) -> None:
    """A difference of 0.284 is no "+1419.5% of the fall"."""
    words = figure_words(Difference(0.2839, seeds=1), "one_seed", fall, False)
    assert words == f"+0.28{said}; one seed cannot tell it from noise"


@pytest.mark.parametrize(
    ("found", "way", "kind"),
    [
        (Difference(seeds=0), "lower", "not_known"),
        (Difference(0.0, seeds=1), "lower", "one_seed"),
        (Difference(0.0, 0.0, 0.0, seeds=3, p=1.0), "lower", "equivalent"),
        (Difference(0.1, -0.1, 0.3, seeds=3, p=0.2, p_equivalence=0.05), "lower", "equivalent"),
        (Difference(0.1, -0.1, 0.3, seeds=3, p=0.0501), "lower", "no_difference_seen"),
        (Difference(0.1, 0.0, 0.0, seeds=3, p=0.2), "lower", "no_difference_seen"),
        (Difference(0.1, 0.1, 0.1, seeds=3, p=0.05), "lower", "worse"),
        (Difference(0.1, 0.05, 0.2, seeds=3, p=0.01, p_holm=0.06), "lower", "no_difference_seen"),
        (Difference(0.1, 0.05, 0.2, seeds=3, p=0.01, p_holm=0.05), "unknown", "different"),
        (Difference(-0.1, -0.2, -0.05, seeds=3, p=0.01), "lower", "better"),
        (Difference(0.1, 0.05, 0.2, seeds=3, p=0.01), "higher", "better"),
        (Difference(-0.1, -0.2, -0.05, seeds=3, p=0.01), "higher", "worse"),
    ],
)
def test_each_kind_of_verdict_on_a_figure(found: Difference, way: Any, kind: str) -> None:
    assert kind_of(found, way) == kind


def test_how_far_the_loss_fell_is_its_first_value_less_its_last() -> None:
    """The mean over the baseline's seeds; and the power is that of a difference that could have been seen."""
    falling = [10.0, *[4.0] * 5], [9.0, *[5.0] * 5]
    outcomes = [outcome(p, losses, seed) for seed, losses in enumerate(falling) for p in ("fp32", "bf16")]
    rows = judged(outcomes)
    assert rows["fp32"]["fall"] == rows["bf16"]["loss"]["difference"]["fall"] == 5.0
    assert rows["bf16"]["loss"]["difference"]["power"] == POWER
    assert rows["fp32"]["loss"]["kind"] is None
    assert rows["bf16"]["loss"]["difference"]["margin_from"] == "seeds"
    alone = judged(outcomes[:2])["bf16"]["loss"]["difference"]
    assert alone["margin_from"] is None
    assert (alone["power"], alone["detectable"], alone["fall"]) == (None, None, 6.0)
