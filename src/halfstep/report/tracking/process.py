"""Sends a comparison to a tracker in a separate process, so that the comparison is safe whatever happens there.

A tracker's package starts threads and services, handles signals and the end of the process, and reads dozens of
variables. A separate process keeps all that out of this one, which may be a notebook.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfstep import codec
from halfstep.codec import JsonObject
from halfstep.errors import HalfstepError, UsageError
from halfstep.processes import exit_words, join_words
from halfstep.program.child import command
from halfstep.report.tracking.trackers import Target, environment
from halfstep.words.safe_text import clean

#: seconds that a tracker is given: one that waits for a server longer has failed
LIMIT = 1800.0


class NotTracked(HalfstepError):
    """A comparison could not be sent to a tracker."""


def check(target: Target, out: Path) -> None:
    """Check before any trial that a tracker works: import its package, and make its folder.

    Raises:
        UsageError: its package cannot be imported, or its folder not written.
    """
    try:
        _answer(target, out, {})
    except _Failed as failed:
        name = target.tracker.name
        raise UsageError(
            f"--track {name} does not work here ({failed}); fix that, or leave it out."
        ) from None


def track(target: Target, comparison: Mapping[str, Any], folder: Path, page: Path | None) -> str:
    """Send the object that ``--json`` writes to a tracker.

    Args:
        target: which tracker, and where it writes.
        comparison: the object.
        folder: of the comparison.
        page: its page; None where it could not be drawn.

    Returns:
        How to see it: a command or an address.

    Raises:
        NotTracked: it could not be sent, whatever the reason.
    """
    from halfstep.report.tracking.runs import tracked  # here: it brings rich, for the table

    name = target.tracker.name
    # An address may hold a password, and goes into no message.
    given = "..." if "@" in target.given else target.given
    where = f"{name}={given}" if given else name
    again = f"`{join_words(['halfstep', 'report', str(folder), '--track', where])}` sends it again"
    try:
        return _answer(target, folder, codec.write(tracked(comparison, folder, page)))
    except _Failed as failed:
        why = str(failed)
    except KeyboardInterrupt:
        why = "interrupted by Ctrl-C"
    raise NotTracked(f"The comparison was not sent to {name} ({why}); {again}.")


class _Failed(Exception):
    """Why the process failed."""


def _answer(target: Target, out: Path, sent: JsonObject) -> str:
    """The answer of the process to what it is sent; an empty object only checks that it works."""
    place = target.place(out)
    words = command("-m", "halfstep.report.tracking.child", target.tracker.name, place)
    try:
        done = subprocess.run(
            words,
            input=json.dumps(sent),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment(target.tracker, place),
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _Failed(f"it had not ended after {LIMIT:.0f} s") from None
    except OSError as error:
        raise _Failed(f"its process could not be started: {error.strerror}") from None
    answer = done.stdout.splitlines()[-1:]
    if done.returncode == 0 and answer:
        return clean(answer[0])
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = clean(lines[-1])[:300] if lines else ""
    if done.returncode == 1 and said:  # the message of the process itself
        raise _Failed(said)
    raise _Failed(f"its process ended with {exit_words(done.returncode)}{said and f', and printed {said!r}'}")
