"""Calls everything that a takeover has replaced by Keras's own names of arguments, and by names that Keras leaves free.

``facts["names"]`` are the replacements whose arguments have other names than those of what they replace.
"""
import gc
import inspect
import types

import keras

from halfstep.takeover.patches import Patches


class Named(keras.layers.Layer):
    """Its ``call`` has arguments with the names of halfstep's own."""

    def call(self, inputs, layer=0, original=0, array=0):
        return inputs + layer + original + array


def chain(function):
    """``function`` and all that it wraps."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def renamed(wrapper):
    """Whether a wrapper takes other names than what it wraps, or takes a name that a caller may have for his own."""
    if not isinstance(wrapper, types.FunctionType):
        return False
    own = list(inspect.signature(wrapper, follow_wrapped=False).parameters.values())
    wrapper_names = wrapper.__code__.co_varnames[: wrapper.__code__.co_argcount]
    theirs = list(inspect.signature(wrapper).parameters)
    free = any(p.kind is p.VAR_KEYWORD for p in own) and wrapper.__code__.co_posonlyargcount == 0
    return theirs[1 : len(wrapper_names)] != list(wrapper_names[1:]) or (
        free and bool(wrapper_names) and wrapper_names[:1] != tuple(theirs[:1])
    )


patched = {
    (replaced.owner, replaced.name)
    for patches in gc.get_objects()
    if type(patches) is Patches
    for replaced in patches._replaced
    if getattr(replaced.owner, "__module__", getattr(replaced.owner, "__name__", "")).startswith(("keras", "tensorflow", "jax"))
}
facts = {
    "names": sorted(
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, name in patched
        for function in chain(vars(owner).get(name))
        if renamed(function)
    ),
    "scale": keras.optimizers.LossScaleOptimizer(inner_optimizer=keras.optimizers.SGD()).initial_scale,
    "input": keras.layers.InputLayer((4,), None, "float32").dtype,
    "layer": float(Named()(keras.ops.ones(1), layer=1, original=2, array=3)[0]),
}
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    twice = tf.function(lambda function, original: function * original)
    facts["function"] = float(twice(function=tf.constant(2.0), original=tf.constant(3.0)))
if keras.backend.backend() == "jax":
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    weights, others, state = (
        [v.value for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    )
    result, _ = model.stateless_call(
        trainable_variables=weights, non_trainable_variables=others, inputs=keras.ops.ones((1, 1))
    )
    new, _ = optimizer.stateless_apply(optimizer_variables=state, grads=weights, trainable_variables=weights)
    facts["stateless"] = [float(result[0, 0]), float(new[0][0, 0])]
