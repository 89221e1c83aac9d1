"""A layer in the middle passes fp16's range; what is behind it saturates, so that its gradients are fp32's."""

import keras
import numpy as np

keras.utils.set_random_seed(0)
inputs = keras.Input((8,))
x = keras.layers.Dense(16, activation="tanh", name="first")(inputs)
large = keras.initializers.RandomNormal(stddev=2e4)
x = keras.layers.Dense(16, activation="tanh", name="large", kernel_initializer=large)(x)
model = keras.Model(inputs, keras.layers.Dense(1, name="last")(x))
model.compile(keras.optimizers.SGD(0.01), "mse")
data = np.random.rand(128, 8).astype("float32") + 0.5
model.fit(data, data[:, :1], batch_size=32, epochs=1, shuffle=False, verbose=0)
