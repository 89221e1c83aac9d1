"""A small network, compiled and fitted. Lines to adopt go in place of the comment."""
import keras
import numpy as np

# adopted: the policy

keras.utils.set_random_seed(0)
X, Y = np.random.normal(size=(12, 8)).astype("float32"), np.random.normal(size=(12, 1)).astype("float32")
inputs = keras.Input((4, 4, 1))
x = keras.layers.Conv2D(4, 3)(inputs)
x = keras.layers.Flatten()(x)
outputs = keras.layers.Dense(1, dtype="float32")(x)
model = keras.Model(inputs, outputs)
model.compile(optimizer="sgd", loss="mse")
model.fit(np.repeat(X, 2, axis=1).reshape(12, 4, 4, 1), Y, batch_size=4, verbose=0)
