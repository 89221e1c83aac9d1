"""Weights that a program holds in 16 bits: under a recipe with fp32 weights they are widened before they are used."""
