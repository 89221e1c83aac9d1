"""What happens when a step is over: its line in the record, the close look at one step, the end of the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from halfstep.errors import HalfstepError
from halfstep.keras.recording.recorder import Recorder
from halfstep.keras.recording.sample import NO_ACTIVATIONS, NO_TIMES, Sample
from halfstep.keras.recording.stored import Held, held_by_model, held_by_optimizer, memory_and_stored
from halfstep.keras.step import Seen
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.record import Writer
from halfstep.takeover.base import (
    HOPELESS,
    SAMPLED_STEP,
    EnoughSteps,
    GradientsOverflow,
    Options,
    overflow_sentence,
)
from halfstep.takeover.looks import METERS, Looks, look


class Progress:
    """The steps of the program.

    Args:
        sample: looks closely at one step.
        on_accelerator: whether the numbers of a step are read some steps later.
        wait: returns when a value has been computed.
        check_kept: called after the first step; its error ends the program.
        announce: called before the first step of a loop of the script's own is recorded.

    Attributes:
        check_kept: the same.
        sample: the one step that is looked at closely.
        skipped: how many steps were skipped.
    """

    def __init__(
        self,
        options: Options,
        sample: Sample,
        on_accelerator: bool,
        wait: Callable[[Any], None],
        check_kept: Callable[[], None],
        announce: Callable[[], None],
    ) -> None:
        self.sample = sample
        self._looks = Looks(options.writer.write)
        self._recorder = Recorder(options.writer, on_accelerator, self._read, wait, self._looks)
        self._options = options
        self.check_kept = check_kept
        self._announce = announce
        self._recipe = options.recipe
        self._most = options.run.steps
        self._ending: BaseException | None = None
        self._in_a_row = 0
        self._batch: Any = None

    @property
    def steps(self) -> int:
        """Steps so far, skipped ones included."""
        return self._recorder.steps

    @property
    def skipped(self) -> int:
        return self._recorder.skipped

    @property
    def sampling(self) -> bool:
        """Whether the step under way is the one that is looked at closely."""
        return self.steps == SAMPLED_STEP and isinstance(self._options.writer, Writer)

    def sampled_call(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a compiled function of the script's while it makes the sampled step."""
        self._batch = batch_size((args, kwargs))
        return self.sample.watch(call, args, kwargs, lambda result: self._batch)

    def look_into(self, program: Any, shapes: Any, steps: int) -> None:
        """A compiled function of JAX's, with arguments of these shapes, has made ``steps``, the sampled one first."""
        args, kwargs = shapes
        self._batch = batch_size((args[-1:], kwargs))
        self.sample.look_into(program, args, kwargs, steps)

    def logged(self, name: str, value: float) -> None:
        """Write a figure that Keras logs."""
        self._options.writer.write("logged", name=name, value=value, step=self.steps)

    def stepped(self, seen: Seen, model: Any) -> None:
        """A model's train function has made a step."""
        self._step(seen, lambda: held_by_model(model), seen.samples)

    def loop_stepped(self, steps: list[Seen], optimizer: Any) -> None:
        """A loop of the script's own has made steps with ``optimizer``; several where the loop is inside a graph."""
        if self.steps == 0:
            self._announce()
        for index, seen in enumerate(steps):
            if self.sampling:
                self.sample.close_eager()
            self._step(seen, lambda: held_by_optimizer(optimizer), self._batch, 0 if index else len(steps))
        if self.sampling:
            self.sample.open_eager()
        self.end_if_due()

    def _step(self, seen: Seen, held: Callable[[], Held], samples: Any, share: int = 1) -> None:
        sampled = self.sampling
        if sampled:
            self._write_sample(held, samples)
        self._recorder.step(seen, sampled, share)
        if sampled:
            self._meter(self._options.warm)
        elif self.steps > SAMPLED_STEP:
            self._meter(self._options.tick)
        if self.steps == 1:
            try:
                self.check_kept()
            except HalfstepError as error:
                self._ending = error
        if self._ending is None and self._most is not None and self.steps >= self._most:
            self._ending = EnoughSteps()
        self._recorder.resume()

    @look(METERS)
    def _meter(self, read: Callable[[], None]) -> None:
        read()

    def _write_sample(self, held: Callable[[], Held], samples: Any) -> None:
        """Write what was seen of the sampled step; what could not be seen is absent with the reason."""
        sample = self.sample
        found = {"matmul_flops": sample.flops} if sample.flops is not None else {"absent": sample.absent}
        memory, stored = memory_and_stored(held)
        self._options.writer.write(
            "sample",
            step=self.steps,
            **found,
            memory=memory,
            memory_absent={"activations": NO_ACTIVATIONS, **stored.get("absent", {})},
            time_shares_absent=NO_TIMES,
            samples=_whole(samples),
        )
        self._options.writer.write("stored", **stored)

    def _read(self, finite: bool, scale: float) -> None:
        """A step's numbers have arrived: too many bad steps in a row at the smallest scale end the program."""
        recipe = self._recipe.loss_scale
        smallest = not isinstance(recipe, DynamicScale) or scale <= recipe.floor
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= HOPELESS and smallest and self._recipe.guards and self._ending is None:
            sentence = overflow_sentence(self._recipe.compute, scale, recipe.value)
            self._ending = GradientsOverflow(sentence)

    def end_if_due(self) -> None:
        """End the program where ``--steps`` or an error says so, at a point where Keras's own state is in order."""
        ending = self._ending
        if isinstance(ending, HalfstepError):
            self._options.halt(ending)
        if ending is not None:
            raise ending

    def close(self, hand_over: Callable[[], None]) -> None:
        """The program is over: write the steps that ``hand_over`` brings and the lines that still wait."""
        self._ending, self._most = None, None
        hand_over()
        self._recorder.close()


def batch_size(data: Any) -> Any:
    """The first dimension of the first array in ``data``; a tensor where TensorFlow does not know it while tracing."""
    try:
        leaves = keras.tree.flatten(data)
        leaf = next((x for x in leaves if len(getattr(x, "shape", ()) or ()) > 0), None)
        return None if leaf is None else keras.ops.shape(leaf)[0]
    except Exception:  # data of a kind that has no such size
        return None


def _whole(value: Any) -> int | None:
    """A scalar of any backend as a whole number; None for what is none."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None
