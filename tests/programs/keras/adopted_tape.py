"""A loop with a GradientTape in a tf.function. Lines to adopt go in place of the comments."""
import tensorflow as tf
from tensorflow import keras

# adopted: the policy

tf.keras.utils.set_random_seed(0)
inputs, targets = tf.random.normal((4, 8)), tf.random.normal((4, 1))
model = tf.keras.Sequential(
    [tf.keras.Input((8,)), tf.keras.layers.Dense(4, "tanh"), tf.keras.layers.Dense(1, dtype="float32")]
)
loss_fn = tf.keras.losses.MeanSquaredError()
optimizer = tf.keras.optimizers.SGD(0.1)
# adopted: the optimizer


@tf.function
def step(inputs, targets):
    # adopted: the step
    with tf.GradientTape() as tape:
        loss = loss_fn(targets, model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    # adopted: until here


first = [v.numpy() for v in model.trainable_variables]
for _ in range(24):  # a scaler may start by skipping some
    step(inputs, targets)
assert not any((a == b.numpy()).all() for a, b in zip(first, model.trainable_variables)), "it learns"
