"""What differs between Keras's backends: a class for each of TensorFlow, JAX and PyTorch."""

from __future__ import annotations

from importlib import import_module

from halfstep.errors import Unsupported
from halfstep.keras.backends.base import Backend

#: Keras's name of a backend, which is also the name of its file -> the class in that file
_CLASSES = {"tensorflow": "TensorFlow", "jax": "Jax", "torch": "PyTorch"}


def running() -> Backend:
    """The backend that Keras runs on in this process."""
    import keras

    return named(str(keras.backend.backend()))


def named(name: str) -> Backend:
    """The backend with this name; only its own framework is imported.

    Raises:
        Unsupported: halfstep has no class for it.
    """
    if name not in _CLASSES:
        raise Unsupported(
            f"Keras runs on {name} here, where halfstep cannot put a precision into force; set "
            "KERAS_BACKEND to tensorflow, torch or jax."
        )
    backend: Backend = getattr(import_module(f"{__name__}.{name}"), _CLASSES[name])()
    return backend
