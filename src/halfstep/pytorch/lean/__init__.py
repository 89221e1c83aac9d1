"""16-bit weights that lose nothing: a bf16 number and a signed 16-bit remainder are together an fp32 number."""
