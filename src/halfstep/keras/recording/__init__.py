"""Counts the steps of a training in Keras, looks closely at one of them, and writes them to the record."""
