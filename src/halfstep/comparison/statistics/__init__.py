"""The statistics of a comparison: intervals, ratios, paired differences, drift."""
