"""Multiples of 1/8 between -2 and 2: exact in fp16."""
import numpy as np

rng = np.random.default_rng(1)
X = (rng.integers(-16, 17, (16, 4)) / 8).astype("float32")
Y = (rng.integers(-16, 17, (16, 1)) / 8).astype("float32")
