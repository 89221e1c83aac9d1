"""fit, train_on_batch and (on TensorFlow) a tape, in a script that sets a policy itself if asked to: exact figures."""
import sys

import keras
import numpy as np

if "mixed" in sys.argv:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 1)).astype("float32")

model = keras.Sequential([
    keras.Input((6,)),
    keras.layers.Dense(8, activation="tanh"),
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.2),
    keras.layers.Dense(1, dtype="float32"),
])
model.compile(optimizer="adam", loss="mse", metrics=["mae"])
history = model.fit(X, Y, batch_size=8, epochs=2, validation_split=0.25, verbose=0).history
print({name: [float(v).hex() for v in values] for name, values in history.items()})
print([float(v).hex() for v in model.train_on_batch(X, Y)])
print([float(keras.ops.sum(w)).hex() for w in model.weights if "seed" not in w.path])
print(keras.config.dtype_policy().name, type(model.optimizer).__name__, sorted(model.train_on_batch(X, Y, return_dict=True)))

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    optimizer = tf.keras.optimizers.Adam()

    @tf.function
    def step(x, y):
        print("traced")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    print([float(step(X, Y)).hex() for _ in range(3)])
