"""Trains a small residual network on handwritten digits with Keras: compile, fit, evaluate.

    KERAS_BACKEND=jax python examples/keras_digits.py      # or tensorflow, or torch

The data are scikit-learn's copy of the UCI digits: 1797 images of 8 x 8 pixels, nothing to download.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def load_data():
    """(images, labels) to train on and to validate with: (N, 8, 8, 1) of mean 0 and variance 1, and (N,)."""
    digits = load_digits()
    images = digits.images[..., None].astype("float32")  # (1797, 8, 8, 1), from 0 to 16
    images = (images - images.mean()) / images.std()
    train, val = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0
    )
    return (images[train], digits.target[train]), (images[val], digits.target[val])


def conv(x, channels, stride=1):
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def residual_block(x, channels, stride):
    y = layers.ReLU()(conv(x, channels, stride))
    y = conv(y, channels)
    if stride > 1:
        x = layers.BatchNormalization()(layers.Conv2D(channels, 1, strides=stride, use_bias=False)(x))
    return layers.ReLU()(layers.add([x, y]))


def make_model(width, n_classes=10):
    """Images, (B, 8, 8, 1) -> the classes' probabilities, (B, 10)."""
    images = keras.Input((8, 8, 1))
    x = layers.ReLU()(conv(images, width))
    x = residual_block(x, width, stride=1)  # (B, 8, 8, width)
    x = residual_block(x, 2 * width, stride=2)  # (B, 4, 4, 2 width)
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(n_classes, name="head")(x)
    # Whatever the policy, probabilities and their logarithms are for float32.
    return keras.Model(images, layers.Softmax(dtype="float32")(logits))


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small residual network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate at the start; it falls to 0")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE.keras", help="save here; go on if it exists")
    return parser.parse_args()


def main():
    args = parse_args()
    keras.utils.set_random_seed(args.seed)
    (train_images, train_labels), (val_images, val_labels) = load_data()

    if args.checkpoint and args.checkpoint.exists():
        model = keras.models.load_model(args.checkpoint)
        print(f"goes on from {args.checkpoint}")
    else:
        model = make_model(args.width)
        steps = args.epochs * -(-len(train_images) // args.batch_size)  # the last batch may be short
        model.compile(
            optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(args.lr, steps)),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    print(
        f"{model.count_params() / 1e3:.0f}k parameters on {keras.backend.backend()}, {len(train_images)} digits"
    )

    callbacks = [keras.callbacks.ModelCheckpoint(args.checkpoint)] if args.checkpoint else []
    model.fit(
        train_images,
        train_labels,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=(val_images, val_labels),
        callbacks=callbacks,
        verbose=2,
    )
    loss, accuracy = model.evaluate(val_images, val_labels, verbose=0)
    print(f"validation loss {loss:.4f}, accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
