"""Trains a small network on handwritten digits with TensorFlow: the loop by hand, a GradientTape in a tf.function.

The data are scikit-learn's copy of the UCI digits: 1797 images of 8 x 8 pixels, nothing to download.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def load_data():
    """(images, labels) to train on and to validate with: (N, 64), from 0 to 1, and (N,)."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    x_train, x_val, y_train, y_val = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_val, y_val)


def make_model(width, n_classes=10):
    """Images, (B, 64) -> logits, (B, 10)."""
    return tf.keras.Sequential(
        [
            tf.keras.Input((64,)),
            tf.keras.layers.Dense(width),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.ReLU(),
            tf.keras.layers.Dense(width, activation="relu"),
            tf.keras.layers.Dense(n_classes, dtype="float32"),
        ]
    )


class Training:
    """A model, its optimizer, and one step of training as a graph."""

    def __init__(self, width, lr, max_norm):
        self.model = make_model(width)
        self.optimizer = tf.keras.optimizers.SGD(lr, momentum=0.9, nesterov=True)
        self.optimizer.build(self.model.trainable_variables)
        self.loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.max_norm = max_norm

    @tf.function
    def step(self, images, labels):
        """Returns the batch's loss. images: (B, 64), labels: (B,)."""
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss(labels, self.model(images, training=True))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), self.max_norm)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    def evaluate(self, images, labels):
        """The loss and the share of right answers."""
        logits = self.model(images, training=False)
        accuracy = np.mean(logits.numpy().argmax(axis=1) == labels)
        return float(self.loss(labels, logits)), accuracy


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--max-norm", type=float, default=1.0, help="gradients are clipped to this norm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="save here; resume if there is one")
    return parser.parse_args()


def main():
    args = parse_args()
    tf.keras.utils.set_random_seed(args.seed)
    (train_images, train_labels), (val_images, val_labels) = load_data()
    training = Training(args.width, args.lr, args.max_norm)

    epoch = tf.Variable(0, trainable=False)
    saver = tf.train.Checkpoint(model=training.model, optimizer=training.optimizer, epoch=epoch)
    manager = tf.train.CheckpointManager(saver, args.checkpoint, max_to_keep=1) if args.checkpoint else None
    if manager and manager.restore_or_initialize():
        print(f"resumed from {args.checkpoint} after epoch {int(epoch)}")

    batches = tf.data.Dataset.from_tensor_slices((train_images, train_labels))
    while int(epoch) < args.epochs:
        order = batches.shuffle(len(train_labels), seed=args.seed + int(epoch))
        losses = [training.step(x, y) for x, y in order.batch(args.batch_size, drop_remainder=True)]
        epoch.assign_add(1)
        if manager:
            manager.save()
        loss, accuracy = np.mean(losses), training.evaluate(val_images, val_labels)[1]
        print(f"epoch {int(epoch):3d}  loss {loss:.4f}  validation accuracy {accuracy:.2%}")

    loss, accuracy = training.evaluate(val_images, val_labels)
    print(f"validation loss {loss:.4f}, accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
