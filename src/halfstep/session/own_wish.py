"""A script that asks for a precision by itself, while ``halfstep run`` runs it in the precision of the command."""

from __future__ import annotations

from collections.abc import Callable

from halfstep.errors import UsageError
from halfstep.precisions.recipes import parse
from halfstep.record import NullWriter, Writer
from halfstep.session.frameworks import Frameworks
from halfstep.session.settings import AUTO, Settings, say
from halfstep.session.stop import Stop


class OwnWish:
    """The script's own wish: the command's precision overrides it; under ``as-is`` it is followed.

    Args:
        follow: puts the script's wish into force.
    """

    def __init__(
        self,
        frameworks: Frameworks,
        writer: Writer | NullWriter,
        stop: Stop,
        follow: Callable[[Settings], None],
    ) -> None:
        self._frameworks = frameworks
        self._writer = writer
        self._stop = stop
        self._follow = follow
        self._asked: Settings | None = None
        self._rules = False
        self._yielded: set[str] = set()

    def enabled(self, asked: Settings) -> None:
        """The script calls ``halfstep.enable``; under ``as-is`` its first wish is followed."""
        call = f"halfstep.enable({asked.precision!r})"
        if self._asked is not None:
            if asked != self._asked:
                self.changed(call)
            return
        self._asked = asked
        asks = parse(asked.precision).compute if asked.precision != AUTO else None
        self._writer.write("own_amp", what="halfstep.enable", **({} if asks is None else {"asks": asks}))
        if self._frameworks.as_is:
            self._rules = True
            self._follow(asked)
        else:
            self.changed(call)

    def changed(self, call: str) -> None:
        """The script changes its precision by ``call``: halfstep does not follow, and says so once.

        Raises:
            UsageError: the script's own wish is what runs, and it has a second one, which no record can hold.
        """
        if self._rules or self._frameworks.as_is:
            error = UsageError(
                f"The program changes its precision by {call}, and a record is of one precision; run it with python, "
                "or name a precision with --precision."
            )
            self._stop.halt(error)
            raise error
        if call not in self._yielded:
            self._yielded.add(call)
            say(f"the program's own {call} yields to --precision {self._frameworks.name}")
