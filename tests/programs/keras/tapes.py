"""TensorFlow loops of a script's own under fp16, eager and as graphs."""
import numpy as np
import tensorflow as tf
from tapes_data import X, Y


def make():
    model = tf.keras.Sequential([
        tf.keras.Input((4,)),
        tf.keras.layers.Dense(8, activation="relu"),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.Dense(1, dtype="float32"),
    ])
    return model, tf.keras.optimizers.SGD(0.1, momentum=0.9)


def snapshot(model, optimizer):
    return [np.array(v) for v in [*model.variables, *optimizer.variables]]


def same(before, after):
    return [bool(np.array_equal(a, b)) for a, b in zip(before, after)]


def step_of(model, optimizer):
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss, gradients

    return step


def bad_step(wrap):
    """What a batch that overflows leaves as it was, after a good one; and what the script sees."""
    model, optimizer = make()
    step = wrap(step_of(model, optimizer))
    loss, gradients = step(X, Y)
    before = snapshot(model, optimizer)
    bad = X.copy()
    bad[0, 0] = np.inf
    step(bad, Y)
    unchanged = same(before, snapshot(model, optimizer))
    step(X, Y)
    return {
        "unchanged_by_a_bad_step": unchanged,
        "unchanged_by_a_good_step": same(before, snapshot(model, optimizer)),
        "loss": float(loss),
        "largest_gradient": max(float(tf.reduce_max(tf.abs(g))) for g in gradients),
    }


def many_steps_in_a_graph():
    model, optimizer = make()
    step = step_of(model, optimizer)

    @tf.function
    def train(n):
        last = tf.constant(0.0)
        for _ in tf.range(n):
            last = step(X, Y)[0]
        return last

    optimizer.build(model.trainable_variables)
    return [float(train(tf.constant(3))), float(train(tf.constant(2)))]


def linear_gradient():
    """The gradient of a linear model as the script sees it, with an optimizer that scales by itself and without."""
    found = []
    for own in (False, True):
        layer = tf.keras.layers.Dense(1, use_bias=False)
        layer.build((None, 4))
        layer.set_weights([np.ones((4, 1), "float32")])
        optimizer = tf.keras.optimizers.SGD(1.0)
        if own:
            optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=64.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.cast(layer(X), tf.float32) - Y) ** 2)
            scaled = optimizer.scale_loss(loss) if own else loss
        gradients = tape.gradient(scaled, layer.trainable_variables)
        optimizer.apply(gradients, layer.trainable_variables)
        found.append((1 - layer.get_weights()[0]).ravel().tolist())
    return found


def facts():
    return {
        "x": X.tolist(),
        "y": Y.tolist(),
        "linear": linear_gradient(),
        "eager": bad_step(lambda step: step),
        "graph": bad_step(tf.function),
        "many": many_steps_in_a_graph(),
    }
