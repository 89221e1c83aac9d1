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

if keras.backend.backend() == "jax":
    import jax

    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    def loss_of(trained, others, x, y):
        found, others = model.stateless_call(trained, others, x, training=True)
        return keras.ops.mean((found - y) ** 2), others

    @jax.jit
    def step(trained, others, variables, x, y):
        print("traced")
        (loss, others), grads = jax.value_and_grad(loss_of, has_aux=True)(trained, others, x, y)
        trained, variables = optimizer.stateless_apply(variables, grads, trained)
        return loss, (trained, others, variables)

    state = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)]
    for _ in range(3):
        loss, state = step(*state, X, Y)
        print(float(loss).hex())
    print([float(keras.ops.sum(w)).hex() for w in state[0]], type(step).__name__ != "", step.lower(*state, X, Y) is not None)
