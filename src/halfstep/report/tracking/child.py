"""The process that writes to a tracker: ``python -m … child TRACKER PLACE`` reads the comparison from stdin, as JSON.

It prints one line: how to see what was written. On an error it ends with the exception's message on stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from halfstep import codec
from halfstep.report.tracking.runs import Tracked


def main() -> None:
    """Import the tracker, make its folder, and write what stdin holds; an empty object only checks that this works."""
    name, place = sys.argv[1:]
    sent = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # stdout is for the answer, so a tracker prints to stderr
    if ":" not in place or os.path.isabs(place):
        os.makedirs(os.path.join(place, ""), exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            sys.exit(f"{place!r} is a folder that may not be written")
    try:
        tracker = importlib.import_module(f"halfstep.report.tracking.{name}")
        seen = tracker.write(codec.read(Tracked, sent), place) if sent else ""
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    print(seen, file=answer, flush=True)


if __name__ == "__main__":
    main()
