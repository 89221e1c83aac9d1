"""The words that both wings use: what ran, what is absent, what a format causes; counts, and text made safe to show."""
