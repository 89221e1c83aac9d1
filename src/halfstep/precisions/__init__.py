"""Formats of numbers, recipes made of them, the loss scale, and exact rounding."""
