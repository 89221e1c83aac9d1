"""The loss scale: backward passes, steps, skipped steps, and gradients of several ranks."""
