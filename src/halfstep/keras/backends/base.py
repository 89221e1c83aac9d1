"""The few things that differ between Keras's backends: device, version, TF32, and copies of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}


def name() -> str:
    """The running backend: ``tensorflow``, ``torch`` or ``jax`` (others are not taken over)."""
    return str(keras.backend.backend())


def version() -> str:
    """The running backend's own version."""
    module: Any = __import__(name())
    return str(module.__version__)


def device() -> str:
    """``cpu``, or the kind of accelerator that the backend uses. Asking initialises nothing in TensorFlow."""
    if name() == "tensorflow":
        import tensorflow as tf

        return "cuda" if tf.config.list_physical_devices("GPU") else "cpu"
    if name() == "jax":
        import jax

        platform = str(jax.default_backend())
        return "cuda" if platform == "gpu" else platform
    import torch

    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"  # type: ignore[union-attr]


def set_tf32(on: bool) -> None:
    """Let fp32 products use TF32 units, or forbid it (both TensorFlow and JAX allow it where nothing is said)."""
    if name() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(on)
    elif name() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if on else "float32")


def copied(value: Any) -> Any:
    """``value`` as it is now, whatever is assigned to its variable later; part of the graph where one is traced."""
    if name() == "tensorflow":
        import tensorflow as tf

        return tf.identity(value)
    return value.detach().clone() if name() == "torch" else value


def trace() -> Any:
    """What JAX traces at the moment: values of one trace must not leave it. None on the other backends."""
    if name() != "jax":
        return None
    from jax._src.core import trace_ctx

    return trace_ctx.trace


def wait_for(value: Any) -> None:
    """Return when ``value`` has been computed: JAX hands out arrays before, so that a clock would time the dispatch."""
    if name() == "jax":
        import jax

        jax.block_until_ready(value)


def replicas() -> int:
    """How many replicas of a model TensorFlow's strategy trains; 1 without one, and on the other backends."""
    if name() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def undivided(loss: Any) -> Any:
    """The loss of a replica, which Keras divides by their number so that gradients may be added up."""
    return loss if replicas() == 1 else loss * replicas()


def reducible(finite: Any) -> Any:
    """Whether gradients are finite, as a number of which a mean over replicas can be taken; None stays."""
    return finite if finite is None or replicas() == 1 else keras.ops.cast(finite, "float32")


def outside_of_graphs(make: Callable[[], Any]) -> None:
    """Call ``make``, which makes variables, outside of whichever graph is being traced."""
    if name() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            make()
    else:
        make()


def constant(value: float) -> Any:
    """A float32 scalar of the backend."""
    return keras.ops.convert_to_tensor(value, dtype="float32")
