"""What figures say: intervals, ratios, paired differences, drift."""
