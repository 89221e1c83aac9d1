"""Puts a recipe into force in Keras 3, on TensorFlow, PyTorch or JAX, and in TensorFlow loops with a GradientTape."""
