"""The rules of advice, a row each: the first that has an answer decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from halfstep.comparison import staying, using
from halfstep.comparison.evidence import Answer, Evidence


@dataclass(frozen=True)
class Rule:
    """A row of the table: its name, what a seasoned engineer would say, and how it follows from the evidence."""

    name: str
    wisdom: str
    answer: Callable[[Evidence], Answer | None]


#: the first rule that has an answer decides; the test of each is in tests/comparison/test_advice.py
RULES: tuple[Rule, ...] = (
    Rule("nothing_ran", "Without a run there is nothing to say.", staying.nothing_ran),
    Rule("unstable", "An unstable model belongs in fp32 until it is stable.", staying.unstable),
    Rule("not_learning", "Debug a new architecture in fp32.", staying.not_learning),
    Rule("continued", "A training that goes on from another's is not compared with it.", staying.continued),
    Rule("ran_the_same", "Two names for one training leave nothing to choose.", staying.ran_the_same),
    Rule("alone", "What cannot run here cannot be used here.", staying.alone),
    Rule(
        "accuracy_first",
        "Where accuracy is all, only what was shown to be as good will do.",
        using.accuracy_first,
    ),
    Rule(
        "only_emulated", "An emulated run tells how well it trains, not what it costs.", staying.only_emulated
    ),
    Rule(
        "largest_batch",
        "Where memory is what counts, the largest batch that fits tells more than a peak.",
        using.largest_batch,
    ),
    Rule(
        "keep_own_amp",
        "A script that has good mixed precision of its own should keep it.",
        using.keep_own_amp,
    ),
    Rule(
        "bf16_for_its_range",
        "Where bf16 is nearly as good as fp16, its range is worth more.",
        using.bf16_for_its_range,
    ),
    Rule(
        "fp16_where_bf16_is_not_native", "fp16 where bf16 has no units.", using.fp16_where_bf16_is_not_native
    ),
    Rule("best", "Use the best that is not worse.", using.best),
    Rule(
        "larger_batch_not_as_good",
        "Room for a larger batch is worth nothing if the training is worse.",
        staying.larger_batch_not_as_good,
    ),
    Rule(
        "undecided",
        "Where the data do not carry a verdict, say so and ask for more seeds.",
        staying.undecided,
    ),
    Rule(
        "gain_cannot_be_told",
        "A gain that noise may have made, or have hidden, asks for more runs.",
        staying.gain_cannot_be_told,
    ),
    Rule("gains_but_worse", "A gain is worth nothing if the training is worse.", staying.gains_but_worse),
    Rule("impossible_gain", "A gain that no unit can give is another's loss.", staying.impossible_gain),
    Rule("no_units", "Without units for it, mixed precision cannot be faster.", staying.no_units),
    Rule("not_measured", "What was not measured cannot be advised on.", staying.not_measured),
    Rule("no_gain", "Without a gain, stay with what is exact.", staying.no_gain),
)
