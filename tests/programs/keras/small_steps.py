"""Steps under a precision without a loss scale, with a scaler of the script's own as well: it has to rest."""
import keras
import numpy as np
from linear import BACKEND, DATA, Linear, OwnStep, X, Y, one_step

policy = keras.config.dtype_policy().name
own = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0**40)
facts = {
    "policy": policy,
    "data": DATA,
    "one_step": {
        "compile": one_step(Linear),
        "own train_step": one_step(OwnStep),
        "own LossScaleOptimizer": one_step(Linear, own),
    },
    "scale": float(own.dynamic_scale),
}
bad = np.where(np.arange(len(X))[:, None] == 0, np.inf, X).astype("float32")
model = Linear()
model(X)
model.compile("sgd", "mse")
before = model.get_weights()
model.train_on_batch(bad, Y)
facts["unchanged_by_a_bad_step"] = all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))

if BACKEND == "tensorflow":
    import tapes

    facts["tapes"] = {"x": tapes.X.tolist(), "y": tapes.Y.tolist(), "linear": tapes.linear_gradient()}
