"""Trials on the machines of a Ray cluster; no other folder imports Ray."""
