"""Trials on the machines of a Ray cluster; only :mod:`~halfstep.comparison.cluster.ray_cluster` imports Ray."""
