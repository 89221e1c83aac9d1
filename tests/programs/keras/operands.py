"""TensorFlow: tensors of 16 bits that a layer is given meet the script's own float32 in one operation."""
import keras
import numpy as np
import tensorflow as tf
from keras import layers

WIDE = tf.constant(np.linspace(-1, 1, 16).reshape(4, 4), tf.float32)
ROW = tf.constant([0.1, 0.2, 0.3, 0.7])
KEPT = tf.Variable(np.zeros(4), dtype=tf.float32)

#: by name: an operation with x, (batch, 4), in 16 bits, and what it is in NumPy
OPERATIONS = {
    "mul": (lambda x: x * ROW, lambda x: x * ROW.numpy()),
    "rmul": (lambda x: tf.sqrt(ROW) * x, lambda x: np.sqrt(ROW.numpy()) * x),
    "rsub": (lambda x: ROW - x, lambda x: ROW.numpy() - x),
    "div": (lambda x: ROW / (x + 4), lambda x: ROW.numpy() / (x + 4)),
    "matmul": (lambda x: x @ WIDE, lambda x: x @ WIDE.numpy()),
    "einsum": (lambda x: tf.einsum("bi,ij->bj", x, WIDE), lambda x: x @ WIDE.numpy()),
    "where": (lambda x: tf.where(x > 0, x, ROW), lambda x: np.where(x > 0, x, ROW.numpy())),
    "greater": (lambda x: tf.cast(x > ROW, tf.float32), lambda x: 1.0 * (x > ROW.numpy())),
    "concat": (lambda x: tf.concat([x, tf.ones(tf.shape(x))], 1), lambda x: np.concatenate([x, np.ones_like(x)], 1)),
    "stack": (lambda x: tf.stack([x, tf.ones(tf.shape(x))], 1), lambda x: np.stack([x, np.ones_like(x)], 1)),
    "add_n": (lambda x: tf.add_n([x, tf.ones(tf.shape(x))]), lambda x: x + 1),
    "maximum": (lambda x: tf.maximum(x, ROW), lambda x: np.maximum(x, ROW.numpy())),
    "difference": (lambda x: tf.math.squared_difference(x, ROW), lambda x: (x - ROW.numpy()) ** 2),
    "mask": (lambda x: x * tf.cast(x > 0, tf.float32), lambda x: x * (x > 0)),
    "variable": (lambda x: KEPT + x, lambda x: x),
    "assign": (lambda x: KEPT.assign(tf.reduce_mean(x, 0)), lambda x: x.mean(0)),
    "while": (lambda x: tf.while_loop(lambda n, h: n < 2, lambda n, h: (n + 1, x), (0, tf.zeros((4, 4))))[1], lambda x: x),
    "map": (lambda x: tf.map_fn(lambda row: x[0], WIDE), lambda x: np.tile(x[:1], (4, 1))),
    "scan": (lambda x: tf.scan(lambda last, row: x[0], WIDE, initializer=ROW), lambda x: np.tile(x[:1], (4, 1))),
    "cond": (lambda x: tf.cond(tf.reduce_sum(ROW) > 99, lambda: WIDE, lambda: x), lambda x: x),
    "array": (lambda x: tf.TensorArray(tf.float32, 2).write(0, x).write(1, x).stack(), lambda x: np.stack([x, x])),
    "sum": (lambda x: sum([tf.reduce_sum(ROW), tf.reduce_sum(x)]), lambda x: ROW.numpy().sum() + x.sum()),
}


class Own(layers.Layer):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def call(self, x):
        return self.operation(x)


x = (np.random.default_rng(0).integers(-16, 17, (4, 4)) / 8).astype("float32")
narrow = keras.config.dtype_policy().compute_dtype
facts = {"found": {}, "exact": {}}
for name, (operation, exact) in OPERATIONS.items():
    given = tf.cast(x, narrow)
    KEPT.assign(tf.zeros(4))
    eager = operation(given)
    KEPT.assign(tf.zeros(4))
    traced = tf.function(operation)(given)
    facts["found"][name] = [np.array(eager, "float64").tolist(), np.array(traced, "float64").tolist()]
    facts["exact"][name] = np.array(exact(x.astype("float64"))).tolist()
    assert eager.dtype == traced.dtype == tf.float32, name

inputs = keras.Input((8,))
hidden = layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")(inputs)
model = keras.Model(inputs, layers.Dense(1)(Own(lambda t: t * tf.random.normal(tf.shape(t)))(hidden)))
model.compile("sgd", "mse")
facts["fit"] = model.fit(np.ones((8, 8)), np.ones((8, 1)), batch_size=4, verbose=0).history["loss"]
optimizer = keras.optimizers.SGD(0.01)


@tf.function
def step(data):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(data, training=True) - tf.ones((4, 1))) ** 2)
        loss += sum(model.losses)
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return loss


facts["tape"] = step(tf.ones((4, 8))).dtype.name
