"""What a run leaves of itself: step times, samples, profiles."""
