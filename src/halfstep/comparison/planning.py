"""Chooses what a comparison with ``--budget`` runs next, from values alone; nothing is run here.

A block is one trial of every precision that is still open, and of the baseline, with one seed. After every trial (with
blocks side by side: after every wave of blocks) the verdicts say which precisions are open; those that certainly lose,
fail or cannot win are not run again. The comparison ends when no precision is open, when the time is used up, or when
neither the largest plan nor the time is enough for what is open.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from halfstep.comparison.model.budget import End, Standing
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.standing import stand
from halfstep.comparison.statistics.sequential import LOOKS, Levels, next_look


@dataclass(frozen=True)
class State:
    """What is known when the next trial is chosen."""

    precisions: tuple[str, ...]  #: those to compare, in their order
    ran: Collection[tuple[str, int]]  #: the trials that have ended, as (precision, block)
    rows: Sequence[PrecisionRow]  #: their verdicts, made with the same levels
    levels: Levels  #: the share of the significance level that each figure may use
    prefer: Prefer
    seconds: Mapping[str, float]  #: how long a trial of each precision takes, where that is known
    left: float  #: seconds until the time is used up
    members: tuple[str, ...] = ()  #: the precisions of the current block; empty: all that are open
    places: int = 1  #: how many blocks can run side by side


@dataclass(frozen=True)
class Next:
    """The trial to run now."""

    precision: str
    block: int
    members: tuple[str, ...]
    more: int = 0


@dataclass(frozen=True)
class Wave:
    """Trials that may run now, as (precision, block): those that their blocks lack, each block in its own order."""

    trials: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PlanEnd:
    """The end, and why."""

    end: End


def order(precisions: Sequence[str], block: int) -> list[str]:
    """The precisions in the order in which a block runs them: random, and the same at every call.

    So each trial of a pair is the earlier one with the same probability, whatever the machine does meanwhile. Dropping
    a precision does not change the order of the others.
    """
    return sorted(precisions, key=lambda name: _drawn(name, block))


@functools.lru_cache(maxsize=1024)
def _drawn(name: str, block: int) -> float:
    return random.Random(f"{block}/{name}").random()


@dataclass(frozen=True)
class _Open:
    """The open precisions."""

    standings: list[Standing]  #: those that have run
    fresh: list[str]  #: those that have not run yet
    baseline: str | None

    @classmethod
    def of(cls, state: State) -> _Open:
        standings = stand(state.rows, state.levels, state.prefer, state.seconds)
        begun = {row.precision for row in state.rows}
        return cls(
            [s for s in standings if s.open],
            [name for name in state.precisions if name not in begun],
            next((row.baseline for row in state.rows if row.baseline), None),
        )

    @property
    def names(self) -> list[str]:
        """The open precisions."""
        return [*self.fresh, *(s.precision for s in self.standings)]


def plan(state: State) -> Next | PlanEnd:
    """The next trial, or the end."""
    found, members = _Open.of(state), state.members or state.precisions
    block = max((block for _, block in state.ran), default=0)
    pending = _pending(state, members, found.names, found.baseline, block)
    if state.left <= 0:
        return PlanEnd("time" if pending or found.standings else "certain")
    if pending:
        return Next(pending[0], block, members, len(pending) - 1)
    following = _new_blocks(state, found)
    if isinstance(following, PlanEnd):
        return following
    names, blocks = order(following[0], block + 1), following[1]
    return Next(names[0], block + 1, tuple(names), blocks * len(names) - 1)


def wave(state: State) -> Wave | PlanEnd:
    """The next blocks that run side by side, or the end; called when no trial runs.

    Interrupted blocks come first: ``members`` is empty when a comparison has just begun or was resumed.
    """
    found, blocks = _Open.of(state), sorted({block for _, block in state.ran})
    wanted = found.fresh if state.members else found.names
    pending = [
        (name, block)
        for block in blocks
        for name in _pending(state, state.precisions, wanted, found.baseline, block)
    ]
    if state.left <= 0:
        return PlanEnd("time" if pending or found.standings or not blocks else "certain")
    if pending:
        return Wave(tuple(pending))
    if not blocks:
        return _wave(state.precisions, range(min(state.places, LOOKS[0])))
    following = _new_blocks(state, found)
    if isinstance(following, PlanEnd):
        return following
    return _wave(following[0], range(blocks[-1] + 1, blocks[-1] + 1 + following[1]))


def _wave(members: Sequence[str], blocks: range) -> Wave:
    return Wave(tuple((name, block) for block in blocks for name in order(members, block)))


def _pending(
    state: State, members: Sequence[str], wanted: Sequence[str], baseline: str | None, block: int
) -> list[str]:
    """What a block of ``members`` still has to run, in order; the baseline only if another one is to run."""
    others = [name for name in wanted if name != baseline and name in members]
    if others and baseline is not None:
        others.append(baseline)
    return [name for name in order(others, block) if (name, block) not in state.ran]


def _new_blocks(state: State, found: _Open) -> tuple[list[str], int] | PlanEnd:
    """The precisions of the next blocks, and how many blocks: up to the next look, or as many as run side by side."""
    standings, baseline = found.standings, found.baseline
    if not standings:
        return PlanEnd("certain")
    if all(next_look(s.pairs) is None for s in standings):
        return PlanEnd("plan")
    hopeful = [s for s in standings if s.hope is not None and next_look(s.pairs) is not None]
    if not hopeful:
        return PlanEnd("out_of_reach")
    one = sum(state.seconds.get(name, 0.0) for name in (baseline or "", *(s.precision for s in hopeful)))

    def seconds(blocks: int) -> float:
        return math.ceil(blocks / state.places) * one

    blocks = min((next_look(s.pairs) or 0) - s.pairs for s in hopeful)
    if seconds(blocks) > state.left:
        return PlanEnd("time")
    reached = [s for s in hopeful if seconds((s.hope or 0) - s.pairs) <= state.left]
    if not reached:
        return PlanEnd("out_of_reach")
    if state.places > 1:
        blocks = _side_by_side(reached, state.places)
    return [*(s.precision for s in reached), *([baseline] if baseline else [])], blocks


def _side_by_side(reached: Sequence[Standing], places: int) -> int:
    """How many blocks a wave has: at most one per place, and if possible up to the last look that may be needed."""
    fewest = min(s.pairs for s in reached)
    needed = max(LOOKS[-1] if s.needed is None else s.needed for s in reached)
    ends = [n - fewest for n in LOOKS if fewest < n <= needed and n - fewest <= places]
    return ends[-1] if ends else min(places, (next_look(fewest) or fewest) - fewest)
