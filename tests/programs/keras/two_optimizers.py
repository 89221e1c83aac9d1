"""A train_step with two optimizers of its own beside the one that compile was given, as a GAN has them."""
import keras
import numpy as np
from linear import BACKEND

keras.utils.set_random_seed(0)


class Two(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(2, use_bias=False), keras.layers.Dense(1, use_bias=False, dtype="float32")]

    def call(self, x, training=False):
        return self.parts[1](self.parts[0](x))

    def compile(self, optimizers, **kwargs):
        super().compile(**kwargs)
        self.optimizers = optimizers

    def train_step(self, data):
        x, y = map(keras.ops.convert_to_tensor, data[:2])
        for part, optimizer in zip(self.parts, self.optimizers):
            variables = part.trainable_variables
            optimizer.apply(self.gradients_of(x, y, variables), variables)
        return {"loss": keras.ops.mean((self(x) - y) ** 2)}

    def gradients_of(self, x, y, variables):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            return tape.gradient(loss, variables)
        self.zero_grad()
        ((self(x, training=True) - y) ** 2).mean().backward()
        return [v.value.grad for v in variables]


def values(model):
    variables = [*model.weights, *(v for optimizer in model.optimizers for v in optimizer.variables)]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


x, y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")
bad = x.copy()
bad[0, 0] = np.inf
model = Two()
model(x)
model.compile([keras.optimizers.SGD(0.1, momentum=0.9) for _ in range(2)], loss="mse")
model.train_on_batch(x, y)
before = values(model)
model.train_on_batch(bad, y)
facts = {"unchanged_by_a_bad_step": [bool(np.array_equal(a, b)) for a, b in zip(before, values(model))]}
for _ in range(5):
    model.train_on_batch(x, y)
facts["unchanged_by_good_steps"] = [bool(np.array_equal(a, b)) for a, b in zip(before, values(model))]
