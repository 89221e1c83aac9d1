"""halfstep: run any training script in any numerical precision, unmodified; compare the precisions on it."""

__version__ = "0.1.0"
