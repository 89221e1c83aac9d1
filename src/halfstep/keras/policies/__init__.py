"""Which layers, variables and operations compute in 16 bits, and what the script gets back from them."""
