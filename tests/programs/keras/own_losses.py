"""Training whose loss Keras is not told: a train_step that logs it by a word of its own."""
import keras
import numpy as np

BACKEND = keras.backend.backend()
X, Y = np.ones((8, 4), "float32"), np.zeros((8, 1), "float32")


class Own(keras.Sequential):
    """A train_step as people write it, with a word of its own for the loss."""

    if BACKEND == "tensorflow":

        def train_step(self, data):
            import tensorflow as tf

            x, y = data[:2]
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((self(x, training=True) - keras.ops.convert_to_tensor(y)) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"error": loss}

    elif BACKEND == "torch":

        def train_step(self, data):
            import torch

            x, y = data[:2]
            self.zero_grad()
            loss = keras.ops.mean((self(x, training=True) - keras.ops.convert_to_tensor(y)) ** 2)
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in self.trainable_variables], self.trainable_variables)
            return {"error": loss.detach()}

    else:

        def train_step(self, state, data):
            import jax

            x, y = data[:2]
            trained, others, variables, metrics = state

            def loss_of(trained, others):
                found, others = self.stateless_call(trained, others, x, training=True)
                return keras.ops.mean((found - y) ** 2), others

            (loss, others), grads = jax.value_and_grad(loss_of, has_aux=True)(trained, others)
            trained, variables = self.optimizer.stateless_apply(variables, grads, trained)
            return {"error": loss}, (trained, others, variables, metrics)


keras.utils.set_random_seed(0)
model = Own([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.01))
facts = [float(model.train_on_batch(X, Y, return_dict=True)["error"]) for _ in range(3)]
