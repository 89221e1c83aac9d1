"""The same training, written with and without 16 bits of the script's own; and models read from files of 16 bits."""
import sys
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(sys.argv[1]).parent
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 4, 32)
#: tracing takes longest, but JAX compiles each operation of an eager step
EAGER = keras.backend.backend() != "jax"
LOSS = keras.losses.SparseCategoricalCrossentropy


class Scale(keras.layers.Layer):
    """A weight of the script's own, in the dtype that it asks for."""

    def __init__(self, weight=None, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", dtype=self.weight)

    def call(self, x):
        return x * self.scale


def make(dtype=None, weight=None, data=None):
    inputs = keras.Input((8,), dtype=data)
    x = keras.layers.Dense(16, activation="relu", dtype=dtype)(inputs)
    x = Scale(weight, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(4, dtype="float32")(x))


def trained(loss=None, **dtypes):
    """Losses of four steps and the weights after them, to the last bit."""
    keras.utils.set_random_seed(0)
    model = make(**dtypes)
    model.compile(keras.optimizers.Adam(1e-2), LOSS(from_logits=True, dtype=loss), run_eagerly=EAGER)
    losses = model.fit(X, Y, batch_size=8, verbose=0, shuffle=False).history["loss"]
    return [*losses, *(float(np.sum(np.abs(w.astype("float64")))) for w in model.get_weights())]


def told(tell, value):
    """The same after the script has set something for all of its layers; put back where halfstep lets it through."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    tell(value)
    result = trained()
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
    return result


def saved(name, dtype):
    model = make(dtype, None if dtype is None else dtype.removeprefix("mixed_"))
    model.save(FOLDER / f"{name}.keras")
    model.save_weights(FOLDER / f"{name}.weights.h5")
    return values(model)


def values(model):
    return [np.array(w, "float32").tolist() for w in model.get_weights()]


def loaded(name):
    by_weights = make()
    by_weights.load_weights(FOLDER / f"{name}.weights.h5")
    model = keras.saving.load_model(FOLDER / f"{name}.keras", custom_objects={"Scale": Scale})
    kinds = {str(w.dtype) for m in (model, by_weights) for w in m.weights if "float" in str(w.dtype)}
    policies = {layer.name.rstrip("_0123456789"): layer.dtype_policy.name for layer in model.layers[1:]}
    return {"values": [values(model), values(by_weights)], "dtypes": sorted(kinds), "policies": policies}


FILES = {"bfloat16": "bfloat16", "float16": "float16", "mixed": "mixed_bfloat16"}
facts = {}
if not (FOLDER / "small.keras").exists():
    facts["saved"] = {name: saved(name, dtype) for name, dtype in FILES.items()}
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(4)(inputs)).save(FOLDER / "small.keras")
else:
    facts["loaded"] = {name: loaded(name) for name in FILES}
    facts["small"] = keras.saving.load_model(FOLDER / "small.keras").layers[-1].dtype_policy.name
    facts["plain"] = trained()
    facts["the same"] = {
        "text": trained(dtype="mixed_bfloat16"),
        "fp16 text": trained(dtype="float16"),
        "policy": trained(dtype=keras.DTypePolicy("mixed_float16")),
        "add_weight": trained(weight="bfloat16"),
        "data": trained(data="float16"),
        "loss": trained(loss="float16"),
        "set_floatx": told(keras.config.set_floatx, "bfloat16"),
        "set_dtype_policy": told(keras.config.set_dtype_policy, "mixed_float16"),
    }
    quantised = keras.layers.Dense(4, dtype=keras.dtype_policies.get("int8_from_mixed_bfloat16"))
    facts["quantised"] = quantised.dtype_policy.name
    facts["variable"] = str(keras.Variable(np.ones(2, "float16")).dtype)
    keras.config.set_dtype_policy("float64")
    facts["float64"] = keras.layers.Dense(1).compute_dtype
