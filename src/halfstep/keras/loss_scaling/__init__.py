"""The loss scale of Keras's optimizers, and what a skipped step leaves as it was."""
