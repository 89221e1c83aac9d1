"""A comparison as a reader sees it: in the terminal, and as one page of HTML.

Everything is drawn from the object that `halfstep compare --json` writes.
"""
