"""What a record or a comparison lacks, in words."""

from __future__ import annotations

NO_TIMED_STEP = "no step after the warm-up"
NO_STEP = "no step was made"
NO_TRIAL = "no trial measured it"
NO_END = "no end was recorded"
NOT_IN_RECORD = "the record has no such figure"
NO_SAMPLES = "it is not known how many samples a step takes"
PEAK_UNKNOWN = "the process ended without reporting its peak"

#: why there is no energy where trials ran side by side on one processor: its counters cover all of it
SHARED = "other trials ran on the same processor at the same time"
#: why there is no energy where other work disturbed all trials of a precision
DISTURBED = "other work disturbed every trial, and the counter counts it, too"
#: why an emulated trial has no figure of its cost
EMULATED = "an emulated run reports no speed, memory or energy"

NO_PRODUCT = "the sampled step made no matrix product"
SECOND_STEP = "measured in the second step, which was not reached"
NOT_SAMPLED = "no step was sampled"
THIRD_STEP = "measured in the third step, which was not reached"
NO_SHARES = "the profiled step gave no shares"

#: why what the peak holds beside the parts is not known
RESIDENT_PEAK = (
    "on a CPU the peak is the resident set's, which holds the program's data and code too: "
    "the rest of the peak is not workspace alone"
)
NO_ACTIVATIONS = "the activations are not known, so the rest of the peak is not known either"
#: the sampled step kept more memory than any later one
PEAK_BELOW_PARTS = "the peak after the warm-up is below the parts of the sampled step"


def failed_look(look: str, why: str) -> str:
    """What the record lacks because halfstep could not measure it, and why."""
    return f"{look}: incomplete, because halfstep could not measure it ({why}); the program itself was not affected"
