"""Two replicas on one CPU: the losses of an epoch, which are the mean of its steps."""
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
keras.utils.set_random_seed(0)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
history = model.fit(x, x[:, :1], batch_size=16, verbose=0, shuffle=False).history
print(history["loss"][0].hex(), [float(keras.ops.sum(w).numpy()).hex() for w in model.trainable_variables])
