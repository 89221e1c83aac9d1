"""Rounding to a format, in C where there is a compiler."""
