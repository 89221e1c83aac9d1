"""How each step ended: it moves the scale, it is recorded, and too many skipped steps end the program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import NoReturn

from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from halfstep.errors import HalfstepError
from halfstep.precisions.loss_scale import Skip
from halfstep.precisions.recipes import Recipe
from halfstep.pytorch.loss_scaling.pending_flag import Verdict
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.statistics import Statistics
from halfstep.pytorch.recording.recorder import NullRecorder, Recorder
from halfstep.takeover.base import HOPELESS, GradientsOverflow, overflow_sentence


class Outcomes:
    """Notes that weights were updated, or that a step was skipped because gradients were not finite."""

    def __init__(
        self,
        recipe: Recipe,
        scaling: Scaling,
        statistics: Statistics,
        recorder: Recorder | NullRecorder,
        stop: Callable[[HalfstepError], NoReturn],
    ) -> None:
        self._recipe = recipe
        self._scaling = scaling
        self._statistics = statistics
        self._recorder = recorder
        self._stop = stop
        self._bad_in_a_row = WeakIdKeyDictionary()

    def stepped(self, finite: bool, counts: bool, by: object) -> None:
        """A step was made or skipped; ``counts``: it is one of the program's steps.

        Raises:
            GradientsOverflow: too many steps in a row ``by`` the same optimizer were skipped, and the scale can fall no
                further.
        """
        scale, guards = self._scaling.last_value, self._recipe.guards
        if guards:
            self._statistics.stepped(finite)
        if guards or not finite:
            self._told(by, self._scaling.stepped(finite, self._index(counts), counts))
        if counts:
            self._recorder.step(not finite, scale)
        if guards and self._bad_in_a_row.get(by, 0) >= HOPELESS and self._scaling.stuck:
            started = self._recipe.loss_scale.value
            sentence = overflow_sentence(self._recipe.compute, self._scaling.value, started)
            self._stop(GradientsOverflow(sentence))

    def stepped_unread(self, verdict: Verdict, counts: bool, by: Optimizer) -> None:
        """As :meth:`stepped`, but it never ends the program: after bad steps in a row verdicts are read at once."""
        told = functools.partial(self._told, by)
        self._scaling.stepped_unread(verdict, self._index(counts), counts, told)
        if counts:
            self._recorder.step(verdict, self._scaling.last_value)

    def _index(self, counts: bool) -> int:
        """The number of the program's step in which an optimizer steps; others step after the one that counts."""
        return self._recorder.steps if counts else max(self._recorder.steps - 1, 0)

    def _told(self, by: object, skip: Skip | None) -> None:
        """It is known whether the last step was made."""
        if skip is None:
            if self._bad_in_a_row:
                self._bad_in_a_row.pop(by, None)
        else:
            self._bad_in_a_row[by] = self._bad_in_a_row.get(by, 0) + 1
            self._recorder.write("skip", **asdict(skip))
