"""The two early steps that are looked at: one by its operations and memory, the next by its time. Both are marked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.products.products import Listening
from halfstep.pytorch.recording.profile import Profile
from halfstep.pytorch.recording.sample import Sample, parameters_of
from halfstep.pytorch.recording.stored import StoredMeter
from halfstep.takeover import SAMPLED_STEP, Options

if TYPE_CHECKING:
    from halfstep.pytorch.loss_scaling.by_hand import ByHand

#: the step, counted from 0, whose time is divided among the kinds of work: the sampled step is too slow for that
PROFILED_STEP = SAMPLED_STEP + 1


class Looking:
    """Begins and ends the looks, at the ends of steps.

    Args:
        optimizers: those that have stepped so far.
        by_hand: knows the parameters where there is no optimizer.
        options: the takeover's; it is told when training runs as it will from now on, and of every step after that.
    """

    def __init__(self, optimizers: Iterable[Optimizer], by_hand: ByHand, options: Options) -> None:
        self._optimizers = optimizers
        self._by_hand = by_hand
        self._options = options
        enough = options.steps is None or options.steps > PROFILED_STEP
        self._last = PROFILED_STEP if enough else SAMPLED_STEP
        self._sample: Sample | None = None
        self._stored = StoredMeter()
        self._listening = Listening()
        self._profile: Profile | None = None

    def backward_done(self) -> None:
        """A backward pass of the script's is over."""
        if self._sample is not None:
            self._sample.backward_done()

    def _parameters(self) -> list[Tensor]:
        return parameters_of(self._optimizers) or self._by_hand.parameters

    def __call__(self, index: int) -> bool:
        """Step ``index`` has ended; tells whether it was looked at."""
        if index > PROFILED_STEP:
            self._options.tick()
            return False
        looked = self._end()
        if index == SAMPLED_STEP - 1:
            self._stored.begin()
            self._listening.begin()
            self._sample = Sample()
            self._sample.begin(self._parameters())
        elif index == SAMPLED_STEP and self._last == PROFILED_STEP:
            self._profile = Profile()
            self._profile.begin()
        if index == self._last:
            self._options.warm()
        return looked

    def _end(self) -> bool:
        """End what was begun a step ago, and write what was seen."""
        fields: dict[str, Any] | None = None
        if self._sample is not None:
            fields, self._sample = self._sample.end(self._parameters(), self._optimizers), None
            fields["fp32_units"] = self._listening.end()
            self._options.writer.write("stored", **self._stored.end(self._parameters(), self._optimizers))
        elif self._profile is not None:
            fields, self._profile = self._profile.end(), None
        if fields is not None:
            self._options.writer.write("sample", **fields)
        return fields is not None

    def close(self) -> None:
        """The program is over: a profiler that still runs would end the process badly."""
        if self._profile is not None:
            self._profile.end()
        if self._sample is not None:
            self._sample.end([], [])
            self._stored.end([], [])
            self._listening.end()
        self._profile = self._sample = None
