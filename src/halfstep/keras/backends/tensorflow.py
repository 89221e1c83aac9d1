"""TensorFlow under Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from halfstep.keras.backends.base import Backend
from halfstep.keras.recording.sample import Sample
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.loops.base import OwnLoop, Parts


class TensorFlow(Backend):
    """Graphs, and replicas of a model that a strategy trains."""

    name = "tensorflow"
    title = "TensorFlow"
    version = str(tf.__version__)

    def device(self) -> str:
        """Asking initialises nothing in TensorFlow."""
        return "cuda" if tf.config.list_physical_devices("GPU") else "cpu"

    def accelerators(self) -> list[tuple[str, tuple[int, ...] | None]]:
        gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        return [(str(gpu.get("device_name", "GPU")), gpu.get("compute_capability")) for gpu in gpus]

    def set_tf32(self, on: bool) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(on)

    def mix_operands(self, narrow: str, patches: Patches) -> None:
        from halfstep.keras.policies.control_flow_tf import ControlFlow
        from halfstep.keras.policies.operands_tf import Operands

        Operands(narrow).install(patches)
        ControlFlow(narrow).install(patches)

    def sample(self) -> Sample:
        from halfstep.keras.recording.products_tf import GraphSample

        return GraphSample()

    def own_loop(self, parts: Parts) -> OwnLoop:
        from halfstep.keras.loops.tape import TapeLoop

        return TapeLoop(parts)

    def all_finite(self, grads: Sequence[Any]) -> Any:
        values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads if g is not None]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])

    def copied(self, value: Any) -> Any:
        return tf.identity(value)

    def undivided(self, loss: Any) -> Any:
        return loss if _replicas() == 1 else loss * _replicas()

    def reducible(self, finite: Any) -> Any:
        return finite if finite is None or _replicas() == 1 else tf.cast(finite, tf.float32)

    def outside_of_graphs(self, make: Callable[[], Any]) -> None:
        with tf.init_scope():
            make()

    def reachable(self, copy: Any) -> bool:
        graph = getattr(copy, "graph", None)
        inner: Any = tf.compat.v1.get_default_graph()
        while graph is not None and inner is not None and inner is not graph:
            inner = getattr(inner, "outer_graph", None)
        return inner is graph or graph is None


def _replicas() -> int:
    """How many replicas of a model the strategy under way trains; 1 without one."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)
