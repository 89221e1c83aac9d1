"""A watched run's numbers: histograms by layer, and where what is not finite began."""
