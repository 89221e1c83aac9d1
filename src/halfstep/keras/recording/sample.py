"""One step looked at closely: which dtypes its matrix products ran in, and where its memory went.

In TensorFlow the graph of the step is read, in JAX its program, which costs the step nothing; eager steps (PyTorch's,
and TensorFlow's without tf.function) are counted operation by operation, so that one is slower for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from halfstep.keras.backends import base as backend

#: why a record of Keras has no bytes of activations
NO_ACTIVATIONS = "Keras's backends do not tell which tensors they keep for the backward pass"
#: why it has no shares of a step's time
NO_TIMES = "halfstep profiles a step of PyTorch's, not one of Keras's"

NO_PROGRAM = "the step was not compiled as a whole, so there is no program to read"


class Sample:
    """Looks at the products of a step; :attr:`flops` or :attr:`absent` afterwards."""

    def __init__(self) -> None:
        self.flops: dict[str, int] | None = None
        self.absent: str | None = None
        self._graph: weakref.ref[Any] | None = None
        self._jitted: Any = None
        self._counter: Any = None

    def open_eager(self) -> None:
        """The sampled step begins, in a loop without a graph: its operations are counted as they come."""
        if backend.name() == "jax":
            self.absent = NO_PROGRAM
        elif self._graph is None:
            self._looks(self._count)

    def _count(self) -> None:
        counter = _eager_counter()
        counter.__enter__()
        self._counter = counter

    def close_eager(self) -> None:
        """It is over."""
        counter, self._counter = self._counter, None
        if counter is not None:
            self._looks(lambda: self._counted(counter))

    def _counted(self, counter: Any) -> None:
        counter.__exit__(None, None, None)
        self.flops = dict(counter.flops)

    def _looks(self, look: Callable[[], Any]) -> None:
        """Look; where that fails, the products are absent with the reason, and the program goes on."""
        try:
            look()
        except Exception as error:
            self.flops = None
            self.absent = f"the products could not be counted: {str(error).partition(chr(10))[0]}"

    def trace_begins(self) -> None:
        """A step is being traced, or run eagerly, from here on."""
        if backend.name() == "tensorflow":
            import tensorflow as tf

            graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
            self._graph = None if graph is None else weakref.ref(graph)

    def compiled(self, jitted: Any) -> Any:
        """On JAX: Keras has compiled a function; the last one before a step is the step's."""
        self._jitted = jitted
        return jitted

    def watch(self, call: Callable[..., Any], args: Any, kwargs: Any, on_batch: Callable[[Any], Any]) -> Any:
        """Run ``call`` as the sampled step; ``on_batch`` gives the batch's size from its result.

        Returns:
            what ``call`` returned.
        """
        kind = backend.name()
        if kind == "jax":
            return self._watch_jax(call, args, kwargs)
        if kind == "torch" or self._graph is None:
            self._looks(self._count)
            try:
                result = call(*args, **kwargs)
            finally:
                self.close_eager()
        else:
            result = call(*args, **kwargs)
            self._looks(lambda: self._read_graph(on_batch(result)))
        return result

    def _read_graph(self, batch: Any) -> None:
        from halfstep.keras.recording.products_tf import Unknown, flops_of_graph

        graph = None if self._graph is None else self._graph()
        if graph is None:
            self.absent = "the graph of the step was gone before it could be read"
            return
        try:
            self.flops = flops_of_graph(graph, None if batch is None else int(batch))
        except Unknown as unknown:
            self.absent = str(unknown)

    def _watch_jax(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        shapes: list[Any] = []
        jitted = self._jitted
        if jitted is None:
            self.absent = NO_PROGRAM
            return call(*args, **kwargs)
        jitted.before = lambda *step: self._looks(lambda: shapes.append(shapes_of(step)))
        try:
            result = call(*args, **kwargs)
        finally:
            jitted.before = None
        if shapes:
            self.look_into(jitted.original, shapes[0], {})
        return result

    def look_into(self, program: Any, args: Any, kwargs: Any, steps: int = 1) -> None:
        """Count a step's products in a compiled function of JAX's that has made ``steps`` with arguments like these."""
        self._looks(lambda: self._read_program(program, args, kwargs, steps))

    def _read_program(self, program: Any, args: Any, kwargs: Any, steps: int) -> None:
        from halfstep.keras.recording.products_jax import Unknown, flops_of_jaxpr

        try:
            # Traced before with these shapes: the program comes from JAX's own cache, the script's code does not run.
            flops = flops_of_jaxpr(program.trace(*args, **kwargs).jaxpr.jaxpr)
            self.flops = {name: count // max(1, steps) for name, count in flops.items()}
        except Unknown as unknown:
            self.absent = str(unknown)


def _eager_counter() -> Any:
    """A context that counts the products of eager operations, in its ``flops``."""
    if backend.name() == "torch":
        from halfstep.pytorch.recording.products import ProductCounter

        return ProductCounter()
    from halfstep.keras.recording.products_tf import EagerCounter

    return EagerCounter()


class Jitted:
    """A compiled function of JAX's that can be looked at before a call: its arguments' buffers are given away."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.before: Callable[..., None] | None = None

    def __call__(self, *args: Any) -> Any:
        if self.before is not None:
            self.before(*args)
        return self.original(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def shapes_of(values: Any) -> Any:
    """``values`` with a shape and a dtype in the place of each array."""
    import jax

    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x, values
    )
