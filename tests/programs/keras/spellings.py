"""Every name by which a policy can be set in TensorFlow, and what a layer made after it has."""
import keras
import tensorflow as tf
from tensorflow.keras import mixed_precision

SET = {
    "from tensorflow.keras import mixed_precision": mixed_precision.set_global_policy,
    "set_dtype_policy there": mixed_precision.set_dtype_policy,
    "tf.keras.mixed_precision": tf.keras.mixed_precision.set_global_policy,
    "tf.keras.config": tf.keras.config.set_dtype_policy,
    "keras.mixed_precision": keras.mixed_precision.set_global_policy,
}
facts = {}
for name, set_policy in SET.items():
    for policy in ("mixed_bfloat16", tf.keras.mixed_precision.Policy("float32")):
        set_policy(policy)
        facts[f"{name} {getattr(policy, 'name', policy)}"] = tf.keras.layers.Dense(1).dtype_policy.name
mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD())
