"""The numbers of a watched run: histograms by layer, and where values first were not finite."""
