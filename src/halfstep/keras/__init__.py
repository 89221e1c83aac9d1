"""Puts a recipe into force in Keras 3, on TensorFlow, PyTorch or JAX, and in TensorFlow loops with a GradientTape."""

from __future__ import annotations

from halfstep.unseen_importlib_bootstrap import through_here

__path__ = through_here(__path__)
