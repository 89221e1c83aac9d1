"""What a program sees of itself under fp16, on the backend of KERAS_BACKEND: one JSON object on the last line."""
import json

import keras
import numpy as np
from linear import DATA, Linear, OwnStep, X, Y, one_step

#: drawn weights overflow fp16 in one of ten runs: a unit that is constant over 4 rows has its gradient times 32
keras.utils.set_random_seed(0)
facts = {"policy": keras.config.dtype_policy().name}
keras.mixed_precision.set_global_policy("mixed_bfloat16")
keras.config.set_dtype_policy("float32")
facts["policy_after_the_scripts_own"] = keras.config.dtype_policy().name
BACKEND = keras.backend.backend()


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def same(before, after):
    return [bool(np.array_equal(a, b)) for a, b in zip(before, after)]


def state_of(model):
    """Weights, BatchNormalization's statistics and optimizer slots; not the scale, its counter and the seeds."""
    scaler = model.optimizer
    inner = getattr(scaler, "inner_optimizer", scaler)
    return values([*model.trainable_variables, *model.non_trainable_variables, *inner.variables])


inputs = keras.Input((4,))
x = keras.layers.Dense(8, activation="relu")(inputs)
x = keras.layers.BatchNormalization()(x)
x = keras.layers.Dense(8, name="kept_layer")(x)
outputs = keras.layers.Dense(1, dtype="float32", name="own_dtype")(x)
model = keras.Model(inputs, outputs)
facts["dtypes"] = {layer.name: [layer.compute_dtype, layer.variable_dtype] for layer in model.layers[1:]}
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse", metrics=["mae"])
model.optimizer.beta_1 = 0.5
own = model.optimizer
facts["optimizer"] = [type(own).__name__, isinstance(own, keras.optimizers.Adam), own.beta_2, own.inner_optimizer.beta_1]
own.beta_1 = 0.9
history = model.fit(X, Y, batch_size=4, epochs=2, validation_data=(X, Y), verbose=0, shuffle=False)
facts["history"] = history.history
facts["scale_after_fit"] = float(model.optimizer.dynamic_scale)

before = state_of(model)
bad = X.copy()
bad[0, 0] = np.inf
model.train_on_batch(bad, Y)
facts["unchanged_by_a_bad_step"] = same(before, state_of(model))
facts["scale_after_a_bad_step"] = float(model.optimizer.dynamic_scale)
model.train_on_batch(X, Y)
facts["unchanged_by_a_good_step"] = same(before, state_of(model))

facts["one_step"] = one_step(Linear)
facts["one_step_own"] = one_step(OwnStep)

if BACKEND == "tensorflow":
    import tapes

    facts["tapes"] = tapes.facts()
if BACKEND == "torch":
    import torch_loops

    facts["loops"] = [torch_loops.bad_step(own) for own in (False, True)]
facts["data"] = DATA
print(json.dumps(facts))
