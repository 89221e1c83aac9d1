"""JAX under Keras."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax._src.core import trace_ctx

from halfstep.keras.backends.base import Backend
from halfstep.keras.recording.sample import Sample

if TYPE_CHECKING:
    from halfstep.keras.loops.base import OwnLoop, Parts


class Jax(Backend):
    """Compiled programs without state."""

    name = "jax"
    title = "JAX"
    version = str(jax.__version__)
    functional = True

    def device(self) -> str:
        platform = str(jax.default_backend())
        return "cuda" if platform == "gpu" else platform

    def accelerators(self) -> list[tuple[str, tuple[int, ...] | None]]:
        return [(str(d.device_kind), _capability(d)) for d in jax.devices() if d.platform != "cpu"]

    def set_tf32(self, on: bool) -> None:
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if on else "float32")

    def sample(self) -> Sample:
        from halfstep.keras.recording.products_jax import ProgramSample

        return ProgramSample()

    def own_loop(self, parts: Parts) -> OwnLoop:
        from halfstep.keras.loops.jax import JaxLoop

        return JaxLoop(parts)

    def all_finite(self, grads: Any) -> Any:
        """Also of a tree of gradients."""
        leaves = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(g.dtype, jnp.floating)]
        return functools.reduce(jnp.logical_and, [jnp.isfinite(g).all() for g in leaves], jnp.bool_(True))

    def trace(self) -> Any:
        return trace_ctx.trace

    def wait_for(self, value: Any) -> None:
        """JAX hands out arrays before they are computed, so that a clock would time the dispatch."""
        jax.block_until_ready(value)


def _capability(device: Any) -> tuple[int, ...] | None:
    text = str(getattr(device, "compute_capability", ""))
    return tuple(map(int, text.split("."))) if text.replace(".", "").isdigit() else None
