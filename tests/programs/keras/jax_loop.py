"""JAX loops of a script's own: compiled, inside a scan, step by step, with a scaler of the script's, and no optimizer."""
import jax
import keras
import numpy as np
from linear import DATA, W, X, Y
from tapes_data import X as BATCH
from tapes_data import Y as TARGETS

keras.utils.set_random_seed(0)
squares = keras.losses.MeanSquaredError()


def arrays(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def same(before, after):
    return [bool(np.array_equal(a, b)) for a, b in zip(before, after)]


def network(optimizer, own=False):
    """(step, state): one compiled step of a network with running statistics, and what it starts from."""
    model = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1, dtype="float32"),
    ])
    optimizer.build(model.trainable_variables)

    def loss_of(trained, others, variables, x, y):
        found, others = model.stateless_call(trained, others, x, training=True)
        loss = squares(y, found)
        if own:
            with keras.StatelessScope(list(zip(optimizer.variables, variables))):
                loss = optimizer.scale_loss(loss)
        return loss, others

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    @jax.jit
    def step(state, x, y):
        trained, others, variables = state
        (loss, others), grads = gradient(trained, others, variables, x, y)
        trained, variables = optimizer.stateless_apply(variables, grads, trained)
        return (trained, others, variables), loss, grads

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    return step, tuple([v.value for v in group] for group in groups)


def bad_step(own):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    if own:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    step, state = network(optimizer, own)
    state, loss, grads = step(state, BATCH, TARGETS)
    bad = BATCH.copy()
    bad[0, 0] = np.inf
    after, _, _ = step(state, bad, TARGETS)
    good, _, _ = step(after, BATCH, TARGETS)
    first = 4 if own else 0  # the scale and its counter move; its own learning rate and count mean nothing
    kept = [(*s[:2], s[2][first:]) for s in (state, after, good)]
    before, after, good = map(arrays, kept)
    return {
        "unchanged_by_a_bad_step": same(before, after),
        "unchanged_by_a_good_step": same(before, good),
        "loss": float(loss),
        "largest_gradient": max(float(abs(g).max()) for g in grads),
    }


def scan():
    """Three steps inside of one program; their losses."""
    step, state = network(keras.optimizers.SGD(0.01))

    @jax.jit
    def steps(state):
        return jax.lax.scan(lambda s, _: step(s, BATCH, TARGETS)[:2], state, None, length=3)

    return np.array(steps(state)[1]).tolist()


def linear():
    """The gradient of a linear model as the script sees it, and the weights after a step without a program."""
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 4))
    layer.set_weights([W])

    def loss_of(trained):
        return squares(Y, layer.stateless_call(trained, [], X)[0])

    (gradient,) = jax.grad(loss_of)([v.value for v in layer.trainable_variables])
    keras.optimizers.SGD(1.0).apply([gradient], layer.trainable_variables)
    return np.array(gradient).ravel().tolist(), layer.get_weights()[0].ravel().tolist()


facts = {"plain": bad_step(False), "scan": scan(), "linear": linear(), "data": DATA}
policy = keras.config.dtype_policy().name
if policy == "mixed_float16":
    facts["own"] = bad_step(True)
