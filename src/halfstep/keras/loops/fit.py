"""Model.fit and train_on_batch: what is seen of a step is one of the outputs of the compiled step.

The numbers of a line (loss, scale, whether finite, batch size) are added to the logs that ``train_step`` returns, and
removed before Keras sees these logs. So no graph calls back into Python, and no number of the program changes.
"""

from __future__ import annotations

import functools
from typing import Any

from keras.src.callbacks.callback_list import CallbackList
from keras.src.models import model as models
from keras.src.utils.python_utils import pythonify_logs

from halfstep.errors import Unsupported
from halfstep.keras.loops.base import Loop, Parts
from halfstep.keras.recording.progress import batch_size
from halfstep.keras.step import Seen
from halfstep.takeover.patches import Method, Patches

#: the name in the logs of what was seen of a step
SEEN = "halfstep"

SCALED_REPLICAS = (
    "A loss scale over {} replicas of a tf.distribute strategy is not possible; use a precision without a loss scale, "
    "such as bf16."
)
EXECUTIONS = (
    "steps_per_execution is {}: Keras hands over one result for {} optimizer steps, so a step "
    "of this record is an execution, and its loss is that of the execution's last step"
)


def _replicas(model: Any) -> int:
    strategy = getattr(model, "distribute_strategy", None)
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


class FitLoop(Loop):
    """The train functions of all models."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._patches = Patches()
        self._wrapped: set[type] = set()

    def install(self, patches: Patches) -> None:
        self._patches = patches
        patches.wrap(models.Trainer, "make_train_function", self._make_train_function)
        patches.wrap(models.Trainer, "train_on_batch", self._then_end)
        patches.wrap(CallbackList, "on_train_batch_end", self._then_end)
        patches.wrap(CallbackList, "on_epoch_end", self._on_epoch_end)

    def _then_end(self, original: Method) -> Method:
        """Keras's own state is in order after ``original``, so that the program can be ended there."""

        def then_end(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._progress.end_if_due()
            return result

        return then_end

    def _on_epoch_end(self, original: Method) -> Method:
        def on_epoch_end(callbacks: Any, epoch: int, logs: Any = None) -> None:
            logs = pythonify_logs(logs)
            for name, value in (logs or {}).items():
                if isinstance(value, int | float):
                    self._progress.logged(name, float(value))
            original(callbacks, epoch, logs)

        return on_epoch_end

    def _make_train_function(self, original: Method) -> Method:
        def make_train_function(model: Any, force: bool = False) -> Any:
            if self._guards and _replicas(model) > 1:
                self._notices.refuse(Unsupported(SCALED_REPLICAS.format(_replicas(model))))
            self._observe(type(model))
            self._scaler.prepare()
            original(model, force)
            if not isinstance(model.train_function, functools.partial):
                steps = int(getattr(model, "steps_per_execution", 1))
                if steps > 1:
                    self._notices.warn(EXECUTIONS.format(steps, steps), of_record=True)
                model.train_function = functools.partial(self._called, model.train_function, model)
            return model.train_function

        return make_train_function

    def _observe(self, model: type) -> None:
        """Wrap ``train_step`` where ``model``'s class or one of its bases defines it."""
        owner = next(cls for cls in model.__mro__ if "train_step" in vars(cls))
        if owner not in self._wrapped:
            self._wrapped.add(owner)
            self._patches.wrap(owner, "train_step", self._train_step)

    def _train_step(self, original: Method) -> Method:
        def train_step(model: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not self._step.training or self._step.within.seen is not None:
                return original(model, *args, **kwargs)
            state = args[0] if self._runtime.functional else None
            scale = self._scaler.scale_of(model.optimizer, None if state is None else state[2])
            with self._step.train_step(model.optimizer, scale, batch_size(args[-1])) as seen:
                self._progress.sample.trace_begins()
                if state is None:
                    self._statistics.keep()
                result = original(model, *args, **kwargs)
                seen.finite = self._step.all_finite
                logs, after = (result, None) if state is None else result
                if isinstance(logs, dict):
                    logs = {**logs, SEEN: {k: v for k, v in vars(seen).items() if v is not None}}
                if state is None or after is None:
                    return logs
                if seen.finite is not None:
                    kept = self._statistics.selected(model, seen.finite, after[1], state[1])
                    after = (after[0], kept, *after[2:])
                return logs, after

        return train_step

    def _called(self, original: Method, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the train function of ``model``, and take what was seen of the step out of its result."""
        if self._step.training:
            return original(*args, **kwargs)
        with self._step.train_function():
            if self._progress.sampling:
                result = self._progress.sample.watch(original, args, kwargs, _samples)
            else:
                result = original(*args, **kwargs)
        logs, rest = result if isinstance(result, tuple) else (result, None)
        seen = Seen()
        if isinstance(logs, dict):
            seen = Seen(**logs.get(SEEN, {}))
            logs = {name: value for name, value in logs.items() if name != SEEN}
            if seen.loss is None:
                seen.loss = logs.get("loss")
            if seen.samples is not None:
                seen.samples = seen.samples * _replicas(model)
        self._progress.stepped(seen, model)
        self._runtime.stepped()
        return logs if rest is None else (logs, rest)


def _samples(result: Any) -> Any:
    """The size of the batch, from the result of a train function."""
    logs = result[0] if isinstance(result, tuple) else result
    return logs.get(SEEN, {}).get("samples") if isinstance(logs, dict) else None
