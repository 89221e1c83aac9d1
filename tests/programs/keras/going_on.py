"""Goes on from a model that an earlier program saved, if there is one, makes three steps and saves it, also as HDF5."""
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

warnings.simplefilter("error", UserWarning)  # Keras's word for slots that it drops
SAVED = Path(sys.argv[1]).with_name("model.keras")


def make():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, activation="relu", name="hidden")(inputs)
    more = keras.layers.Dense(3, activation="relu", name="more")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32", name="head")(more))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.MeanSquaredError())
    return model


def state(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [np.array(keras.ops.convert_to_numpy(v)).tolist() for v in [*model.weights, *optimizer.variables]]


model = keras.saving.load_model(SAVED) if SAVED.exists() else make()
facts = {"policies": {layer.name: layer.dtype_policy.name for layer in model.layers[1:]}, "found": state(model)}
if SAVED.exists():
    facts["found in HDF5"] = state(keras.saving.load_model(SAVED.with_suffix(".h5")))[:6]
rng = np.random.default_rng(0)
for _ in range(3):
    model.train_on_batch(rng.normal(size=(8, 4)).astype("float32"), np.ones((8, 1), "float32"))
for path in (SAVED, SAVED.with_suffix(".h5")):
    model.save(path)
facts["left"] = state(model)
