"""16-bit products in fp32 units."""
