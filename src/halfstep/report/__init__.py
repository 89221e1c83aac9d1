"""Shows comparisons and diagnoses: in the terminal, as one page of HTML, as Markdown, in notebooks and in trackers.

Everything is drawn from the objects that `--json` writes.
"""
