"""A PyTorch loop of a script's own with an optimizer of Keras's, under fp16."""
import keras
import numpy as np
import torch
from tapes_data import X, Y


def snapshot(model, optimizer):
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return [np.array(keras.ops.convert_to_numpy(v)) for v in [*model.variables, *inner.variables]]


def same(before, after):
    return [bool(np.array_equal(a, b)) for a, b in zip(before, after)]


def bad_step(own):
    """What a batch that overflows leaves as it was, after a good one; ``own``: the script scales by itself."""
    model = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1, dtype="float32"),
    ])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    if own:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    losses = []

    def step(x):
        model.zero_grad()
        loss = ((model(x, training=True) - torch.tensor(Y)) ** 2).mean()
        (optimizer.scale_loss(loss) if own else loss).backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss.detach()))
        return max(float(g.abs().max()) for g in gradients)

    largest = step(X)
    before = snapshot(model, optimizer)
    bad = X.copy()
    bad[0, 0] = np.inf
    step(bad)
    unchanged = same(before, snapshot(model, optimizer))
    step(X)
    return {
        "unchanged_by_a_bad_step": unchanged,
        "unchanged_by_a_good_step": same(before, snapshot(model, optimizer)),
        "losses": losses,
        "largest_gradient": largest,
    }
