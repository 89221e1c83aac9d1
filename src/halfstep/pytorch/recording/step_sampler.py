"""Samples two early steps: the products and the memory of one, the time of the next. Both are marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.products import Listening
from halfstep.pytorch.recording.module_calls import ModuleCalls
from halfstep.pytorch.recording.profile import Profile
from halfstep.pytorch.recording.sample import MEMORY, Sample, parameters_of
from halfstep.pytorch.recording.stored import StoredMeter
from halfstep.pytorch.unseen import unseen_look
from halfstep.record.stored import PARTS
from halfstep.takeover.base import PROFILED_STEP, SAMPLED_STEP, Options
from halfstep.takeover.looks import METERS, Looks, look

if TYPE_CHECKING:
    from halfstep.pytorch.loss_scaling.manual_updates import ManualUpdates


_STORED, _UNITS = "what is stored", "products in fp32 units"


class StepSampler:
    """Begins and ends the samples, at the ends of steps.

    Args:
        manual_updates: knows the parameters if there is no optimizer.
        options: the takeover's; it is called when training runs as it will from now on, and at every step after that.
    """

    def __init__(
        self, optimizers: Iterable[Optimizer], manual_updates: ManualUpdates, options: Options, looks: Looks
    ) -> None:
        self._optimizers = optimizers
        self._manual_updates = manual_updates
        self._options = options
        self._looks = looks
        enough = options.run.steps is None or options.run.steps > PROFILED_STEP
        self._last = PROFILED_STEP if enough else SAMPLED_STEP
        self._sample: Sample | None = None
        self._ended: Sample | None = None
        self._calls = ModuleCalls()
        self._stored = StoredMeter()
        self._listening = Listening()
        self._profile: Profile | None = None

    def install(self, patches: Patches) -> None:
        """Wrap the calls of modules; to be called before anything is compiled."""
        self._calls.install(patches)
        self._stored.install(patches)

    def begin_pass(self, outputs: Sequence[Tensor]) -> None:
        """A backward pass of the script's is about to start."""
        if self._sample is not None:
            self._sample.begin_pass(outputs)

    def backward_done(self) -> None:
        """A backward pass of the script's is over."""
        if self._sample is not None:
            self._sample.backward_done()
        self._leave()

    def _leave(self) -> None:
        if self._ended is not None and self._ended.leave():
            self._ended = None

    @unseen_look(MEMORY)
    def _found(self) -> list[Tensor]:
        return parameters_of(self._optimizers) or self._manual_updates.parameters

    @property
    def _parameters(self) -> list[Tensor]:
        return self._found() or []

    def __call__(self, index: int) -> bool:
        """Step ``index`` has ended; returns whether it was sampled."""
        if index > PROFILED_STEP:
            return False
        looked = self._sample is not None or self._profile is not None
        if index == SAMPLED_STEP - 1:
            self.close()  # a sample may have begun, if the count of steps begins again
            self._begin()
        elif index == SAMPLED_STEP:
            self._end_sample()
            if self._profile is not None and self._last == PROFILED_STEP:
                self._profile.next_step()
        if index == self._last:
            self._end_profile()
            self._warm()
        return looked

    @look(METERS)
    def done(self, index: int) -> None:
        """The work of step ``index`` is done."""
        if index > PROFILED_STEP:
            self._options.tick()

    @look(METERS)
    def _warm(self) -> None:
        self._options.warm()

    def _begin(self) -> None:
        self._sample = Sample(self._looks)
        self._calls.tell(self._sample.called, self._called)
        self._sample.begin(self._parameters)
        self._looks.run(_UNITS, 1, self._listening.begin)
        self._profile = Profile(self._looks, self._options.recipe.name)
        self._profile.begin()

    @unseen_look(_STORED)
    def _called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._stored.called(module, args)

    def _end_sample(self) -> None:
        """Write the memory of the sampled step."""
        self._calls.tell()
        self._ended, self._sample = self._sample, None
        if self._ended is not None:
            parameters, optimizers = self._parameters, self._optimizers
            fields = self._ended.end(parameters, optimizers)
            self._leave()
            units = self._looks.run(_UNITS, 1, self._listening.end)
            fields |= {} if units is None else {"fp32_units": units}
            stored = self._looks.run(_STORED, 1, self._stored.end, parameters, optimizers)
            stored = stored or {"absent": dict.fromkeys(PARTS, self._looks.absent(_STORED))}
            self._options.writer.write("stored", **stored)
            self._options.writer.write("sample", **fields)

    def _end_profile(self) -> None:
        """Write the results of the profiler."""
        profile, self._profile = self._profile, None
        if profile is not None:
            self._options.writer.write("sample", **profile.end())

    def close(self) -> None:
        """The steps are over: stop a profiler that still runs, which would crash the process at its end."""
        profile, self._profile = self._profile, None
        if profile is not None and (fields := profile.abandon()):
            self._options.writer.write("sample", **fields)
        self._calls.tell()
        sample, self._sample = self._sample, None
        if sample is not None:
            sample.end([], [])
            self._looks.run(_UNITS, 1, self._listening.end)
            sample.leave()
