"""Products in formats that this machine lacks, and another device's autocast lists."""
