"""Loops that train: Keras's own, and those of a script on each backend."""
