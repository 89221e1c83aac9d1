"""Numbers drawn after seeding every way that there is; the seeds are 7 and more by the first argument."""
import random
import sys

import keras
import numpy as np

plus = int(sys.argv[1])
keras.utils.set_random_seed(7 + plus)
print(random.random(), np.random.rand(), float(keras.random.uniform(())))
print(float(keras.initializers.GlorotUniform()((1, 1))[0, 0]))
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.random.set_seed(7 + plus)
    print(float(tf.random.uniform(())))
    tf.keras.utils.set_random_seed(8 + plus)
    print(random.random(), float(tf.random.uniform(())))
else:
    import jax

    print(jax.random.key_data(jax.random.PRNGKey(7 + plus)), jax.random.key_data(jax.random.key(7 + plus)))
