"""A perceptron of TensorFlow's own operations, trained by an optimizer of Keras's: no layer, no model."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

random = np.random.default_rng(0)
x, y = (tf.constant(random.standard_normal((64, n)), tf.float32) for n in (8, 1))
weights = [tf.Variable(0.3 * random.standard_normal(shape), dtype=tf.float32) for shape in ((8, 16), (16, 1))]
optimizer = tf.keras.optimizers.SGD(0.05)
for _ in range(12):
    with tf.GradientTape() as tape:
        predicted = tf.matmul(tf.nn.tanh(tf.matmul(x, weights[0])), weights[1])
        loss = tf.reduce_mean((predicted - y) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
