"""Model.fit and train_on_batch: what is seen of a step travels out of the compiled step as one of its outputs.

The numbers of a line (loss, scale, whether finite, batch size) are added to the logs that ``train_step`` returns and
taken out of them again before Keras sees them: no callback into Python from inside a graph, no other numerics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from keras.src.callbacks.callback_list import CallbackList
from keras.src.models import model as models
from keras.src.utils.python_utils import pythonify_logs

from halfstep.errors import Unsupported
from halfstep.keras.backends import base as backend
from halfstep.keras.recording.recorder import Seen
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

_KEY = "halfstep"

SCALED_REPLICAS = (
    "A loss scale over {} replicas of a tf.distribute strategy is not possible; use a precision without a loss scale, "
    "such as bf16."
)


def _replicas(model: Any) -> int:
    strategy = getattr(model, "distribute_strategy", None)
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


class UnderWay(threading.local):
    """The train_step under way: of each replica, which TensorFlow's strategies run in threads, its own.

    Attributes:
        seen: what has been seen of it; None outside.
        optimizer: that with which the model was compiled; None outside.
        trace: what JAX traces in it.
    """

    seen: Seen | None = None
    optimizer: Any = None
    trace: Any = None


class Trainers:
    """The train functions of all models.

    Attributes:
        active: whether one of them is running, or being traced.
        step: the train_step under way.
    """

    def __init__(self, takeover: Takeover) -> None:
        self.active = False
        self.step = UnderWay()
        self._takeover = takeover
        self._patches = Patches()
        self._wrapped: set[type] = set()

    def install(self, patches: Patches) -> None:
        """Look on at every model's training."""
        self._patches = patches
        patches.wrap(models.Trainer, "make_train_function", self._make_train_function)
        patches.wrap(models.Trainer, "train_on_batch", self._then_end)
        patches.wrap(CallbackList, "on_train_batch_end", self._then_end)
        patches.wrap(CallbackList, "on_epoch_end", self._on_epoch_end)
        patches.wrap(keras.metrics.Mean, "update_state", self._update_state)

    def _then_end(self, original: Method) -> Method:
        """Where Keras's own state is in order, so that the program can be ended."""

        def then_end(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._takeover.progress.end_if_due()
            return result

        return then_end

    def _on_epoch_end(self, original: Method) -> Method:
        def on_epoch_end(callbacks: Any, epoch: int, logs: Any = None) -> None:
            logs = pythonify_logs(logs)
            for name, value in (logs or {}).items():
                if isinstance(value, int | float):
                    step = self._takeover.steps
                    self._takeover.write("logged", name=name, value=float(value), step=step)
            original(callbacks, epoch, logs)

        return on_epoch_end

    def _update_state(self, original: Method) -> Method:
        def update_state(metric: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            # On JAX the loss that scale_loss is given belongs to the gradient's own trace; this one does not.
            seen = self.step.seen
            if seen is not None and metric.name == "loss" and backend.name() == "jax":
                seen.loss = values
            return original(metric, values, *args, **kwargs)

        return update_state

    def _make_train_function(self, original: Method) -> Method:
        def make_train_function(model: Any, force: bool = False) -> Any:
            if self._takeover.recipe.guards and _replicas(model) > 1:
                self._takeover.refuse(Unsupported(SCALED_REPLICAS.format(_replicas(model))))
            self._look_on(type(model))
            self._takeover.further.prepare()
            original(model, force)
            if not isinstance(model.train_function, _TrainFunction):
                self._said(model)
                model.train_function = _TrainFunction(model.train_function, self._takeover, self, model)
            return model.train_function

        return make_train_function

    def _said(self, model: Any) -> None:
        each = int(getattr(model, "steps_per_execution", 1))
        if each > 1:
            self._takeover.warn(
                f"steps_per_execution is {each}: Keras hands over one result for {each} optimizer steps, so a step "
                "of this record is an execution, and its loss is that of the execution's last step",
                of_record=True,
            )

    def _look_on(self, model: type) -> None:
        """Wrap ``train_step`` where ``model``'s class or one of its bases defines it."""
        owner = next(cls for cls in model.__mro__ if "train_step" in vars(cls))
        if owner not in self._wrapped:
            self._wrapped.add(owner)
            self._patches.wrap(owner, "train_step", self._train_step)

    def _train_step(self, original: Method) -> Method:
        def train_step(model: Any, *args: Any, **kwargs: Any) -> Any:
            step = self.step
            if not self.active or step.seen is not None:
                return original(model, *args, **kwargs)
            step.seen, step.optimizer, step.trace = (seen := Seen()), model.optimizer, backend.trace()
            try:
                return self._observed(model, seen, original, args, kwargs)
            finally:
                self._takeover.beneath.step_scale(None)
                step.seen = step.optimizer = step.trace = None

        return train_step

    def _observed(self, model: Any, seen: Seen, original: Method, args: Any, kwargs: Any) -> Any:
        takeover, on_jax = self._takeover, backend.name() == "jax"
        scaler, state = takeover.scaler, args[0] if on_jax else None
        scaler.pending, scaler.finite, scaler.further = False, None, None
        scale = scaler.scale_of(model.optimizer, None if state is None else state[2])
        seen.scale = None if scale is None else backend.copied(scale)
        seen.samples = _first_dimension(args[-1])
        takeover.beneath.step_scale(scale)
        takeover.progress.sample.trace_begins()
        if not on_jax:
            takeover.statistics.keep()
        result = original(model, *args, **kwargs)
        seen.finite = backend.reducible(scaler.all_finite)
        logs, after = result if on_jax else (result, None)
        if isinstance(logs, dict):
            numbers = {name: value for name, value in vars(seen).items() if value is not None}
            logs = {**logs, _KEY: numbers}
        if after is None or state is None:
            return logs
        if seen.finite is not None:
            kept = takeover.statistics.selected(model, seen.finite, after[1], state[1])
            after = (after[0], kept, *after[2:])
        return logs, after


class _TrainFunction:
    """A model's train function; counts as the function that it wraps."""

    def __init__(self, original: Method, takeover: Takeover, trainers: Trainers, model: Any) -> None:
        self._original = original
        self._takeover = takeover
        self._trainers = trainers
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trainers = self._trainers
        if trainers.active:
            return self._original(*args, **kwargs)
        trainers.active = True
        try:
            result = self._takeover.progress.sampled_call(self._original, args, kwargs)
        finally:
            trainers.active = False
        logs, rest = result if isinstance(result, tuple) else (result, None)
        seen = Seen()
        if isinstance(logs, dict):
            seen = Seen(**logs.get(_KEY, {}))
            logs = {name: value for name, value in logs.items() if name != _KEY}
            if seen.loss is None:
                seen.loss = logs.get("loss")
            if seen.samples is not None:
                seen.samples = seen.samples * _replicas(self._model)
        self._takeover.progress.stepped(seen, self._model)
        self._takeover.beneath.stepped()
        return logs if rest is None else (logs, rest)


def _first_dimension(data: Any) -> Any:
    """The batch's size, of the first array in ``data``; a tensor where TensorFlow does not know it while tracing."""
    try:
        leaves = keras.tree.flatten(data)
        leaf = next((x for x in leaves if x is not None and hasattr(x, "shape")), None)
        return None if leaf is None or len(leaf.shape) == 0 else keras.ops.shape(leaf)[0]
    except Exception:  # it only looks: data of a kind that has no such size
        return None
