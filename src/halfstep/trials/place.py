"""Where a trial runs when others run at the same time: on which cores or device; and how it is made to end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from halfstep.processes import pin_thread
from halfstep.trials.process import Tree


@dataclass(frozen=True)
class Place:
    """A part of the machine."""

    #: variables for a trial; the user's own environment wins
    environment: Mapping[str, str] = field(default_factory=dict)
    #: variables for a trial that win over the user's own
    forced: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()  #: the processors that it runs on; empty for all that this process may use

    def around(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of a trial that runs here."""
        return {**self.environment, **environment, **self.forced}

    def enter(self) -> None:
        """Move this thread here: the processes that it starts begin on these processors."""
        if self.cores:
            pin_thread(self.cores)


#: the whole machine
ANYWHERE = Place()


class Stop:
    """Ends trials that run in other threads: the first :meth:`tell` asks them to end, the second kills them.

    Attributes:
        at_once: whether :meth:`tell` was called a second time.
    """

    def __init__(self) -> None:
        self._by = ""
        self.at_once = False
        self._marks: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, by: str) -> None:
        """End the trials; ``by`` is who ends them, and becomes part of each reason."""
        if not self._by:
            self._by = by
            return
        self.at_once = True
        with self._lock:
            marks = list(self._marks)
        for mark in marks:
            Tree(None, mark).kill()

    def check(self) -> None:
        """Called by a trial's thread again and again.

        Raises:
            KeyboardInterrupt: the trial has to end; the argument is who ends it.
        """
        if self._by:
            raise KeyboardInterrupt(self._by)

    def begin(self, mark: str) -> None:
        """A trial with this mark has begun."""
        with self._lock:
            self._marks.add(mark)

    def ended(self, mark: str) -> None:
        """It has ended."""
        with self._lock:
            self._marks.discard(mark)
