"""An LSTM of 4 units over 5 steps of 3 features, two rows at a time."""
import keras
import numpy as np

model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(1, dtype="float32")])
model.compile("sgd", "mse")
X = np.ones((8, 5, 3), "float32")
model.fit(X, X[:, 0, :1], batch_size=2, verbose=0)
