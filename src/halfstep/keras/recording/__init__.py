"""What a record holds of a training in Keras."""
