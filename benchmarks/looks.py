"""How many times its level the looks at a figure may spend together, so that they err as often as the level says.

Differences are normal, and nothing differs. Each figure that is drawn has a t statistic at every look of
``halfstep.comparison.statistics.sequential``; what counts is its least p value, in units of what the look may spend.
The quantile of that at a level, over the level, is the multiple. Printed are that of both sides, that of one side (for
equivalence), their standard error, and what halfstep uses, which is less. Expected: most at 5 %, where the looks hang
together most, and nearer to 1 the smaller the level is. Seen: 1.73 at 5 %, 1.44 at 1 %, 1.25 at 0.1 %.

    python benchmarks/looks.py [--batches 120]         # 12 million figures: a minute
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from adaptive import at_looks
from scipy.special import stdtr

from halfstep.comparison.statistics.sequential import LOOKS, SHARES, level

BATCH = 100_000
#: least p values above this, in units of what a look may spend, are of no level that is asked for
LARGEST = 0.2
LEVELS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001)


def spent(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The least p value of each figure, in units of what the look may spend: of both sides, and twice the upper one."""
    mean, error = at_looks(random.standard_normal((BATCH, LOOKS[-1])))
    freedom = np.array(LOOKS) - 1
    both, upper = (
        (2 * stdtr(freedom, -side) / SHARES).min(axis=1) for side in (abs(mean) / error, mean / error)
    )
    return both, upper


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=120, help="of 100,000 figures each")
    batches = parser.parse_args().batches
    random, least = np.random.default_rng(1), ([], [])  # type: ignore[var-annotated]
    for _ in range(batches):
        for kept, found in zip(least, spent(random), strict=True):
            kept.append(found[found < LARGEST])
    both, one = (np.sort(np.concatenate(kept)) for kept in least)
    figures = batches * BATCH
    print(f"{'level':>8}{'both sides':>12}{'one side':>12}{'error':>8}{'used':>8}")
    for alpha in LEVELS:
        count = int(alpha * figures)
        used = level(LOOKS[0], alpha) / alpha / SHARES[0]
        of_both, of_one = both[count] / alpha, one[count // 2] / alpha
        print(f"{alpha:>8}{of_both:>12.3f}{of_one:>12.3f}{of_both / math.sqrt(count):>8.3f}{used:>8.3f}")


if __name__ == "__main__":
    main()
