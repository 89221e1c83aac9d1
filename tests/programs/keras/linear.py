"""A linear model, and one step of its training: small enough for a bound on every rounding in it."""
import keras
import numpy as np

BACKEND = keras.backend.backend()
rng = np.random.default_rng(0)


def halves(*shape):
    """Multiples of 1/8 between -2 and 2: exact in fp16 and in bf16."""
    return (rng.integers(-16, 17, shape) / 8).astype("float32")


X, Y, W = halves(16, 4), halves(16, 1), halves(4, 1)
DATA = {"x": X.tolist(), "y": Y.ravel().tolist(), "w": W.ravel().tolist()}


class Linear(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, use_bias=False)

    def call(self, x, training=False):
        return self.dense(x)


class OwnStep(Linear):
    """A train_step as people write it: no word of scale_loss."""

    if BACKEND == "tensorflow":

        def train_step(self, data):
            import tensorflow as tf

            x, y = data[:2]
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(grads, self.trainable_variables)
            return {"loss": loss}

    elif BACKEND == "jax":

        def loss_of(self, trainable, others, x, y):
            y_pred, others = self.stateless_call(trainable, others, x, training=True)
            return self.compute_loss(x, y, y_pred), others

        def train_step(self, state, data):
            import jax

            trainable, others, variables, metrics = state
            gradient = jax.value_and_grad(self.loss_of, has_aux=True)
            (loss, others), grads = gradient(trainable, others, *data[:2])
            trainable, variables = self.optimizer.stateless_apply(variables, grads, trainable)
            return {"loss": loss}, (trainable, others, variables, metrics)

    else:

        def train_step(self, data):
            import torch

            x, y = data[:2]
            self.zero_grad()
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            loss.backward()
            grads = [v.value.grad for v in self.trainable_variables]
            with torch.no_grad():
                self.optimizer.apply(grads, self.trainable_variables)
            return {"loss": loss}


def one_step(make, optimizer=None, **kwargs):
    """The weights after one step of plain SGD with learning rate 1 from W on (X, Y), squared errors."""
    model = make()
    model(X)
    model.dense.set_weights([W])
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), loss="mse", **kwargs)
    model.train_on_batch(X, Y)
    return model.dense.get_weights()[0].ravel().tolist()
