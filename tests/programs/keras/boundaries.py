"""What enters a model, and what it returns: ids and data in a float input, probabilities, losses of the script's own."""
import keras
import numpy as np
from keras import layers, ops

#: tracing takes longest, but JAX compiles each operation of an eager step
EAGER = keras.backend.backend() != "jax"
IDS = [300, 301, 4097, 12345]


class Words(layers.Layer):
    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(20000, 1)

    def call(self, x):
        return self.table(x)


class Whole(keras.Model):
    def __init__(self):
        super().__init__()
        self.words = Words()

    def call(self, x):
        return self.words(x)


def on_the_way(x):
    """Through layers that compute nothing in 16 bits."""
    x = layers.Reshape((1, 1))(x)
    x = layers.Lambda(lambda t: t + 0.0)(layers.Flatten()(x))
    return layers.Embedding(20000, 1)(layers.Concatenate()([x, x])[:, :1])


def functional(make):
    inputs = keras.Input((1,))
    return keras.Model(inputs, make(inputs))


def rows(model):
    """The rows of a table that a step has changed."""
    model.compile("sgd", "mse", run_eagerly=EAGER)
    model(np.zeros((1, 1), "float32"))
    before = model.get_weights()[0]
    model.fit(np.array(IDS)[:, None], np.ones((4, 1, 1)), verbose=0)
    return np.flatnonzero(model.get_weights()[0] != before).tolist()


spread = layers.TimeDistributed(layers.Embedding(20000, 1))
facts = {
    "rows": {
        "layer": rows(functional(Words())),
        "subclass": rows(Whole()),
        "on the way": rows(functional(on_the_way)),
        "sequential": rows(keras.Sequential([keras.Input((1,)), Words()])),
        "time": rows(functional(lambda x: spread(x[:, :, None])[:, 0])),
    }
}

near = np.array([[1000.5], [1001.25]], "float32")
scaled = keras.Sequential([keras.Input((1,)), layers.Normalization(mean=1000.0, variance=1.0)])
facts["normalised"] = np.array(scaled.predict(near, verbose=0)).ravel().tolist()
rescaled = functional(layers.Rescaling(1 / 256))
facts["rescaled"] = np.array(rescaled.predict(near, verbose=0)).ravel().tolist()

rng = np.random.default_rng(0)
x = (4 * rng.normal(size=(4, 16))).astype("float32")
inputs = keras.Input((16,))
logits = layers.Dense(500)(inputs)
model = keras.Model(inputs, {"logits": logits, "p": layers.Softmax()(logits), "q": layers.Activation("sigmoid")(logits)})
outer = keras.Model(inputs, {"deep": layers.Dense(2)(model(inputs)["logits"])})
outputs = {name: ops.convert_to_numpy(value) for name, value in model(x).items()}
facts["outputs"] = {name: value.tolist() for name, value in outputs.items()}
facts["dtypes"] = sorted({
    *(str(value.dtype) for value in outputs.values()),
    *(str(value.dtype) for value in model.predict(x, verbose=0).values()),
    str(ops.convert_to_numpy(outer(x)["deep"]).dtype),
    str(ops.convert_to_numpy(layers.Dense(3)(x)).dtype),
})
np.random.choice(500, p=outputs["p"][0])
facts["inside"] = model.layers[1].compute_dtype
