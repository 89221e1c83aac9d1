"""What happens when a step is over: its line in the record, the one look at a step, and the program's end where due."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from halfstep.errors import HalfstepError
from halfstep.keras.backends import base as backend
from halfstep.keras.recording.recorder import Recorder, Seen
from halfstep.keras.recording.sample import NO_ACTIVATIONS, NO_TIMES, Sample
from halfstep.keras.recording.stored import Held, held_by_model, held_by_optimizer, memory_and_stored
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

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover


class Progress:
    """The steps of the program.

    Args:
        takeover: Keras's.
        options: how the recipe is put into force.

    Attributes:
        recorder: writes a line a step.
        sample: the one step that is looked at closely.
    """

    def __init__(self, takeover: Takeover, options: Options) -> None:
        self.recorder = Recorder(options.writer, takeover.device != "cpu", self._read, backend.wait_for)
        self.sample = Sample()
        self._takeover = takeover
        self._options = options
        self._recipe = options.recipe
        self._most = options.run.steps
        self._ending: BaseException | None = None
        self._in_a_row = 0
        self._batch: int | None = None

    def look_into(self, program: Any, shapes: Any, steps: int) -> None:
        """A compiled function of JAX's, with arguments of these shapes, has made ``steps``, the sampled one first."""
        args, kwargs = shapes
        self._batch = _first_dimension((args[-1:], kwargs))
        self.sample.look_into(program, args, kwargs, steps)

    @property
    def sampling(self) -> bool:
        """Whether the step under way is the one that is looked at closely."""
        return self.recorder.steps == SAMPLED_STEP and isinstance(self._options.writer, Writer)

    def sampled_call(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a train function; closely watched where it is the sampled step's turn."""
        if not self.sampling:
            return call(*args, **kwargs)
        return self.sample.watch(call, args, kwargs, _samples)

    def loop_call(self, call: Callable[..., Any], function: Any, args: Any, kwargs: Any) -> Any:
        """Call a tf.function of the script's; watched likewise."""
        if not self.sampling or self._takeover.framework != "tensorflow":
            return call(function, *args, **kwargs)
        self._batch = _first_dimension((args, kwargs))
        return self.sample.watch(call, (function, *args), kwargs, lambda result: self._batch)

    def stepped(self, seen: Seen, model: Any) -> None:
        """A model's train function has made a step."""
        sampled = self.sampling
        if sampled:
            self._write_sample(lambda: held_by_model(model), seen.samples)
        self.recorder.step(seen, sampled)
        self._after_steps(sampled)

    def loop_stepped(self, steps: list[Seen]) -> None:
        """A loop of the script's own has made steps, more than one where the loop is inside a graph."""
        if self.recorder.steps == 0:
            self._takeover.announce()
        for index, seen in enumerate(steps):
            sampled = self.sampling
            if sampled:
                self.sample.close_eager()
                self._write_sample(lambda: held_by_optimizer(self._takeover.loops.optimizer), self._batch)
            self.recorder.step(seen, sampled, share=0 if index else len(steps))
            self._after_steps(sampled)
        if self.sampling:
            self.sample.open_eager()
        self.end_if_due()

    def _write_sample(self, held: Callable[[], Held], samples: Any) -> None:
        """Write what was seen of the sampled step; what could not be looked at is absent with the reason."""
        sample = self.sample
        found = {"matmul_flops": sample.flops} if sample.flops is not None else {"absent": sample.absent}
        memory, stored = memory_and_stored(held)
        self.recorder.write(
            "sample",
            step=self.recorder.steps,
            **found,
            memory=memory,
            memory_absent={"activations": NO_ACTIVATIONS, **stored.get("absent", {})},
            time_shares_absent=NO_TIMES,
            samples=whole(samples),
        )
        self.recorder.write("stored", **stored)

    def _after_steps(self, sampled: bool) -> None:
        if sampled:
            self._options.warm()
        elif self.recorder.steps > SAMPLED_STEP:
            self._options.tick()
        if self.recorder.steps == 1:
            try:
                self._takeover.keep.check()
            except HalfstepError as error:
                self._ending = error
        if self._ending is None and self._most is not None and self.recorder.steps >= self._most:
            self._ending = EnoughSteps()
        self.recorder.resume()

    def _read(self, finite: bool, scale: float) -> None:
        """A step's numbers have arrived: at the smallest scale, gradients that stay infinite end the program."""
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

    def close(self) -> None:
        """The program is over: nothing ends it any more; write what still waits."""
        self._ending, self._most = None, None
        if keras.backend.backend() == "jax":
            self._takeover.loops.read()
        self.recorder.close()


def _samples(result: Any) -> Any:
    logs = result[0] if isinstance(result, tuple) else result
    return logs.get("halfstep", {}).get("samples") if isinstance(logs, dict) else None


def _first_dimension(arguments: Any) -> int | None:
    """The batch's size, of the first array among ``arguments``; None where nothing tells it."""
    leaves = keras.tree.flatten(arguments)
    return next((whole(x.shape[0]) for x in leaves if len(getattr(x, "shape", ()) or ()) > 0), None)


def whole(value: Any) -> int | None:
    """A whole number of any backend; None for what is none."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None
