"""Where 16-bit arithmetic is in force: around models, in the regions of a framework, or in the script's own."""
