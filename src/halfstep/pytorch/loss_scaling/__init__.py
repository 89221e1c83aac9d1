"""The loss scale: backward passes, steps, skips, ranks, and the GradScaler for loops written by hand."""
