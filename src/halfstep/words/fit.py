"""What the search for the largest batch has found, in words."""

from __future__ import annotations


def did_not_fit(batch: int) -> str:
    """``192 did not fit``."""
    return f"{batch:,} did not fit"


def none_fitted(smallest: int | None) -> str:
    """Why there is no largest batch: not even the smallest one that was tried fitted."""
    return f"even {smallest} did not fit"


def over_limit(peak: int, limit: int) -> str:
    """How much resident memory a trial took, and how much it may take, in bytes."""
    return f"its resident memory came to {peak:,} bytes, over the limit of {limit:,}"


def no_answer(batch: int, name: str, status: str, reason: str) -> str:
    """Why the trial of a batch says nothing about memory: it ended for another reason."""
    return f"the trial with {batch} {name}: {status.replace('_', ' ')}, {reason}"


def same_samples(samples: int, argument: str, smaller: int, larger: int) -> str:
    """Why a larger batch says nothing about memory: a step took as many samples with it as with a smaller one."""
    return (
        f"a step took {samples} samples at {argument} {smaller} and at {larger}: "
        "the program has no more data, or the option does not set its batch"
    )
