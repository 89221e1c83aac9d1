"""Products in formats that this machine has not, and another device's autocast lists."""
