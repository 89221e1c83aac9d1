"""Writes a run's record: step times, samples, profiles."""
